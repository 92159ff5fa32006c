from django.apps import AppConfig


class DemoConfig(AppConfig):
    """The demonstration: one project on which everything that the portal does was really run."""

    name = "portal.demo"
    label = "demo"
