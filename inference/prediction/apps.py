from django.apps import AppConfig


class PredictionConfig(AppConfig):
    name = "inference.prediction"
    label = "prediction"
