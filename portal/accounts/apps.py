from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "portal.accounts"
    label = "accounts"

    def ready(self) -> None:
        from django.contrib.auth.signals import user_logged_in, user_logged_out

        from portal.accounts import signing

        # Django tells of every way in by these signals alone.
        user_logged_in.connect(signing.entered, dispatch_uid="audit")
        user_logged_out.connect(signing.left, dispatch_uid="audit")
