from django.apps import AppConfig


class DuplicatesConfig(AppConfig):
    name = "studies.duplicates"
    label = "duplicates"
