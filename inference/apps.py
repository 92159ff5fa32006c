from django.apps import AppConfig


class InferenceConfig(AppConfig):
    """Holds the commands; the models live in the apps below it."""

    name = "inference"
    label = "inference"
