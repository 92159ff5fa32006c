from django.apps import AppConfig


class CohortsConfig(AppConfig):
    name = "studies.cohorts"
    label = "cohorts"
