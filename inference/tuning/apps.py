from django.apps import AppConfig


class TuningConfig(AppConfig):
    name = "inference.tuning"
    label = "tuning"
