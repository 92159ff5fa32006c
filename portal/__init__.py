"""The Django project and everything that people see."""

from portal.celery import app as celery_app

__all__ = ["celery_app"]
