"""Models, training, runs and jobs.

The views that work with networks are imported at their first request: PyTorch and MONAI take seconds to import, which
every start of the portal and every command would pay.
"""

from importlib import import_module

from django.http import HttpRequest, HttpResponseBase
from django.urls import URLPattern, URLResolver, path

from portal.workbench import job_views


def late(name: str):
    """The view `module.function` of this package, imported when it is asked for."""
    module, function = name.split(".")

    def view(request: HttpRequest, *arguments, **keywords) -> HttpResponseBase:
        return getattr(import_module(f"portal.workbench.{module}"), function)(request, *arguments, **keywords)

    return view


urlpatterns: list[URLPattern | URLResolver] = [
    path("jobs/", job_views.jobs, name="jobs"),
    path("jobs/<int:pk>/", job_views.job, name="job"),
    path("jobs/<int:pk>/log/", job_views.job_log, name="job_log"),
    path("jobs/<int:pk>/cancel/", job_views.job_cancel, name="job_cancel"),
    path("jobs/<int:pk>/retry/", job_views.job_retry, name="job_retry"),
    path("models/", late("model_views.models"), name="models"),
    path("models/<int:pk>/", late("model_views.model"), name="model"),
    path("models/versions/<int:pk>/", late("model_views.version"), name="version"),
    path("models/versions/<int:pk>/promote/", late("model_views.promote"), name="promote"),
    path("training/new/", late("training_views.training_create"), name="training_create"),
    path("runs/new/", late("run_views.run_create"), name="run_create"),
    path("evaluations/new/", late("run_views.evaluate_create"), name="evaluate_create"),
]
