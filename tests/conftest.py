"""What every test may use; services start in `tests.services`, before this is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.conf import settings

from portal.viewer import install as viewer
from tests import browser, emptying  # noqa: F401
from tests.worker import (  # noqa: F401
    _begin_worker,
    _shared_worker,
    broker,
    celery_beat_process,
    celery_worker_process,
    no_other_worker,
    start_worker,
)

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    end_to_end = [item for item in items if item.get_closest_marker("e2e")]
    if end_to_end:
        reason = _why_no_browser_tests()
        for item in end_to_end if reason else []:
            item.add_marker(pytest.mark.skip(reason=reason))
    if not SHARED.is_dir():
        for item in items:
            if item.get_closest_marker("shared"):
                item.add_marker(pytest.mark.skip(reason="the development data do not lie beside the checkout"))


def _why_no_browser_tests() -> str:
    if browser.find() is None:
        return "no Chromium was found"
    if not viewer.installed(settings.DATA):
        return "the viewer is not installed: run `make test`, or `manage.py install_viewer` for this DATA"
    return ""


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of the browser, for `playwright.chromium.launch(executable_path=…)`."""
    path = browser.find()
    assert path is not None
    return path
