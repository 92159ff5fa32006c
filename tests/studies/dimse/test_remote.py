"""We call dcmtk."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import dcmread

from studies.dimse import nodes, remote
from studies.dimse.errors import RemoteError, RemoteRefused, Unreachable
from studies.ingest import store
from studies.models import ImportBatch, Instance, Study
from tests.factories import make_ct_series
from tests.studies.dimse.conftest import free_port

pytestmark = pytest.mark.django_db(transaction=True)


def uid_of(path: Path) -> str:
    return dcmread(path, stop_before_pixels=True).StudyInstanceUID


def assert_stored(paths: list[Path]) -> None:
    """The archive holds exactly these objects, with these pixels."""
    assert Instance.objects.count() == len(paths)
    for path in paths:
        sent = dcmread(path)
        got = dcmread(store.absolute_path(Instance.objects.get(sop_instance_uid=sent.SOPInstanceUID).file))
        assert got == sent


def leftovers() -> list[Path]:
    return list(Path(store.absolute_path("incoming")).glob("*"))


def test_echo_and_why_it_fails(pacs_node, pacs):
    assert remote.echo(pacs_node) > 0
    nodes.change(pacs_node, ae_title="WRONG")
    with pytest.raises(RemoteRefused, match="AE title is not WRONG"):
        remote.echo(pacs_node)
    nodes.change(pacs_node, port=free_port())
    with pytest.raises(Unreachable, match="refused"):
        remote.echo(pacs_node)
    nodes.change(pacs_node, host="no-such-host.invalid")
    with pytest.raises(Unreachable, match="not known"):
        remote.echo(pacs_node)


def test_find(pacs_node, filled):
    found, complete = remote.find(pacs_node, remote.Wanted(patient_name="Remote*"))
    assert complete
    assert [(one.patient_id, one.patient_name, one.study_date) for one in found] == [("R1", "Remote^Rita", "20230102")]
    assert found[0].study_instance_uid == uid_of(filled[0])
    assert remote.find(pacs_node, remote.Wanted(patient_id="OTHER")) == ([], True)


def test_retrieve_by_get(pacs_node, filled):
    told: list[str] = []
    done = remote.retrieve(pacs_node, uid_of(filled[0]), progress=lambda fraction, text: told.append(text))
    assert (done.stored, done.duplicate, done.refused) == (4, 0, [])
    assert_stored(filled)
    assert Study.objects.get().project == pacs_node.project
    assert done.batch.source == ImportBatch.Source.DIMSE
    assert told[-1] == "4 objects arrived; they are stored"
    assert leftovers() == []
    again = remote.retrieve(pacs_node, uid_of(filled[0]))
    assert (again.stored, again.duplicate) == (0, 4)


def test_retrieve_by_move_through_our_listener(pacs_node, filled, listen, listener_port):
    nodes.change(pacs_node, retrieve_by="move")
    with pytest.raises(RemoteError):
        remote.retrieve(pacs_node, uid_of(filled[0]))  # nobody listens yet
    assert Instance.objects.count() == 0
    listen(listener_port)
    done = remote.retrieve(pacs_node, uid_of(filled[0]))
    assert (done.stored, done.refused) == (4, [])
    assert_stored(filled)
    assert leftovers() == []


def test_a_remote_without_the_study_is_told(pacs_node, pacs):
    with pytest.raises(RemoteRefused, match="sent nothing"):
        remote.retrieve(pacs_node, "1.2.3.4")
    assert ImportBatch.objects.count() == 0


def test_a_bad_series_does_not_keep_the_others_away(pacs_node, pacs, dcmtk, files):
    study = {"StudyInstanceUID": "1.2.3.4.5", "PatientID": "R2"}
    good = files(3, folder="good", **study)
    bad = files(2, folder="bad", **study)
    assert dcmtk("storescu", "-aec", "PACS", "127.0.0.1", pacs.port, *good, *bad).returncode == 0
    lost = dcmread(bad[1]).SOPInstanceUID
    next(path for path in pacs.files if dcmread(path).SOPInstanceUID == lost).unlink()

    done = remote.retrieve(pacs_node, "1.2.3.4.5")
    assert (done.stored, done.refused) == (3, [])
    assert list(done.failed) == [dcmread(bad[0]).SeriesInstanceUID]
    assert_stored(good)
    assert leftovers() == []


def test_sending_as_stored_and_what_the_remote_does_not_take(pacs_node, pacs, project):
    series = make_ct_series(project, 3)
    told: list[float] = []
    sent = remote.send(
        pacs_node, Instance.objects.filter(series=series), progress=lambda fraction, text: told.append(fraction)
    )
    assert (sent.sent, sent.failed) == (3, {})
    assert told[-1] == 1.0
    held = {dcmread(path).SOPInstanceUID: dcmread(path) for path in pacs.files}
    for row in series.instances.all():
        assert held[row.sop_instance_uid] == dcmread(store.absolute_path(row.file))
    with pytest.raises(RemoteError, match="nothing to send"):
        remote.send(pacs_node, Instance.objects.none())
