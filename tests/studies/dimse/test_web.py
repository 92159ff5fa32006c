"""A remote that speaks DICOMweb: another project of this portal, over HTTP."""

from __future__ import annotations

import pytest
from pydicom import dcmread

from portal.accounts import services as accounts
from portal.accounts.models import Role
from studies.dimse import nodes, remote
from studies.dimse.errors import RemoteRefused, Unreachable
from studies.ingest import store
from studies.models import Instance, Study
from tests.factories import ProjectFactory, make_ct_series, member
from tests.studies.dimse.conftest import free_port

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def there(transactional_db):
    return ProjectFactory(slug="there")


@pytest.fixture
def node(project, there, live_server, settings):
    settings.DIMSE_TIMEOUT_SECONDS = 60.0
    token = accounts.issue_token(user=member(there, Role.ENGINEER))
    return nodes.create(
        project, None, name="Web", kind="dicomweb", url=f"{live_server.url}/dicomweb/projects/there", token=token
    )


def test_echo_find_and_retrieve(node, project, there):
    series = make_ct_series(
        there, 3, PatientID="W1", PatientName="Web^Wanda", StudyDate="20240506", AccessionNumber="A9"
    )
    make_ct_series(there, 1, PatientID="W2")
    assert remote.echo(node) > 0
    (found,), complete = remote.find(node, remote.Wanted(patient_name="Web*"))
    assert complete
    assert (found.patient_id, found.patient_name, found.study_date, found.accession_number, found.modalities) == (
        "W1", "Web^Wanda", "20240506", "A9", "CT",
    )  # fmt: skip
    done = remote.retrieve(node, series.study.study_instance_uid)
    assert (done.stored, done.refused, done.failed) == (3, [], {})
    got = Instance.objects.filter(project=project)
    assert {row.sop_instance_uid: dcmread(store.absolute_path(row.file)) for row in got} == {
        row.sop_instance_uid: dcmread(store.absolute_path(row.file)) for row in series.instances.all()
    }


def test_send(node, project, there):
    series = make_ct_series(project, 4)
    sent = remote.send(node, Instance.objects.filter(series=series))
    assert (sent.sent, sent.failed) == (4, {})
    assert Study.objects.get(project=there).number_of_instances == 4


def test_why_it_fails(node, project, live_server):
    series = make_ct_series(project, 1)
    nodes.change(node, token="wrong")
    with pytest.raises(RemoteRefused, match="401: it asks for another token"):
        remote.echo(node)
    with pytest.raises(RemoteRefused, match="401"):
        remote.send(node, Instance.objects.filter(series=series))
    nodes.change(node, url=f"{live_server.url}/nothing", token="x")
    with pytest.raises(RemoteRefused, match="404"):
        remote.find(node, remote.Wanted())
    nodes.change(node, url=f"http://127.0.0.1:{free_port()}", token="x")
    with pytest.raises(Unreachable, match="refused"):
        remote.echo(node)
