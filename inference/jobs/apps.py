from django.apps import AppConfig


class JobsConfig(AppConfig):
    name = "inference.jobs"
    label = "jobs"
