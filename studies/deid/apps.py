from django.apps import AppConfig


class DeidConfig(AppConfig):
    name = "studies.deid"
    label = "deid"
