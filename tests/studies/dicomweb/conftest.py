from __future__ import annotations

import pytest
from dicomweb_client.api import DICOMwebClient
from requests import Session

from portal.accounts.models import Role
from portal.accounts.services import issue_token
from tests import factories

ROOT = "/dicomweb"


@pytest.fixture(autouse=True)
def media(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path / "media"


@pytest.fixture
def project(db):
    return factories.ProjectFactory(slug="lung")


@pytest.fixture
def alice(project):
    return factories.member(project, Role.MANAGER, username="alice")


@pytest.fixture
def series(project):
    """A CT series of three slices, patient P1."""
    return factories.make_ct_series(project, 3)


@pytest.fixture
def root(client, alice):
    """GET below the DICOMweb root as alice."""

    def get(path, accept="", base=ROOT, user=alice, **headers):
        if user is not None:
            client.force_login(user)
        if accept:
            headers["HTTP_ACCEPT"] = accept
        return client.get(base + path, **headers)

    return get


@pytest.fixture
def web(live_server, alice):
    """The PyPI dicomweb-client against a live server, with a token of alice."""
    session = Session()
    session.headers["Authorization"] = f"Token {issue_token(user=alice)}"
    yield DICOMwebClient(f"{live_server.url}/dicomweb", session=session)
    session.close()  # ends the server's thread, and with it its database connection


def parts(response):
    """The bodies of a multipart/related answer."""
    content = response.content if not response.streaming else b"".join(response.streaming_content)
    boundary = response["Content-Type"].split("boundary=")[1].strip('"').encode()
    assert content.endswith(b"--" + boundary + b"--\r\n")
    found = []
    for piece in content.split(b"--" + boundary)[1:-1]:
        head, _, body = piece.partition(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
        )
        assert body[length:] == b"\r\n"
        found.append(body[:length])
    return found
