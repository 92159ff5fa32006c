"""dcmtk calls us."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRBigEndian, RLELossless

from portal.runtime import liveness
from portal.runtime.process import wait_until
from studies.dimse import nodes
from studies.dimse.models import RemoteNode
from studies.ingest import store
from studies.models import ImportBatch, Instance, Origin, Patient, Series, Study
from tests import dcmtk as tools
from tests.factories import ProjectFactory, make_ct_series

pytestmark = pytest.mark.django_db(transaction=True)


def answers(text: str) -> list[dict[str, str]]:
    """The data sets that findscu prints: tag → value."""
    found: list[dict[str, str]] = []
    for line in text.splitlines():
        if "# Dicom-Data-Set" in line:
            found.append({})
        elif found and (hit := re.search(r"\(([0-9a-f]{4}),([0-9a-f]{4})\) .. (?:\[(.*?)\]|\(no value)", line)):
            # UIDs of odd length are padded with NUL.
            found[-1][hit.group(1) + hit.group(2)] = (hit.group(3) or "").strip(" \0")
    return found


def ask(dcmtk, listener, level: str, *keys: str, model: str = "-S") -> list[dict[str, str]]:
    arguments = [word for key in (f"QueryRetrieveLevel={level}", *keys) for word in ("-k", key)]
    done = dcmtk("findscu", "-v", model, *listener.address, *arguments)
    assert done.returncode == 0, done.stderr
    # The first data set is the request.
    return [one for one in answers(done.stdout + done.stderr) if "00080005" in one]


def test_echo_and_rejection_of_everybody_who_is_not_known(dcmtk, listener, node):
    assert dcmtk("echoscu", *listener.address).returncode == 0

    for calling, called in [("STRANGER", "READROOM"), ("DCMTK", "OTHER")]:
        refused = dcmtk("echoscu", "-aet", calling, "-aec", called, "127.0.0.1", listener.port)
        assert refused.returncode != 0
        assert "Calling AE Title Not Recognized" in refused.stdout + refused.stderr

    nodes.change(node, addresses=["192.0.2.0/24"])
    assert dcmtk("echoscu", *listener.address).returncode != 0
    nodes.change(node, addresses=["127.0.0.0/8"], active=False)
    assert dcmtk("echoscu", *listener.address).returncode != 0
    nodes.change(node, active=True)
    assert dcmtk("echoscu", *listener.address).returncode == 0


def test_a_series_knows_which_system_sent_it(dcmtk, listener, node, files):
    assert dcmtk("storescu", *listener.address, *files(2, StationName="MR1")).returncode == 0
    series = Series.objects.get()
    assert (series.import_source, series.sending_ae_title, series.station_name) == ("dimse", "DCMTK", "MR1")


def test_the_listener_ends_in_order(dcmtk, listen, node, settings):
    # Tests of workers may have another broker by now; this process asks the one of its settings.
    listener = listen(CELERY_BROKER_URL=settings.CELERY_BROKER_URL)
    assert dcmtk("echoscu", *listener.address).returncode == 0
    with liveness._client() as broker:  # what listeners of other tests left, who were killed
        broker.delete(liveness._key(liveness.LISTENER))
    assert wait_until(lambda: liveness.workers_alive([liveness.LISTENER]) == {liveness.LISTENER: 1}, 20)
    listener.process.terminate()
    assert listener.process.wait(20) == 0
    assert "Traceback" not in listener.log.read_text(errors="replace")
    assert liveness.workers_alive([liveness.LISTENER]) == {liveness.LISTENER: 0}


def test_what_is_sent_lies_in_the_callers_project_byte_for_byte(dcmtk, listener, node, project, files):
    ProjectFactory()
    paths = files(5)
    done = dcmtk("storescu", "-v", *listener.address, *paths)
    assert done.returncode == 0, done.stderr
    study = Study.objects.get()
    assert study.project == project
    assert study.number_of_instances == 5
    assert Series.objects.get().origin == Origin.ACQUIRED
    batch = ImportBatch.objects.get()
    assert (batch.source, batch.stored, batch.refused) == ("dimse", 5, 0)
    for path in paths:
        sent = dcmread(path)
        stored = dcmread(store.absolute_path(Instance.objects.get(sop_instance_uid=sent.SOPInstanceUID).file))
        assert stored == sent
        assert stored.PixelData == sent.PixelData

    # Again, and from a file that came by another way: the same objects, hence no conflict.
    assert dcmtk("storescu", *listener.address, *paths).returncode == 0
    assert Instance.objects.count() == 5
    second = ImportBatch.objects.latest("pk")
    assert (second.stored, second.duplicate, second.refused) == (0, 5, 0)


def test_other_bytes_under_a_known_uid_are_refused_and_the_first_stay(dcmtk, listener, node, files):
    (path,) = files(1)
    assert dcmtk("storescu", *listener.address, path).returncode == 0
    changed = dcmread(path)
    changed.PixelData = bytes(len(changed.PixelData))
    changed.save_as(path)
    done = dcmtk("storescu", "-v", *listener.address, path)
    assert "0x111" in done.stderr  # duplicate SOP instance (PS3.7 C.5.7)
    assert ImportBatch.objects.latest("pk").refused == 1
    assert Instance.objects.count() == 1


def test_a_node_without_the_right_cannot_store_find_or_fetch(dcmtk, listener, node, files, project, tmp_path):
    series = make_ct_series(project)
    nodes.change(node, services=[])
    done = dcmtk("storescu", "-v", *listener.address, *files(1))
    assert "0x124" in done.stderr or "NotAuthori" in done.stderr
    assert Study.objects.count() == 1
    found = dcmtk("findscu", "-S", *listener.address, "-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID")
    assert found.returncode != 0
    key = f"StudyInstanceUID={series.study.study_instance_uid}"
    got = dcmtk(
        "getscu", "-S", *listener.address, "-od", tmp_path, "-k", "QueryRetrieveLevel=STUDY", "-k", key
    )  # fmt: skip
    assert got.returncode != 0
    assert not list(tmp_path.glob("*CT*"))


def test_compressed_and_big_endian_objects_are_kept_as_sent(dcmtk, listener, node, files):
    (plain,) = files(1)
    compressed = dcmread(plain)
    compressed.compress(RLELossless, generate_instance_uid=False)
    compressed.SOPInstanceUID = compressed.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4.5"
    compressed.save_as(plain.with_name("rle.dcm"))
    done = dcmtk("storescu", "-xr", *listener.address, plain.with_name("rle.dcm"))
    assert done.returncode == 0, done.stderr
    assert Instance.objects.get().transfer_syntax_uid == RLELossless

    big = dcmtk("dcmconv", "+tb", plain, plain.with_name("big.dcm"))
    assert big.returncode == 0, big.stderr
    assert dcmtk("storescu", "-xb", *listener.address, plain.with_name("big.dcm")).returncode == 0
    assert Instance.objects.filter(transfer_syntax_uid=ExplicitVRBigEndian).count() == 1


@pytest.fixture
def archive(project):
    """Two studies of two patients in the node's project, one in another."""
    one = make_ct_series(
        project, 3, PatientID="A1", PatientName="Müller^Jörg", StudyDate="20240102", AccessionNumber="X1"
    )
    two = make_ct_series(project, 2, PatientID="B2", PatientName="Doe^Jane", StudyDate="20240305", AccessionNumber="X2")
    other = make_ct_series(ProjectFactory(), 2, PatientID="C3", PatientName="Doe^Secret", StudyDate="20240305")
    return one, two, other


