import re

import pytest
from django.urls import reverse

from portal.accounts import services
from portal.accounts.audit.models import AuditEvent
from portal.accounts.errors import AccountError
from portal.accounts.models import ApiToken, Membership, Project, Role, User
from tests.factories import ProjectFactory, UserFactory, member

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return ProjectFactory(slug="liver", name="Liver")


def test_every_page_asks_for_a_sign_in(client):
    response = client.get(reverse("home"))
    assert response.status_code == 302
    assert response["Location"] == "/login/?next=/"


def test_sign_in_and_out(client, project):
    user = member(project, Role.READER)
    response = client.post(reverse("login"), {"username": user.username, "password": "correct horse battery"})
    assert response.status_code == 302
    assert client.get(reverse("home")).status_code == 200
    client.post(reverse("logout"))
    assert client.get(reverse("home")).status_code == 302


def test_wrong_password_is_refused_without_saying_which_part_was_wrong(client, project):
    user = member(project)
    known = client.post(reverse("login"), {"username": user.username, "password": "x"}).content.decode()
    unknown = client.post(reverse("login"), {"username": "nobody", "password": "x"}).content.decode()
    assert "Not signed in" in known

    def clean(text):
        return re.sub(r'value="[^"]*"', "", text)

    assert clean(known) == clean(unknown)


def test_theme_is_kept_in_the_profile_and_rendered_without_a_flash(client, project):
    user = member(project)
    client.force_login(user)
    assert client.post(reverse("theme"), {"theme": "light"}).status_code == 204
    user.refresh_from_db()
    assert user.theme == "light"
    assert '<html lang="en" data-theme="light">' in client.get(reverse("profile")).content.decode()
    assert client.post(reverse("theme"), {"theme": "pink"}).status_code == 400


def test_a_cookie_cannot_inject_into_the_page(client):
    client.cookies["theme"] = '"><script>'
    assert '<html lang="en" data-theme="dark">' in client.get(reverse("login")).content.decode()


def test_profile_saves_names_and_shortcuts(client, project):
    user = member(project)
    client.force_login(user)
    client.post(reverse("profile"), {"first_name": "Rita", "last_name": "Reader", "email": "", "theme": "light"})
    user.refresh_from_db()
    assert (user.first_name, user.theme, user.single_key_shortcuts) == ("Rita", "light", False)
    assert 'data-shortcuts="off"' in client.get(reverse("profile")).content.decode()


def test_a_token_is_shown_once_works_and_is_revoked(client, project):
    user = member(project)
    client.force_login(user)
    page = client.post(reverse("token_create"), {"name": "notebook", "expires": "30", "scope": "full"})
    secret = re.search(r'value="([\w-]{40,})" aria-label="New token"', page.content.decode()).group(1)
    assert ApiToken.objects.get().digest == ApiToken.digest_of(secret)
    assert secret not in client.get(reverse("profile")).content.decode()
    client.logout()
    header = {"HTTP_AUTHORIZATION": f"Token {secret}"}
    assert client.get("/api/", **header).status_code == 200
    client.force_login(user)
    client.post(reverse("token_revoke", args=[ApiToken.objects.get().pk]))
    client.logout()
    assert client.get("/api/", **header).status_code == 401


def test_a_token_of_somebody_else_is_not_found(client, project):
    owner, other = member(project), member(project)
    services.issue_token(user=owner, name="mine")
    client.force_login(other)
    assert client.post(reverse("token_revoke", args=[ApiToken.objects.get().pk])).status_code == 404
    assert ApiToken.objects.count() == 1


def test_password_change_keeps_this_session_and_ends_others(client, project):
    from django.test import Client

    user = member(project)
    other = Client()
    client.force_login(user)
    other.force_login(user)
    new = "an even longer sentence"
    answers = {"old_password": "correct horse battery", "new_password1": new, "new_password2": new}
    assert client.post(reverse("password"), answers).status_code == 302
    assert client.get(reverse("home")).status_code == 200
    assert other.get(reverse("home")).status_code == 302


def test_a_weak_new_password_is_refused_with_the_reason(client, project):
    client.force_login(member(project))
    answers = {"old_password": "correct horse battery", "new_password1": "short", "new_password2": "short"}
    response = client.post(reverse("password"), answers)
    assert response.status_code == 422
    assert "at least 10 characters" in response.content.decode()


def test_only_an_administrator_makes_projects_and_manages_them_then(client):
    administrator = UserFactory(is_superuser=True)
    client.force_login(administrator)
    response = client.post(reverse("projects"), {"name": "Thorax", "slug": "thorax", "description": ""})
    assert response["Location"] == reverse("project", args=["thorax"])
    assert Membership.objects.get(project__slug="thorax").role == Role.MANAGER


def test_projects_page_lists_own_projects_only(client, project):
    ProjectFactory(name="Somebody else's")
    client.force_login(member(project, Role.VIEWER))
    assert [(row.name, role) for row, role in client.get(reverse("projects")).context["projects"]] == [
        ("Liver", Role.VIEWER)
    ]


def test_manager_adds_changes_and_removes_a_member(client, project):
    newcomer = UserFactory(username="newcomer")
    client.force_login(member(project, Role.MANAGER))
    url = reverse("member_set", args=["liver"])
    client.post(url, {"username": "newcomer", "role": "reader"})
    assert Membership.objects.get(user=newcomer).role == Role.READER
    client.post(url, {"username": "newcomer", "role": "engineer"})
    place = Membership.objects.get(user=newcomer)
    assert place.role == Role.ENGINEER
    client.post(reverse("member_remove", args=["liver", place.pk]))
    assert not Membership.objects.filter(user=newcomer).exists()


