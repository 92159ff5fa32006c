"""The REST API's routes; each domain keeps its own view sets."""

from django.urls import path
from drf_spectacular.views import SpectacularAPIView
from rest_framework.routers import DefaultRouter

from inference.jobs.api import JobViewSet

router = DefaultRouter()
router.register("jobs", JobViewSet, basename="api_job")

urlpatterns = [
    path("schema/", SpectacularAPIView.as_view(), name="api_schema"),
    *router.urls,
]