def test_find_at_every_level_sees_the_callers_project_only(dcmtk, listener, node, archive):
    one = archive[0]
    found = ask(
        dcmtk, listener, "STUDY", "PatientName", "PatientID", "NumberOfStudyRelatedInstances", "StudyInstanceUID"
    )
    assert {answer["00100020"] for answer in found} == {"A1", "B2"}
    assert {answer["00100020"]: answer["00201208"] for answer in found} == {"A1": "3", "B2": "2"}
    assert {answer["00100010"] for answer in found} == {"Müller^Jörg", "Doe^Jane"}

    assert [a["00100020"] for a in ask(dcmtk, listener, "STUDY", "PatientName=DOE*", "PatientID")] == ["B2"]
    assert [a["00100020"] for a in ask(dcmtk, listener, "STUDY", "StudyDate=20240101-20240131", "PatientID")] == ["A1"]
    assert [a["00100020"] for a in ask(dcmtk, listener, "STUDY", "AccessionNumber=X2", "PatientID")] == ["B2"]
    assert ask(dcmtk, listener, "STUDY", "PatientID=C3") == []
    assert ask(dcmtk, listener, "STUDY", "ModalitiesInStudy=MR") == []
    # An attribute without a column is matched in the header.
    assert len(ask(dcmtk, listener, "STUDY", "KVP=120")) == 2

    patients = ask(dcmtk, listener, "PATIENT", "PatientID=A*", "PatientName", model="-P")
    assert [(a["00100020"], a["00100010"]) for a in patients] == [("A1", "Müller^Jörg")]

    uid = one.study.study_instance_uid
    (series,) = ask(dcmtk, listener, "SERIES", f"StudyInstanceUID={uid}", "SeriesInstanceUID", "Modality")
    assert (series["0020000e"], series["00080060"]) == (one.series_instance_uid, "CT")

    images = ask(
        dcmtk, listener, "IMAGE",
        f"StudyInstanceUID={uid}", f"SeriesInstanceUID={one.series_instance_uid}", "SOPInstanceUID", "InstanceNumber",
    )  # fmt: skip
    assert [a["00200013"] for a in images] == ["1", "2", "3"]
    assert {a["00080018"] for a in images} == set(one.instances.values_list("sop_instance_uid", flat=True))


