from django.apps import AppConfig


class ExplanationConfig(AppConfig):
    name = "inference.explanation"
    label = "explanation"
