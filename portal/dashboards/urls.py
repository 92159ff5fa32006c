from django.urls import path

from portal.dashboards import views

urlpatterns = [
    path("", views.home, name="home"),
    path("search/", views.search, name="search"),
    path("projects/<slug:slug>/", views.project, name="project"),
]
