from django.urls import URLPattern, URLResolver, path

from portal.routing import dry_run_views, views

urlpatterns: list[URLPattern | URLResolver] = [
    path("routing/", views.rules, name="rules"),
    path("routing/new/", views.rule_create, name="rule_create"),
    path("routing/preview/", dry_run_views.preview_form, name="rule_preview"),
    path("routing/<int:pk>/", views.rule, name="rule"),
    path("routing/<int:pk>/edit/", views.rule_edit, name="rule_edit"),
    path("routing/<int:pk>/switch/", views.rule_switch, name="rule_switch"),
    path("routing/<int:pk>/move/", views.rule_move, name="rule_move"),
    path("routing/<int:pk>/delete/", views.rule_delete, name="rule_delete"),
    path("routing/<int:pk>/try/", dry_run_views.rule_try, name="rule_try"),
    path("routing/<int:pk>/run/", dry_run_views.rule_run, name="rule_run"),
    path("routing/routed/<int:pk>/resend/", views.routed_resend, name="routed_resend"),
]
