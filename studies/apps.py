import warnings

from django.apps import AppConfig


class StudiesConfig(AppConfig):
    name = "studies"
    label = "studies"

    def ready(self) -> None:
        # They quote values of the files that are read, names of patients among them, and end up in logs.
        warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
