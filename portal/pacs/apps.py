from django.apps import AppConfig


class PacsConfig(AppConfig):
    name = "portal.pacs"
    label = "pacs"
