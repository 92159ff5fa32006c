from django.urls import URLPattern, URLResolver, path

from portal.worklist import views

urlpatterns: list[URLPattern | URLResolver] = [
    path("studies/", views.studies, name="studies"),
    path("studies/<int:pk>/", views.study, name="study"),
    path("patients/<int:pk>/", views.patient, name="patient"),
]
