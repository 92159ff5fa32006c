"""Models, training, runs and jobs."""

from django.urls import URLPattern, URLResolver, path

from portal.workbench import (
    comparison_views,
    explanation_views,
    job_views,
    model_views,
    preprocessing_views,
    registry_views,
    run_views,
    training_views,
    tuning_views,
    validation_views,
)

urlpatterns: list[URLPattern | URLResolver] = [
    path("jobs/", job_views.jobs, name="jobs"),
    path("jobs/<int:pk>/", job_views.job, name="job"),
    path("jobs/<int:pk>/log/", job_views.job_log, name="job_log"),
    path("jobs/<int:pk>/cancel/", job_views.job_cancel, name="job_cancel"),
    path("jobs/<int:pk>/retry/", job_views.job_retry, name="job_retry"),
    path("jobs/<int:pk>/priority/", job_views.job_priority, name="job_priority"),
    path("jobs/<int:pk>/train/", tuning_views.job_train, name="job_train"),
    path("models/", model_views.models, name="models"),
    path("models/import/", registry_views.model_import, name="model_import"),
    path("models/ensembles/new/", registry_views.ensemble_create, name="ensemble_create"),
    path("models/production/", registry_views.production, name="production"),
    path("models/<int:pk>/roll-back/", registry_views.roll_back, name="roll_back"),
    path("models/<int:pk>/", model_views.model, name="model"),
    path("models/versions/<int:pk>/", model_views.version, name="version"),
    path("models/versions/<int:pk>/promote/", model_views.promote, name="promote"),
    path("training/new/", training_views.training_create, name="training_create"),
    path("training/settings/", tuning_views.tuning_create, name="tuning_create"),
    path("series/<int:pk>/preprocessing/", preprocessing_views.preprocessing_preview, name="preprocessing_preview"),
    path(
        "series/<int:pk>/preprocessing/<int:job>/<slug:side>-<int:number>.png",
        preprocessing_views.preprocessing_picture,
        name="preprocessing_picture",
    ),
    path(
        "cohorts/<int:pk>/preprocessing/",
        preprocessing_views.preprocessing_of_cohort,
        name="preprocessing_of_cohort",
    ),
    path("training/", comparison_views.training_runs, name="training_runs"),
    path("training/<int:pk>/toml/", comparison_views.training_toml, name="training_toml"),
    path("training/compare/", comparison_views.training_compare, name="training_compare"),
    path("training/compare/<str:extension>/", comparison_views.training_compare_export, name="training_compare_export"),
    path("training/check/", training_views.training_check_view, name="training_check"),
    path("training/against-traditional/", training_views.against_traditional, name="against_traditional"),
    path("cross-validations/<int:pk>/", validation_views.cross_validation, name="cross_validation"),
    path(
        "cross-validations/<int:pk>/<str:extension>/",
        validation_views.cross_validation_export,
        name="cross_validation_export",
    ),
    path("runs/new/", run_views.run_create, name="run_create"),
    path("predictions/<int:pk>/explain/", explanation_views.prediction_explain, name="prediction_explain"),
    path("evaluations/new/", run_views.evaluate_create, name="evaluate_create"),
]
