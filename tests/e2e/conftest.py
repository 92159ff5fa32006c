"""A portal that serves the test database, and a real Chromium that looks at it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from urllib.request import urlopen

import pytest
from django.conf import settings as django_settings
from django.db import connection
from django.test import Client
from playwright.sync_api import Browser, Page, expect, sync_playwright

from portal.accounts.models import User

FLAGS = [
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
]
START_SECONDS = 60
PATIENCE = 120_000  # ms; OHIF takes 4 to 16 s to the first image on two idle cores


@pytest.fixture(scope="session")
def media(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("media")


@pytest.fixture(autouse=True)
def _same_media(settings, media):
    """The test writes into the archive that the portal serves."""
    settings.MEDIA_ROOT = media


@pytest.fixture(scope="session")
def portal(django_db_setup, media) -> Iterator[str]:
    """The address of a Granian that serves the test database, as `make run` serves the real one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    parts = urlsplit(os.environ["DATABASE_URL"])
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "portal.settings.test",
        "DATABASE_URL": urlunsplit(parts._replace(path=f"/{connection.settings_dict['NAME']}")),
        "MEDIA_ROOT": str(media),
        "DATA": str(django_settings.DATA),
    }
    command = [str(Path(sys.executable).with_name("granian")), "--interface", "wsgi", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1", "--blocking-threads", "6", "portal.wsgi:application"]
    log = media / "portal.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            command, env=environment, cwd=django_settings.BASE_DIR, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(address, process, log)
        yield address
    finally:
        process.terminate()
        process.wait(20)


def _wait_for(address: str, process: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            with urlopen(f"{address}/login/", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"the portal did not start:\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="session")
def browser(chromium) -> Iterator[Browser]:
    # Playwright's loop runs in this thread, and Django would refuse the database beside it.
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield made
        made.close()
    del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]


@pytest.fixture
def sign_in(portal, browser, transactional_db) -> Iterator[Callable[[User], Page]]:
    """`sign_in(user)` is a page in a window of its own, with that user's session."""
    contexts = []

    def made(user: User, **window) -> Page:
        client = Client()
        client.force_login(user)
        context = browser.new_context(base_url=portal, viewport={"width": 1440, "height": 900}, **window)
        context.set_default_timeout(PATIENCE)
        cookie = client.cookies[django_settings.SESSION_COOKIE_NAME]
        context.add_cookies([{"name": cookie.key, "value": cookie.value, "url": portal}])
        contexts.append(context)
        return context.new_page()

    yield made
    for context in contexts:
        context.close()
