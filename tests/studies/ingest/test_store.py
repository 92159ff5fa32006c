"""The way into the archive: what is stored, what is a duplicate, what is refused and why."""

from __future__ import annotations

import hashlib
import threading

import pytest
from django.conf import settings
from django.db import connection
from pydicom.uid import generate_uid

from studies.ingest import store
from studies.models import ImportBatch, Instance, Origin, Patient, Refusal, Series, Study
from tests import factories

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def media(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path / "media"


@pytest.fixture
def batch():
    return store.open_batch(factories.ProjectFactory(), ImportBatch.Source.COMMAND)


def put(batch, dataset, **how):
    return store.store_file(factories.part10_bytes(dataset), batch=batch, name="a.dcm", **how)


def test_a_stored_file_is_kept_byte_for_byte_under_a_name_without_identity(batch):
    data = factories.part10_bytes(factories.ct_slice())
    outcome = store.store_file(data, batch=batch, name="TESSA.dcm")
    assert outcome.state == "stored"
    row = Instance.objects.get()
    assert store.absolute_path(row.file).read_bytes() == data
    assert row.sha256 == hashlib.sha256(data).hexdigest()
    assert row.file_size == len(data)
    assert "TESSA" not in row.file
    assert row.sop_instance_uid not in row.file
    offset, length = row.frame_table
    assert data[offset : offset + length] == factories.ct_pixels(0).astype("<i2").tobytes()


def test_rows_repeat_the_header(batch):
    series = factories.make_ct_series(batch.project, 3, PatientName="Müller^Jürgen")
    study = series.study
    assert (study.patient.patient_name, study.patient.patient_id) == ("Müller^Jürgen", "P1")
    assert str(study.study_date) == "2024-03-15"
    assert study.modalities_in_study == ["CT"]
    assert study.body_parts_examined == ["CHEST"]
    assert (study.number_of_series, study.number_of_instances, series.number_of_instances) == (1, 3, 3)


def test_counts_follow_a_second_series_and_an_added_slice(batch):
    first = factories.make_ct_series(batch.project, 2)
    study_uid = first.study.study_instance_uid
    factories.make_ct_series(batch.project, 1, StudyInstanceUID=study_uid, Modality="MR", BodyPartExamined="BRAIN")
    put(batch, factories.ct_slice(7, StudyInstanceUID=study_uid, SeriesInstanceUID=first.series_instance_uid))
    study = Study.objects.get()
    first.refresh_from_db()
    assert (study.number_of_series, study.number_of_instances, first.number_of_instances) == (2, 4, 3)
    assert sorted(study.modalities_in_study) == ["CT", "MR"]
    assert sorted(study.body_parts_examined) == ["BRAIN", "CHEST"]


def test_the_same_bytes_again_are_a_duplicate(batch):
    dataset = factories.ct_slice()
    first, second = put(batch, dataset), put(batch, dataset)
    assert (first.state, second.state) == ("stored", "duplicate")
    assert second.instance == first.instance
    batch.refresh_from_db()
    assert (batch.stored, batch.duplicate, batch.refused) == (1, 1, 0)
    assert Study.objects.get().number_of_instances == 1
    assert len(list(settings.MEDIA_ROOT.rglob("*.dcm"))) == 1
    assert list(settings.MEDIA_ROOT.joinpath("incoming").iterdir()) == []


def test_twice_in_one_group(batch):
    dataset = factories.ct_slice()
    data = factories.part10_bytes(dataset)
    dataset.PatientSex = "M"
    other = factories.part10_bytes(dataset)
    outcomes = list(store.store_files([(data, "a"), (data, "b"), (other, "c")], batch=batch))
    assert [(o.state, o.code) for o in outcomes] == [("stored", ""), ("duplicate", ""), ("refused", "conflict")]
    assert Instance.objects.get().sha256 == hashlib.sha256(data).hexdigest()


def test_other_bytes_under_the_same_uid_are_a_conflict_that_is_kept(batch):
    dataset = factories.ct_slice()
    put(batch, dataset)
    stored = Instance.objects.get()
    before = store.absolute_path(stored.file).read_bytes()
    dataset.PatientSex = "M"
    outcome = put(batch, dataset)
    assert (outcome.state, outcome.code) == ("refused", "conflict")
    assert dataset.SOPInstanceUID in outcome.reason
    refusal = Refusal.objects.get()
    kept = settings.MEDIA_ROOT / "quarantine" / refusal.file
    assert kept.read_bytes() == factories.part10_bytes(dataset)
    assert store.absolute_path(stored.file).read_bytes() == before


def test_two_projects_hold_the_same_study(batch):
    dataset = factories.ct_slice()
    other = store.open_batch(factories.ProjectFactory(), ImportBatch.Source.COMMAND)
    assert put(batch, dataset).state == put(other, dataset).state == "stored"
    assert Study.objects.count() == Patient.objects.count() == 2


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "empty"),
        (b"%PDF-1.7 " + b"x" * 500, "not_dicom"),
        (factories.part10_bytes(factories.ct_slice())[:-200], "truncated"),
        (factories.part10_bytes(factories.ct_slice())[:700], "truncated"),
        (factories.part10_bytes(factories.ct_slice(PixelData=None)), "no_pixel_data"),
        (factories.part10_bytes(factories.ct_slice(StudyInstanceUID=None)), "no_identity"),
        (factories.part10_bytes(factories.ct_slice(SeriesInstanceUID="")), "no_identity"),
        (factories.part10_bytes(factories.ct_slice(Rows=64)), "truncated"),
        (factories.part10_bytes(factories.ct_slice(Rows=0)), "bad_pixel_data"),
        (factories.part10_bytes(factories.ct_slice(NumberOfFrames=2**30)), "truncated"),
        (factories.nested_sequences(10_000), "too_deep"),
    ],
)
def test_bad_files_are_refused_with_a_code_and_a_reason(batch, data, code):
    outcome = store.store_file(data, batch=batch, name="folder/bad.dcm")
    assert (outcome.state, outcome.code) == ("refused", code)
    assert len(outcome.reason) > 10
    assert (Refusal.objects.get().name, Refusal.objects.get().code) == ("bad.dcm", code)
    assert not Study.objects.exists()
    assert not Patient.objects.exists()
    assert list(settings.MEDIA_ROOT.joinpath("incoming").iterdir()) == []


