"""The training form in a browser: nothing that was filled in is lost with the session, and keys alone start a run."""

from __future__ import annotations

import pytest
from django.conf import settings as django_settings
from django.test import Client
from playwright.sync_api import Page, expect

from inference.training.models import TrainingRun
from portal.accounts.models import Role
from tests.factories import ProjectFactory, member
from tests.inference.models_factory import ball_cohort

pytestmark = [pytest.mark.e2e, pytest.mark.django_db(transaction=True)]
SESSION = django_settings.SESSION_COOKIE_NAME


def tab_to(page: Page, name: str) -> None:
    """Press Tab until the element of that accessible name has the focus."""
    for _ in range(120):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.innerText.trim()") == name:
            return
    pytest.fail(f"no way to {name!r} by Tab")


def test_what_was_filled_in_outlives_the_session_and_starts_by_keyboard(broker, sign_in, portal):
    project = ProjectFactory(slug="brain", name="Brain")
    cohort, _ = ball_cohort(project, 4)
    user = member(project, Role.ENGINEER)
    page = sign_in(user)
    page.goto(f"/training/new/?cohort={cohort.pk}")
    page.get_by_label("Epochs at most").fill("13")
    page.get_by_label("Size that the network sees").fill("16 32 32")

    page.context.clear_cookies(name=SESSION)  # twelve hours later
    page.get_by_label("Seed").fill("77")
    expect(page.get_by_role("alert")).to_contain_text("You are signed out")
    expect(page.locator("#check input[type=password]")).to_have_count(0)
    page.get_by_role("button", name="Start training").click()
    page.wait_for_url("**/login/**")

    client = Client()
    client.force_login(user)
    page.context.clear_cookies()
    page.context.add_cookies([{"name": SESSION, "value": client.cookies[SESSION].value, "url": portal}])
    page.goto("/training/new/")
    page.get_by_role("button", name="Fill it in again").click()
    expect(page.get_by_label("Epochs at most")).to_have_value("13")
    expect(page.get_by_label("Seed")).to_have_value("77")
    expect(page.locator("#draft")).to_be_hidden()

    tab_to(page, "Start training")
    page.keyboard.press("Enter")
    page.wait_for_url("**/jobs/*/")
    config = TrainingRun.objects.get().config
    assert (config["training"]["epochs"], config["training"]["seed"], config["training"]["patch"]) == (
        13, 77, [16, 32, 32],
    )  # fmt: skip

    page.go_back()
    expect(page.get_by_role("button", name="Fill it in again")).to_be_visible()
    page.goto("/")
    page.goto("/training/new/")  # what was started is not offered to whoever begins anew
    expect(page.locator("#draft")).to_be_hidden()


def test_a_form_of_before_the_sign_in_is_still_taken(broker, sign_in, portal):
    """Signing in, in another tab, changes the token that guards against forged forms."""
    project = ProjectFactory(slug="brain", name="Brain")
    cohort, _ = ball_cohort(project, 4)
    page = sign_in(member(project, Role.ENGINEER))
    page.goto(f"/training/new/?cohort={cohort.pk}")
    page.get_by_label("Size that the network sees").fill("16 32 32")
    page.context.add_cookies([{"name": "readroom_csrf", "value": "a" * 32, "url": portal}])
    page.get_by_role("button", name="Start training").click()
    page.wait_for_url("**/jobs/*/")
    assert TrainingRun.objects.count() == 1
