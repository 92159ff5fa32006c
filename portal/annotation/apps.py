from django.apps import AppConfig


class AnnotationConfig(AppConfig):
    name = "portal.annotation"
    label = "annotation"
