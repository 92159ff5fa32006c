"""Paths with a file name are files; every other path below /viewer/ is OHIF's page (its router runs there)."""

from django.urls import URLPattern, URLResolver, path, re_path

from portal.viewer import views

urlpatterns: list[URLPattern | URLResolver] = [
    path("studies/<int:pk>/view/", views.open_study, name="open_study"),
    path("viewer/", views.start, name="viewer"),
    path("viewer/app-config.js", views.app_config, name="viewer_config"),
    path("viewer/p/<slug:slug>/app-config.js", views.app_config, name="viewer_project_config"),
    path("viewer/tasks/<int:task>/app-config.js", views.app_config, name="viewer_task_config"),
    path("viewer/results/<str:study_instance_uid>/", views.study_results, name="viewer_results"),
    path("viewer/p/<slug:slug>/results/<str:study_instance_uid>/", views.study_results, name="viewer_project_results"),
    re_path(r"^viewer/extension/(?P<digest>[0-9a-f]+)/(?P<name>[a-z][a-z-]*\.js)$", views.module, name="viewer_module"),
    re_path(r"^viewer/p/(?P<slug>[-\w]+)/(?P<rest>[^.]*)$", views.page, name="viewer_project_page"),
    re_path(r"^viewer/tasks/(?P<task>\d+)/(?P<rest>[^.]*)$", views.page, name="viewer_task_page"),
    re_path(r"^viewer/(?P<name>[^?]+\.\w+)$", views.asset, name="viewer_asset"),
    re_path(r"^viewer/(?P<rest>[^.]+)$", views.page, name="viewer_page"),
]
