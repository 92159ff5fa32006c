from allauth.account import views as allauth
from allauth.mfa.base import views as mfa
from allauth.mfa.recovery_codes import views as codes
from allauth.mfa.totp import views as totp
from django.contrib.auth import views as auth
from django.urls import path

from portal.accounts import sign_in, views
from portal.accounts.sign_in import where_used

urlpatterns = [
    path("login/", sign_in.SignIn.as_view(), name="login"),
    path("logout/", auth.LogoutView.as_view(), name="logout"),
    path("login/code/", where_used(mfa.authenticate), name="mfa_authenticate"),
    path("login/<slug:provider_id>/", sign_in.oidc, name="openid_connect_login"),
    path("login/<slug:provider_id>/callback/", sign_in.oidc_back, name="openid_connect_callback"),
    path("profile/", views.profile, name="profile"),
    path("profile/theme/", views.theme, name="theme"),
    path("profile/password/", views.password, name="password"),
    path("profile/tokens/", views.token_create, name="token_create"),
    path("profile/tokens/<int:pk>/revoke/", views.token_revoke, name="token_revoke"),
    path("profile/confirm/", where_used(allauth.reauthenticate), name="account_reauthenticate"),
    path("profile/confirm/code/", where_used(mfa.reauthenticate), name="mfa_reauthenticate"),
    path("profile/second-factor/", where_used(sign_in.to_profile), name="mfa_index"),
    path("profile/second-factor/on/", where_used(totp.activate_totp), name="mfa_activate_totp"),
    path("profile/second-factor/off/", where_used(totp.deactivate_totp), name="mfa_deactivate_totp"),
    path("profile/recovery-codes/", where_used(codes.view_recovery_codes), name="mfa_view_recovery_codes"),
    path("profile/recovery-codes/new/", where_used(codes.generate_recovery_codes), name="mfa_generate_recovery_codes"),
    path(
        "profile/recovery-codes/codes.txt",
        where_used(codes.download_recovery_codes),
        name="mfa_download_recovery_codes",
    ),
    path("projects/", views.projects, name="projects"),
    path("projects/select/", views.project_select, name="project_select"),
    path("projects/<slug:slug>/members/", views.member_set, name="member_set"),
    path("projects/<slug:slug>/members/<int:pk>/remove/", views.member_remove, name="member_remove"),
    path("users/", views.users, name="users"),
    path("users/<int:pk>/active/", views.user_active, name="user_active"),
    path("users/<int:pk>/unlock/", views.user_unlock, name="user_unlock"),
    path("users/<int:pk>/second-factor/", views.second_factor_reset, name="second_factor_reset"),
    path("users/addresses/unlock/", views.address_unlock, name="address_unlock"),
    # Names by which the library looks for the sign-in.
    path("login/", sign_in.SignIn.as_view(), name="account_login"),
]
