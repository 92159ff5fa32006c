from django.apps import AppConfig


class AuditConfig(AppConfig):
    name = "portal.accounts.audit"
    label = "audit"