def test_an_object_without_pixels_that_is_no_image_is_stored(batch):
    report = factories.ct_slice(SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11", Modality="SR", PixelData=None, Rows=None)
    assert put(batch, report).state == "stored"
    assert (Instance.objects.get().number_of_frames, Instance.objects.get().frame_table) == (0, [])


@pytest.mark.parametrize("skip", [128 + 4, None])
def test_a_data_set_without_preamble_or_meta_header_gets_one(batch, skip):
    data = factories.part10_bytes(factories.ct_slice())
    start = skip or data.index(b"\x08\x00\x05\x00CS")
    first = store.store_file(data[start:], batch=batch)
    again = store.store_file(data[start:], batch=batch)
    assert (first.state, again.state) == ("stored", "duplicate")
    row = Instance.objects.get()
    whole = store.absolute_path(row.file).read_bytes()
    assert whole[128:132] == b"DICM"
    assert whole.endswith(data[data.index(b"\x08\x00\x05\x00CS") :])
    assert row.transfer_syntax_uid == "1.2.840.10008.1.2.1"


def test_an_image_of_another_patient_does_not_join_a_study(batch):
    series = factories.make_ct_series(batch.project, 1)
    uid = series.study.study_instance_uid
    outcome = put(batch, factories.ct_slice(StudyInstanceUID=uid, PatientID="P2"))
    assert outcome.code == "patient_mismatch"
    anonymous = put(batch, factories.ct_slice(StudyInstanceUID=uid, PatientID=None))
    assert anonymous.state == "stored"
    assert Patient.objects.count() == 1


def test_a_series_knows_how_it_came_in_and_a_refused_file_its_study(batch):
    node_batch = store.open_batch(batch.project, ImportBatch.Source.DIMSE, sending_ae_title="CT_ROOM_2")
    series = put(node_batch, factories.ct_slice(StationName="CT-2")).instance.series
    series.refresh_from_db()
    assert (series.station_name, series.import_source, series.sending_ae_title) == ("CT-2", "dimse", "CT_ROOM_2")

    uid = series.study.study_instance_uid
    put(batch, factories.ct_slice(StudyInstanceUID=uid, PatientID="P2"))
    assert Refusal.objects.open().of_study(uid, batch.project_id).count() == 1
    assert not Refusal.objects.of_study(uid, factories.ProjectFactory().pk).exists()
    series = put(batch, factories.ct_slice(StudyInstanceUID=uid, SeriesInstanceUID=generate_uid())).instance.series
    assert (series.import_source, series.sending_ae_title) == ("command", "")


def test_studies_without_a_patient_id_are_not_merged_into_one_patient(batch):
    factories.make_ct_series(batch.project, 1, PatientID=None)
    factories.make_ct_series(batch.project, 1, PatientID="")
    assert Patient.objects.count() == 2


def test_nobody_adds_to_a_series_of_another_author(batch):
    alice, bob = factories.UserFactory(), factories.UserFactory()
    how = {"origin": Origin.ANNOTATION}
    series = factories.make_ct_series(batch.project, 1, created_by=alice, **how)
    uids = {"StudyInstanceUID": series.study.study_instance_uid, "SeriesInstanceUID": series.series_instance_uid}
    assert put(batch, factories.ct_slice(1, **uids), created_by=bob, **how).code == "series_mismatch"
    assert put(batch, factories.ct_slice(2, **uids)).code == "series_mismatch"
    assert put(batch, factories.ct_slice(3, **uids), created_by=alice, **how).state == "stored"
    assert Series.objects.get().number_of_instances == 2


@pytest.mark.django_db(transaction=True)
def test_uploads_of_one_study_at_the_same_time_all_succeed():
    project = factories.ProjectFactory()
    study = {"StudyInstanceUID": generate_uid()}
    groups = [factories.ct_datasets(4, **study) for _ in range(4)]
    shared = factories.ct_datasets(3, **study)
    results, errors = [], []

    def upload(datasets):
        try:
            batch = store.open_batch(project, ImportBatch.Source.UPLOAD)
            files = [(factories.part10_bytes(d), "x") for d in datasets]
            results.extend(store.store_files(files, batch=batch))
        except Exception as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=upload, args=(group + shared[::-1],)) for group in groups]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(r.state for r in results) == ["duplicate"] * 9 + ["stored"] * 19
    row = Study.objects.get()
    assert (row.number_of_series, row.number_of_instances) == (5, 19)
    assert sorted(s.number_of_instances for s in row.series.all()) == [3, 4, 4, 4, 4]


def test_a_failure_before_the_rows_leaves_nothing_visible(batch, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("studies.ingest.store.rows.insert", fail)
    with pytest.raises(OSError, match="disk full"):
        put(batch, factories.ct_slice())
    assert not Study.objects.exists()
    assert not Instance.objects.exists()
