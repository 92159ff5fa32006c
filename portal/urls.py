"""Every route of the portal, by area. Each area owns its own url module."""

from django.urls import include, path

urlpatterns = [
    path("", include("portal.runtime.urls")),  # /healthz /readyz
    path("", include("portal.accounts.urls")),  # login, profile, projects
    path("", include("portal.dashboards.urls")),  # home, evaluation
    path("", include("portal.worklist.urls")),  # studies, patients, upload, cohorts
    path("", include("portal.pacs.urls")),  # other imaging systems
    path("", include("portal.workbench.urls")),  # models, training, jobs
    path("", include("portal.routing.urls")),  # rules that run models when studies come in
    path("", include("portal.annotation.urls")),  # campaigns, reading, /dicomweb/tasks/
    path("", include("portal.trail.urls")),  # the audit trail
    path("", include("portal.demo.urls")),  # the demonstration
    path("", include("portal.viewer.urls")),  # OHIF under /viewer/
    path("dicomweb/", include("studies.dicomweb.urls")),
    path("api/", include("portal.api")),
]