def test_results_are_found_by_trusted_nodes_only(dcmtk, listener, node, project):
    make_ct_series(project, 2, StudyInstanceUID="1.2.3", PatientID="A")
    make_ct_series(project, 2, StudyInstanceUID="1.2.3", PatientID="A", origin=Origin.MODEL, SeriesDescription="Result")
    assert len(ask(dcmtk, listener, "SERIES", "StudyInstanceUID=1.2.3", "SeriesInstanceUID")) == 1
    nodes.change(node, include_results=True)
    assert len(ask(dcmtk, listener, "SERIES", "StudyInstanceUID=1.2.3", "SeriesInstanceUID")) == 2


def received(folder: Path) -> dict[str, object]:
    return {dataset.SOPInstanceUID: dataset for dataset in map(dcmread, folder.iterdir())}


def stored(series: Series) -> dict[str, object]:
    return {
        row.sop_instance_uid: dcmread(store.absolute_path(row.file)) for row in Instance.objects.filter(series=series)
    }


def test_get_brings_the_study_and_nothing_of_another_project(dcmtk, listener, node, archive, tmp_path):
    one, _, other = archive
    folder = tmp_path / "got"
    folder.mkdir()
    for series, expected in ((one, stored(one)), (other, {})):
        key = f"StudyInstanceUID={series.study.study_instance_uid}"
        done = dcmtk(
            "getscu", "-v", "-S", *listener.address, "-od", folder, "-k", "QueryRetrieveLevel=STUDY", "-k", key
        )
        assert done.returncode == 0, done.stderr
        got = received(folder)
        assert got == expected
        for path in folder.iterdir():
            path.unlink()


def test_move_sends_to_nodes_of_the_project_only(dcmtk, listener, node, archive, tmp_path, start):
    one, _, _ = archive
    folder = tmp_path / "moved"
    folder.mkdir()
    start([tools.path_of("storescp"), "-od", str(folder), str(node.port)], tmp_path / "storescp.log", node.port)
    key = f"StudyInstanceUID={one.study.study_instance_uid}"
    query = ["-k", "QueryRetrieveLevel=STUDY", "-k", key]
    done = dcmtk("movescu", "-v", "-S", "-aem", "DCMTK", *listener.address, *query)
    assert done.returncode == 0, done.stderr
    assert received(folder) == stored(one)

    unknown = dcmtk("movescu", "-v", "-S", "-aem", "ELSEWHERE", *listener.address, *query)
    assert "MoveDestinationUnknown" in unknown.stdout + unknown.stderr


def test_a_peer_that_takes_implicit_only_gets_the_same_pixels(dcmtk, listener, node, project, files, tmp_path, start):
    (plain,) = files(1)
    compressed = dcmread(plain)
    compressed.compress(RLELossless, generate_instance_uid=False)
    compressed.save_as(plain.with_name("rle.dcm"))
    assert dcmtk("storescu", "-xr", *listener.address, plain.with_name("rle.dcm")).returncode == 0
    folder = tmp_path / "moved"
    folder.mkdir()
    start([tools.path_of("storescp"), "+xi", "-od", str(folder), str(node.port)], tmp_path / "storescp.log", node.port)
    key = f"StudyInstanceUID={dcmread(plain).StudyInstanceUID}"
    done = dcmtk(
        "movescu", "-v", "-S", "-aem", "DCMTK", *listener.address, "-k", "QueryRetrieveLevel=STUDY", "-k", key
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (got,) = received(folder).values()
    assert got.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2"
    assert got.PixelData == dcmread(plain).PixelData


def test_nothing_about_patients_reaches_the_log(dcmtk, listener, node, archive, files, tmp_path):
    ask(dcmtk, listener, "STUDY", "PatientName=M*", "PatientID")
    dcmtk("storescu", *listener.address, *files(1, PatientName="Unique^Person", PatientID="UNIQUE77"))
    bad = files(1, folder="bad", PatientID="OTHERUNIQUE", StudyInstanceUID=archive[0].study.study_instance_uid)
    dcmtk("storescu", *listener.address, *bad)
    dcmtk("findscu", "-S", *listener.address, "-k", "QueryRetrieveLevel=STUDY", "-k", "StudyDate=UNIQUEDATE")
    log = listener.log.read_text(errors="replace")
    assert "an object was refused" in log
    for identity in ("UNIQUE", "Unique", "Müller", "Jörg", "A1"):
        assert identity not in log
    assert Patient.objects.filter(patient_id="UNIQUE77").exists()
    assert not list(Path(store.absolute_path("incoming")).glob("*.part"))


def test_uid_that_the_project_may_call_by_is_given_once(project, node):
    with pytest.raises(nodes.NodeError, match="Another node calls"):
        nodes.create(ProjectFactory(), None, name="Twin", ae_title="DCMTK", host="h", port=104, addresses=["127.0.0.1"])
    twin = nodes.create(
        ProjectFactory(), None, name="Twin", ae_title="DCMTK", called_ae_title="READROOM2", host="h", port=104
    )
    assert RemoteNode.objects.filter(ae_title="DCMTK").count() == 2
    assert not twin.may_call_from("127.0.0.1")
