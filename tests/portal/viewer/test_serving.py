"""OHIF's files: who gets them, how they are cached and compressed."""

import gzip

import pytest
from django.urls import reverse

from portal.viewer import serving
from tests.factories import UserFactory
from tests.portal.viewer.conftest import BUNDLE, BUNDLE_TEXT

pytestmark = pytest.mark.django_db


@pytest.fixture
def signed_in(client):
    client.force_login(UserFactory())
    return client


def content(response) -> bytes:
    return b"".join(response.streaming_content)


def test_files_need_a_login(client, viewer):
    response = client.get(f"/viewer/{BUNDLE}")
    assert response.status_code == 302
    assert response["Location"].startswith(reverse("login"))


def test_a_hashed_bundle_comes_gzipped_and_may_be_kept_for_ever(signed_in, viewer):
    response = signed_in.get(f"/viewer/{BUNDLE}", headers={"Accept-Encoding": "gzip, br"})
    assert response["Content-Encoding"] == "gzip"
    assert response["Content-Type"] == "text/javascript"
    assert response["Cache-Control"] == "private, max-age=31536000, immutable"
    assert gzip.decompress(content(response)) == BUNDLE_TEXT


def test_a_browser_without_gzip_gets_the_plain_file(signed_in, viewer):
    response = signed_in.get(f"/viewer/{BUNDLE}", headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in response
    assert content(response) == BUNDLE_TEXT


def test_a_file_without_hash_is_asked_for_again(signed_in, viewer):
    first = signed_in.get("/viewer/app.bundle.css")
    assert first["Cache-Control"] == "private, max-age=0, must-revalidate"
    again = signed_in.get("/viewer/app.bundle.css", headers={"If-Modified-Since": first["Last-Modified"]})
    assert again.status_code == 304


@pytest.mark.parametrize(
    "path", ["missing.js", "../../secret.txt", "..%2f..%2fsecret.txt", "assets/../../../secret.txt"]
)
def test_nothing_outside_the_viewer_is_served(signed_in, viewer, path):
    assert signed_in.get(f"/viewer/{path}").status_code == 404


def test_paths_without_a_file_get_the_page_that_reads_its_own_configuration(signed_in, viewer):
    for path, config in [
        ("/viewer/readroom", "/viewer/app-config.js"),
        ("/viewer/tasks/12/readroom", "/viewer/tasks/12/app-config.js"),
    ]:
        response = signed_in.get(path, {"StudyInstanceUIDs": "1.2.3"})
        assert f'src="{config}"' in response.content.decode()
        assert response["Cache-Control"] == "no-store"
        assert "readroom_csrf" in response.cookies


def test_our_modules_have_an_address_that_changes_with_them(signed_in, viewer):
    digest = serving.extension_digest()
    response = signed_in.get(f"/viewer/extension/{digest}/mode.js")
    assert response["Cache-Control"].endswith("immutable")
    assert content(response) == (serving.EXTENSION / "mode.js").read_bytes()
    assert signed_in.get("/viewer/extension/0000/mode.js")["Cache-Control"] == "no-store"
    assert signed_in.get(f"/viewer/extension/{digest}/nothing.js").status_code == 404


def test_a_missing_viewer_is_told_with_the_next_step(signed_in, settings, tmp_path):
    settings.DATA = tmp_path
    response = signed_in.get("/viewer/readroom")
    assert response.status_code == 503
    assert "install_viewer" in response.content.decode()


def test_the_start_page_is_our_list_of_studies(signed_in, viewer):
    assert signed_in.get("/viewer/")["Location"] == reverse("studies")
