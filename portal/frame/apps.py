from django.apps import AppConfig


class FrameConfig(AppConfig):
    """What all pages share and no domain knows of: components, security headers, static files of libraries."""

    name = "portal.frame"
    label = "frame"
