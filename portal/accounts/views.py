"""Sign-in is Django's own; here are profile, tokens, projects, members and accounts."""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings
from django.contrib import messages
from django.contrib.auth import update_session_auth_hash
from django.contrib.auth.forms import PasswordChangeForm
from django.core.exceptions import PermissionDenied
from django.db.models import Count
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST

from portal.accounts import guard, second_factor, services
from portal.accounts.current import select_project
from portal.accounts.errors import AccountError
from portal.accounts.forms import MemberForm, ProfileForm, ProjectForm, TokenForm, UserForm
from portal.accounts.models import ApiToken, Membership, Project, Role, User
from portal.accounts.permissions import Action, may, role_in
from portal.accounts.requests import SignedIn


@require_http_methods(["GET", "POST"])
def profile(request: SignedIn) -> HttpResponse:
    form = ProfileForm(request.POST or None, instance=request.user)
    if request.method == "POST" and form.is_valid():
        form.save()
        messages.success(request, "Profile saved.")
        response = redirect("profile")
        response.set_cookie("theme", form.cleaned_data["theme"], max_age=365 * 24 * 3600, samesite="Lax")
        return response
    return _profile(request, form=form)


def _password_form(user: User, data=None) -> PasswordChangeForm:
    form = PasswordChangeForm(user, data)
    form.fields["old_password"].widget.attrs.pop("autofocus", None)  # it is one of several forms of the page
    return form


def _profile(request: SignedIn, secret: str = "", status: int = 200, **forms) -> HttpResponse:
    context = {
        "form": ProfileForm(instance=request.user),
        "token_form": TokenForm(request.user),
        "password_form": _password_form(request.user),
        "tokens": ApiToken.objects.filter(user=request.user).select_related("project").order_by("-id"),
        "memberships": Membership.objects.filter(user=request.user).select_related("project").order_by("project__name"),
        "secret": secret,
        "second_factor": second_factor.shown(request.user),
        **forms,
    }
    return render(request, "accounts/profile.html", context, status=status)


@require_POST
def theme(request: SignedIn) -> HttpResponse:
    if request.POST.get("theme") not in User.Theme.values:
        return HttpResponse("The theme is dark or light.", status=400, content_type="text/plain")
    services.set_theme(request.user, request.POST["theme"])
    return HttpResponse(status=204)


@sensitive_post_parameters()
@require_POST
def password(request: SignedIn) -> HttpResponse:
    form = _password_form(request.user, request.POST)
    if not form.is_valid():
        return _profile(request, password_form=form, status=422)
    services.change_password(form)
    update_session_auth_hash(request, form.user)
    messages.success(request, "Password changed. Other sessions are signed out.")
    return redirect("profile")


@require_POST
def token_create(request: SignedIn) -> HttpResponse:
    form = TokenForm(request.user, request.POST)
    if not form.is_valid():
        return _profile(request, token_form=form, status=422)
    days = int(form.cleaned_data["expires"])
    expires_at = timezone.now() + timedelta(days=days) if days else None
    secret = services.issue_token(
        user=request.user,
        name=form.cleaned_data["name"],
        expires_at=expires_at,
        scope=form.cleaned_data["scope"],
        project=form.cleaned_data["project"],
    )
    return _profile(request, secret=secret)


@require_POST
def token_revoke(request: SignedIn, pk: int) -> HttpResponse:
    token = get_object_or_404(ApiToken, pk=pk, user=request.user)
    services.revoke_token(token)
    messages.success(request, f"Token “{token.name}” revoked.")
    return redirect("profile")


@require_http_methods(["GET", "POST"])
def projects(request: SignedIn) -> HttpResponse:
    form = ProjectForm(request.POST or None)
    if request.method == "POST":
        if not request.user.is_superuser:
            raise PermissionDenied
        if form.is_valid():
            project = services.create_project(by=request.user, **form.cleaned_data)
            select_project(request, project)
            messages.success(request, f"Project {project} made. Add members, then import images.")
            return redirect("project", slug=project.slug)
    rows = Project.objects.visible_to(request.user).annotate(
        members=Count("memberships", distinct=True), study_count=Count("studies", distinct=True)
    )
    roles = dict(Membership.objects.filter(user=request.user).values_list("project", "role"))
    listed = [(row, roles.get(row.pk, "administrator")) for row in rows]
    status = 422 if form.errors else 200
    return render(request, "accounts/projects.html", {"projects": listed, "form": form}, status=status)


