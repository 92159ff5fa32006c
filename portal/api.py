"""The REST API's routes; each domain keeps its own view sets."""

from django.urls import path
from drf_spectacular.views import SpectacularAPIView
from rest_framework.routers import DefaultRouter

from inference.jobs.api import JobViewSet
from studies.cohorts.api import CohortViewSet, ReferenceViewSet
from portal.annotation.api import CampaignViewSet

router = DefaultRouter()
router.register("cohorts", CohortViewSet, basename="api_cohort")
router.register("references", ReferenceViewSet, basename="api_reference")
router.register("jobs", JobViewSet, basename="api_job")
router.register("campaigns", CampaignViewSet, basename="api_campaign")

urlpatterns = [
    path("schema/", SpectacularAPIView.as_view(), name="api_schema"),
    *router.urls,
]
