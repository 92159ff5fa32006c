"""Campaigns, the reading page and its calls, and the DICOMweb root of each task."""

from django.urls import URLPattern, URLResolver, include, path, re_path

from portal.annotation import reading_views, views
from portal.annotation.task_scope import task_scope
from studies.dicomweb.urls import urls_for

urlpatterns: list[URLPattern | URLResolver] = [
    path("campaigns/", views.campaign_list, name="campaigns"),
    path("campaigns/new/", views.campaign_create, name="campaign_create"),
    path("campaigns/<int:pk>/", views.campaign, name="campaign"),
    path("campaigns/<int:pk>/agreement/", views.campaign_agreement, name="campaign_agreement"),
    path("campaigns/<int:pk>/readers/", views.campaign_readers, name="campaign_readers"),
    path("campaigns/<int:pk>/consensus/", views.campaign_consensus, name="campaign_consensus"),
    path("campaigns/<int:pk>/cases/<int:case>/", views.campaign_case, name="campaign_case"),
    re_path(r"^campaigns/(?P<pk>\d+)/reads\.(?P<extension>csv|json)$", views.campaign_export, name="campaign_export"),
    path("campaigns/<int:pk>/do/<slug:step>/", views.campaign_step, name="campaign_step"),
    path("reading/", views.my_reading, name="my_reading"),
    path("reading/next/<int:pk>/", reading_views.reading_next, name="reading_next"),
    path("reading/<int:pk>/", reading_views.reading_task, name="reading_task"),
    path("reading/<int:pk>/state/", reading_views.reading_state, name="reading_state"),
    path("reading/<int:pk>/draft/", reading_views.reading_draft, name="reading_draft"),
    path("reading/<int:pk>/submit/", reading_views.reading_submit, name="reading_submit"),
    path("reading/<int:pk>/skip/", reading_views.reading_skip, name="reading_skip"),
    path("reading/<int:pk>/flag/", reading_views.reading_flag, name="reading_flag"),
    path("dicomweb/tasks/<int:task>/", include(urls_for(task_scope))),
]
