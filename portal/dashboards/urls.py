from django.urls import path

from portal.dashboards import evaluation_views, views

urlpatterns = [
    path("", views.home, name="home"),
    path("search/", views.search, name="search"),
    path("projects/<slug:slug>/", views.project, name="project"),
    path("evaluations/", evaluation_views.evaluations, name="evaluations"),
    path("evaluations/<int:pk>/", evaluation_views.evaluation, name="evaluation"),
    path("evaluations/<int:pk>/cases.csv", evaluation_views.evaluation_cases, name="evaluation_cases"),
]
