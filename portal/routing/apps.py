from django.apps import AppConfig


class RoutingPagesConfig(AppConfig):
    name = "portal.routing"
    label = "routing_pages"
