from django.urls import URLPattern, path

from portal.trail import views

urlpatterns: list[URLPattern] = [
    path("audit/", views.audit, name="audit"),
    path("audit/export.csv", views.audit_export, name="audit_export"),
]