def test_an_unknown_user_name_is_said(client, project):
    client.force_login(member(project, Role.MANAGER))
    page = client.post(reverse("member_set", args=["liver"]), {"username": "nobody", "role": "reader"}, follow=True)
    assert "No account has this user name" in page.content.decode()


def test_a_project_never_loses_its_last_manager(project):
    manager = member(project, Role.MANAGER)
    with pytest.raises(AccountError, match="only manager"):
        services.remove_member(project=project, user=manager)
    with pytest.raises(AccountError, match="only manager"):
        services.set_role(project=project, user=manager, role=Role.VIEWER)
    second = member(project, Role.MANAGER)
    services.remove_member(project=project, user=manager)
    assert list(Membership.objects.filter(project=project).values_list("user", flat=True)) == [second.pk]


def test_a_membership_of_another_project_cannot_be_removed_through_ones_own(client, project):
    victim = member(ProjectFactory(slug="other"), Role.READER)
    client.force_login(member(project, Role.MANAGER))
    place = Membership.objects.get(user=victim)
    assert client.post(reverse("member_remove", args=["liver", place.pk])).status_code == 404
    assert Membership.objects.filter(pk=place.pk).exists()


def test_project_switch_goes_back_to_a_page_of_the_portal_only(client, project):
    client.force_login(member(project))
    url = reverse("project_select")
    assert client.post(url, {"project": "liver", "next": "/studies/"})["Location"] == "/studies/"
    assert client.session["project"] == "liver"
    assert client.post(url, {"project": "liver", "next": "https://evil.example/"})["Location"] == "/"
    ProjectFactory(slug="hidden")
    assert client.post(url, {"project": "hidden"}).status_code == 404


def test_administrator_makes_an_account_that_has_no_rights_yet(client):
    client.force_login(UserFactory(is_superuser=True))
    answers = {"username": "reader9", "first_name": "", "last_name": "", "email": "", "password": "a long sentence 9"}
    client.post(reverse("users"), answers)
    made = User.objects.get(username="reader9")
    assert made.check_password("a long sentence 9")
    assert not Project.objects.visible_to(made).exists()


def test_a_deactivated_account_is_out_at_once(client, project):
    from django.test import Client

    user = member(project)
    session = Client()
    session.force_login(user)
    client.force_login(UserFactory(is_superuser=True))
    client.post(reverse("user_active", args=[user.pk]), {"active": "no"})
    assert session.get(reverse("home")).status_code == 302


def test_an_administrator_does_not_lock_the_own_account(client):
    administrator = UserFactory(is_superuser=True)
    client.force_login(administrator)
    client.post(reverse("user_active", args=[administrator.pk]), {"active": "no"})
    administrator.refresh_from_db()
    assert administrator.is_active


@pytest.mark.parametrize("role", ["viewer", ""])
def test_a_manager_is_asked_before_giving_up_the_own_role(client, project, role):
    manager = member(project, Role.MANAGER, username="max")
    member(project, Role.MANAGER)
    client.force_login(manager)
    own = Membership.objects.get(user=manager)
    url = reverse("member_set", args=["liver"]) if role else reverse("member_remove", args=["liver", own.pk])
    asked = client.post(url, {"username": "max", "role": role})
    assert "Give up your own role?" in asked.content.decode()
    assert not AuditEvent.objects.filter(action__startswith="member.", user=manager).exists(), "nothing was done yet"
    assert Membership.objects.get(user=manager).role == Role.MANAGER
    client.post(url, {"username": "max", "role": role, "sure": "yes"})
    assert list(Membership.objects.filter(user=manager).values_list("role", flat=True)) == ([role] if role else [])


def test_the_list_of_users_asks_as_many_questions_for_many_as_for_few(client, django_assert_num_queries):
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    client.force_login(UserFactory(is_superuser=True))
    member(ProjectFactory())
    client.get(reverse("users"))
    with CaptureQueriesContext(connection) as few:
        client.get(reverse("users"))
    for _ in range(20):
        member(ProjectFactory())
    with django_assert_num_queries(len(few)):
        assert client.get(reverse("users")).status_code == 200


def test_a_deactivated_user_loses_session_token_and_basic_at_once(client, project):
    import base64

    user = member(project, Role.MANAGER, username="gone")
    secret = services.issue_token(user=user)
    client.force_login(user)
    basic = base64.b64encode(b"gone:correct horse battery").decode()
    ways = [{}, {"HTTP_AUTHORIZATION": f"Token {secret}"}, {"HTTP_AUTHORIZATION": f"Basic {basic}"}]
    assert [client.get("/dicomweb/studies", **way).status_code for way in ways] == [200] * 3
    services.set_active(user, False)
    assert [client.get("/dicomweb/studies", **way).status_code for way in ways] == [401] * 3
    assert client.get(reverse("home")).status_code == 302
    assert client.get("/api/studies/", **ways[1]).status_code == 401


def test_there_is_no_django_admin_beside_the_services(client):
    """It would write past them, and past the audit trail."""
    from django.urls import NoReverseMatch

    with pytest.raises(NoReverseMatch):
        reverse("admin:index")
