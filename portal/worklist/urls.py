from django.urls import URLPattern, URLResolver, path

from portal.worklist import cohorts, leaving_views, quarantine, thumbnails, upload, views

urlpatterns: list[URLPattern | URLResolver] = [
    path("studies/", views.studies, name="studies"),
    path("studies/<int:pk>/", views.study, name="study"),
    path("studies/<int:pk>/leave/", leaving_views.study_leave, name="study_leave"),
    path("studies/<int:pk>/delete/", leaving_views.study_delete, name="study_delete"),
    path("studies/<int:pk>/move/", leaving_views.study_move, name="study_move"),
    path("studies/<int:pk>/thumbnail/", thumbnails.study_thumbnail, name="study_thumbnail"),
    path("series/<int:pk>/thumbnail/", thumbnails.series_thumbnail, name="series_thumbnail"),
    path("upload/", upload.upload, name="upload"),
    path("imports/<int:pk>/", upload.import_batch, name="import_batch"),
    path("quarantine/", quarantine.quarantine, name="quarantine"),
    path("quarantine/all/", quarantine.quarantine_all, name="quarantine_all"),
    path("quarantine/<int:pk>/", quarantine.refusal, name="refusal"),
    path("quarantine/<int:pk>/retry/", quarantine.refusal_retry, name="refusal_retry"),
    path("quarantine/<int:pk>/keep/", quarantine.refusal_keep, name="refusal_keep"),
    path("quarantine/<int:pk>/discard/", quarantine.refusal_discard, name="refusal_discard"),
    path("quarantine/<int:pk>/file/", quarantine.refusal_file, name="refusal_file"),
    path("patients/<int:pk>/", views.patient, name="patient"),
    path("cohorts/", cohorts.cohort_list, name="cohorts"),
    path("cohorts/new/", cohorts.cohort_create, name="cohort_create"),
    path("cohorts/<int:pk>/", cohorts.cohort, name="cohort"),
    path("cohorts/<int:pk>/freeze/", cohorts.cohort_freeze, name="cohort_freeze"),
    path("cohorts/<int:pk>/cases.csv", cohorts.cohort_export, name="cohort_export"),
    path("cohorts/<int:pk>/cases/<int:case>/remove/", cohorts.case_remove, name="case_remove"),
]
