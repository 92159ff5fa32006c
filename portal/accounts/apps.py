from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "portal.accounts"
    label = "accounts"

    def ready(self) -> None:
        from django.contrib.auth.signals import user_logged_in, user_logged_out
        from django.db.models.signals import post_delete, post_save

        from portal.accounts import signing

        # Django and django-allauth tell of every way in by these signals alone.
        user_logged_in.connect(signing.entered, dispatch_uid="audit")
        user_logged_out.connect(signing.left, dispatch_uid="audit")
        post_save.connect(signing.factor_saved, sender="mfa.Authenticator", dispatch_uid="audit")
        post_delete.connect(signing.factor_deleted, sender="mfa.Authenticator", dispatch_uid="audit")
