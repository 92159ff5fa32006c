from django.apps import AppConfig


class TrainingConfig(AppConfig):
    name = "inference.training"
    label = "training"