@require_POST
def project_select(request: SignedIn) -> HttpResponse:
    slug = request.POST.get("project", "")
    project = get_object_or_404(Project.objects.visible_to(request.user), slug=slug) if slug else None
    select_project(request, project)
    target = request.POST.get("next", "")
    if not url_has_allowed_host_and_scheme(target, allowed_hosts={request.get_host()}):
        target = "home"
    return redirect(target)


def _managed(request: SignedIn, slug: str) -> Project:
    project = get_object_or_404(Project.objects.visible_to(request.user), slug=slug)
    if not may(request.user, Action.MANAGE, project):
        raise PermissionDenied
    return project


@require_POST
def member_set(request: SignedIn, slug: str) -> HttpResponse:
    """Add a member by user name, or give a member another role."""
    project = _managed(request, slug)
    form = MemberForm(request.POST)
    role = request.POST.get("role", "")
    if form.is_valid() and form.cleaned_data["username"] == request.user and _steps_down(request, project, role):
        return render(request, "accounts/step_down.html", {"project": project, "role": role}, status=422)
    if not form.is_valid():
        for errors in form.errors.values():
            messages.error(request, " ".join(str(error) for error in errors))
    else:
        member = form.cleaned_data["username"]
        try:
            services.set_role(project=project, user=member, role=Role(form.cleaned_data["role"]))
            messages.success(request, f"{member} is {form.cleaned_data['role']} of {project}.")
        except AccountError as error:
            messages.error(request, str(error))
    return redirect("project", slug=slug)


@require_POST
def member_remove(request: SignedIn, slug: str, pk: int) -> HttpResponse:
    project = _managed(request, slug)
    membership = get_object_or_404(project.memberships.select_related("user"), pk=pk)
    if membership.user == request.user and _steps_down(request, project, ""):
        return render(request, "accounts/step_down.html", {"project": project, "role": ""}, status=422)
    try:
        services.remove_member(project=project, user=membership.user)
        messages.success(request, f"{membership.user} is no longer a member.")
    except AccountError as error:
        messages.error(request, str(error))
    return redirect("project", slug=slug)


def _steps_down(request: SignedIn, project: Project, role: str) -> bool:
    """A manager is about to take the role from himself, and has not been asked yet."""
    if role == Role.MANAGER or request.POST.get("sure") == "yes" or request.user.is_superuser:
        return False
    return role_in(request.user, project) == Role.MANAGER and services.managers_of(project) > 1


def _administrator(request: SignedIn) -> None:
    if not request.user.is_superuser:
        raise PermissionDenied


@sensitive_post_parameters("password")
@require_http_methods(["GET", "POST"])
def users(request: SignedIn) -> HttpResponse:
    _administrator(request)
    form = UserForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        made = services.create_user(**form.cleaned_data)
        messages.success(request, f"Account {made.username} made. Give it a role on a project's page.")
        return redirect("users")
    accounts = User.objects.annotate(project_count=Count("memberships")).order_by("username")
    accounts = accounts.prefetch_related("memberships__project")
    locks = guard.locked_accounts(list(accounts))
    protected = second_factor.users_with_one()
    rows = [(account, locks.get(account.pk), account.pk in protected) for account in accounts]
    context = {
        "accounts": rows,
        "form": form,
        "addresses": guard.locked_addresses(),
        "second_factor": settings.SECOND_FACTOR != second_factor.OFF,
    }
    return render(request, "accounts/users.html", context, status=422 if form.errors else 200)


@require_POST
def user_unlock(request: SignedIn, pk: int) -> HttpResponse:
    _administrator(request)
    account = get_object_or_404(User, pk=pk)
    guard.unlock(account)
    messages.success(request, f"{account.username} may sign in again at once.")
    return redirect("users")


@require_POST
def address_unlock(request: SignedIn) -> HttpResponse:
    _administrator(request)
    guard.unlock_address(request.POST.get("address", "")[:45])
    messages.success(request, "Sign-ins from this address are possible again.")
    return redirect("users")


@require_POST
def second_factor_reset(request: SignedIn, pk: int) -> HttpResponse:
    _administrator(request)
    account = get_object_or_404(User, pk=pk)
    second_factor.reset(account)
    messages.success(request, f"{account.username} signs in with the password alone for now.")
    return redirect("users")


@require_POST
def user_active(request: SignedIn, pk: int) -> HttpResponse:
    _administrator(request)
    account = get_object_or_404(User, pk=pk)
    if account == request.user:
        messages.error(request, "Your own account cannot be deactivated by yourself. Ask another administrator.")
        return redirect("users")
    services.set_active(account, request.POST.get("active") == "yes")
    messages.success(request, f"{account.username} {'may sign in again' if account.is_active else 'is deactivated'}.")
    return redirect("users")
