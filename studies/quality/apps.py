from django.apps import AppConfig


class QualityConfig(AppConfig):
    name = "studies.quality"
    label = "quality"
