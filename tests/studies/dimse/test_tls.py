"""DICOM over TLS, with certificates made for the test and dcmtk as the other side."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydicom import dcmread

from studies.dimse import nodes, remote
from studies.dimse.errors import Unreachable
from studies.models import Instance
from tests import dcmtk as tools
from tests.factories import make_ct_series
from tests.studies.dimse.conftest import free_port

pytestmark = pytest.mark.django_db(transaction=True)


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *(str(word) for word in arguments)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> SimpleNamespace:
    """An authority, a key pair of this machine that it signed, and one that nobody signed."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    if not tools.with_tls():
        pytest.skip("there is no dcmtk with TLS (apt-get install dcmtk)")
    folder = tmp_path_factory.mktemp("tls")
    ca_key, ca, key, request, certificate, names = (
        folder / name for name in ("ca.key", "ca.pem", "key.pem", "request.pem", "certificate.pem", "names")
    )
    names.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    new = ["req", "-newkey", "rsa:2048", "-nodes", "-subj"]
    _openssl(*new, "/CN=Test authority", "-x509", "-days", 2, "-keyout", ca_key, "-out", ca)
    _openssl(*new, "/CN=127.0.0.1", "-keyout", key, "-out", request)
    _openssl("x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", 2,
             "-extfile", names, "-out", certificate)  # fmt: skip
    stranger_key, stranger = folder / "stranger.key", folder / "stranger.pem"
    _openssl(*new, "/CN=127.0.0.1", "-x509", "-days", 2, "-keyout", stranger_key, "-out", stranger)
    return SimpleNamespace(ca=ca, key=key, certificate=certificate, stranger_key=stranger_key, stranger=stranger)


@pytest.fixture
def secure(listen, certificates):
    """A listener with a plain port and one for TLS that wants certificates of the authority."""
    tls_port = free_port()
    made = listen(
        DIMSE_TLS_PORT=str(tls_port),
        DIMSE_TLS_CERTIFICATE=str(certificates.certificate),
        DIMSE_TLS_KEY=str(certificates.key),
        DIMSE_TLS_CA=str(certificates.ca),
    )
    return SimpleNamespace(port=made.port, tls_port=tls_port, log=made.log)


def calling(port: int) -> list[object]:
    return ["-aet", "DCMTK", "-aec", "READROOM", "127.0.0.1", port]


def test_objects_arrive_over_tls_from_certified_callers_only(dcmtk, secure, node, files, certificates):
    nodes.change(node, tls=True)
    paths = files(2)
    ours = ["+tls", certificates.key, certificates.certificate, "+cf", certificates.ca]
    done = dcmtk("storescu", *ours, *calling(secure.tls_port), *paths)
    assert done.returncode == 0, done.stderr
    assert Instance.objects.count() == 2
    strangers = ["+tls", certificates.stranger_key, certificates.stranger, "+cf", certificates.ca]
    assert dcmtk("echoscu", *strangers, *calling(secure.tls_port)).returncode != 0
    assert dcmtk("echoscu", "+tla", "+cf", certificates.ca, *calling(secure.tls_port)).returncode != 0
    # A node that is to use TLS is not let in without it, although the plain port is open to others.
    assert dcmtk("echoscu", *calling(secure.port)).returncode != 0
    nodes.change(node, tls=False)
    assert dcmtk("echoscu", *calling(secure.port)).returncode == 0


def test_a_caller_that_never_finishes_its_handshake_holds_up_nobody(dcmtk, secure, node, certificates):
    ours = ["+tls", certificates.key, certificates.certificate, "+cf", certificates.ca]
    with socket.create_connection(("127.0.0.1", secure.tls_port)) as silent:
        assert dcmtk("echoscu", *ours, *calling(secure.tls_port), timeout=20).returncode == 0
        assert silent.fileno() > 0


def test_we_send_over_tls(dcmtk, start, tmp_path, project, certificates, settings):
    """dcmtk's storescp, because its dcmqrscp knows no TLS."""
    folder = tmp_path / "got"
    folder.mkdir()
    port = free_port()
    server = ["+tls", str(certificates.key), str(certificates.certificate), "+cf", str(certificates.ca)]
    start([tools.path_of("storescp"), *server, "-od", str(folder), str(port)], tmp_path / "storescp.log", port)
    series = make_ct_series(project, 2)
    node = nodes.create(project, None, name="Secure", ae_title="STORESCP", host="127.0.0.1", port=port, tls=True)
    settings.DIMSE_TIMEOUT_SECONDS = 2.0

    with pytest.raises(Unreachable, match="certificates"):  # we know no authority so far
        remote.echo(node)
    settings.DIMSE_TLS_CA = str(certificates.ca)
    with pytest.raises(Unreachable, match="certificates"):  # and the remote wants to know who we are
        remote.echo(node)
    settings.DIMSE_TLS_CERTIFICATE, settings.DIMSE_TLS_KEY = str(certificates.certificate), str(certificates.key)
    assert remote.echo(node) > 0
    assert remote.send(node, Instance.objects.filter(series=series)).sent == 2
    assert {dcmread(path).SOPInstanceUID for path in folder.iterdir()} == set(
        series.instances.values_list("sop_instance_uid", flat=True)
    )
    nodes.change(node, tls=False)
    with pytest.raises(Unreachable):
        remote.echo(node)


def test_a_wrong_certificate_ends_the_start_with_words(listen, certificates, tmp_path: Path):
    with pytest.raises(RuntimeError, match=r"certificate or key cannot be used. Check DIMSE_TLS"):
        listen(
            DIMSE_TLS_PORT=str(free_port()), DIMSE_TLS_CERTIFICATE=str(certificates.ca), DIMSE_TLS_KEY="/nowhere.pem"
        )
