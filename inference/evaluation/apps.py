from django.apps import AppConfig


class EvaluationConfig(AppConfig):
    name = "inference.evaluation"
    label = "evaluation"
