from django.apps import AppConfig


class DimseConfig(AppConfig):
    name = "studies.dimse"
    label = "dimse"
