from django.urls import URLPattern, URLResolver, path

from portal.pacs import views

urlpatterns: list[URLPattern | URLResolver] = [
    path("pacs/", views.pacs, name="pacs"),
    path("pacs/new/", views.node_create, name="node_create"),
    path("pacs/send/", views.send, name="pacs_send"),
    path("pacs/<int:pk>/", views.query, name="node_query"),
    path("pacs/<int:pk>/retrieve/", views.retrieve, name="node_retrieve"),
    path("pacs/<int:pk>/echo/", views.echo, name="node_echo"),
    path("pacs/<int:pk>/edit/", views.node_edit, name="node_edit"),
    path("pacs/<int:pk>/remove/", views.node_remove, name="node_remove"),
]
