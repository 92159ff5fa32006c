"""The REST API's routes; each domain keeps its own view sets."""

from django.urls import path
from drf_spectacular.views import SpectacularAPIView
from rest_framework.routers import DefaultRouter

from inference.evaluation.api import EvaluationViewSet
from inference.jobs.api import JobViewSet
from inference.prediction.api import PredictionViewSet
from inference.registry.api import ModelVersionViewSet, ModelViewSet
from inference.training.api import CrossValidationViewSet, TrainingRunViewSet
from inference.training.preview_api import PreviewViewSet
from inference.tuning.api import LearningRateViewSet, SettingsSearchViewSet
from portal.annotation.api import CampaignViewSet
from portal.pacs.api import NodeViewSet
from portal.routing.api import RoutedStudyViewSet, RoutingRuleViewSet
from portal.trail.api import AuditViewSet
from portal.worklist.export_api import ExportViewSet
from portal.worklist.leaving_api import StudiesViewSet
from studies.api import ImportViewSet, SeriesViewSet
from studies.cohorts.api import CohortViewSet, ReferenceViewSet
from studies.cohorts.clinical_api import PairViewSet, TableViewSet, ValueViewSet, VariableViewSet
from studies.refusal_api import RefusalViewSet

router = DefaultRouter()
router.register("studies", StudiesViewSet, basename="api_study")
router.register("series", SeriesViewSet, basename="api_series")
router.register("import", ImportViewSet, basename="api_import")
router.register("refusals", RefusalViewSet, basename="api_refusal")
router.register("nodes", NodeViewSet, basename="api_node")
router.register("cohorts", CohortViewSet, basename="api_cohort")
router.register("exports", ExportViewSet, basename="api_export")
router.register("references", ReferenceViewSet, basename="api_reference")
router.register("clinical-variables", VariableViewSet, basename="api_variable")
router.register("clinical-values", ValueViewSet, basename="api_value")
router.register("table-imports", TableViewSet, basename="api_table")
router.register("near-duplicates", PairViewSet, basename="api_pair")
router.register("jobs", JobViewSet, basename="api_job")
router.register("models", ModelViewSet, basename="api_model")
router.register("versions", ModelVersionViewSet, basename="api_version")
router.register("training-runs", TrainingRunViewSet, basename="api_training_run")
router.register("cross-validations", CrossValidationViewSet, basename="api_cross_validation")
router.register("preprocessing-previews", PreviewViewSet, basename="api_preview")
router.register("settings-searches", SettingsSearchViewSet, basename="api_settings_search")
router.register("learning-rates", LearningRateViewSet, basename="api_learning_rate")
router.register("predictions", PredictionViewSet, basename="api_prediction")
router.register("evaluations", EvaluationViewSet, basename="api_evaluation")
router.register("routing-rules", RoutingRuleViewSet, basename="api_rule")
router.register("routed-studies", RoutedStudyViewSet, basename="api_routed")
router.register("audit", AuditViewSet, basename="api_audit")
router.register("campaigns", CampaignViewSet, basename="api_campaign")

urlpatterns = [
    path("schema/", SpectacularAPIView.as_view(), name="api_schema"),
    *router.urls,
]
