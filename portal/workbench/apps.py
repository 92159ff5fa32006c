from django.apps import AppConfig


class WorkbenchConfig(AppConfig):
    name = "portal.workbench"
    label = "workbench"
