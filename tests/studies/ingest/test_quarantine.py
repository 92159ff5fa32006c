"""Refused files: retried, compared with what is stored, decided, discarded; and who sees what of them."""

from __future__ import annotations

import pytest
from django.conf import settings

from portal.accounts.models import Role
from studies.ingest import quarantine, store
from studies.models import ImportBatch, Instance, Refusal, Study
from tests import factories

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def media(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path / "media"


@pytest.fixture
def project():
    return factories.ProjectFactory(slug="lung")


@pytest.fixture
def batch(project):
    return store.open_batch(project, ImportBatch.Source.UPLOAD)


@pytest.fixture
def conflict(batch):
    """A stored slice, and one with the same UID in which sex, a nested code and one pixel differ."""
    code = factories.Dataset()
    code.CodeValue, code.CodeMeaning = "T-D4000", "Abdomen"
    dataset = factories.ct_slice(AnatomicRegionSequence=[code])
    store.store_file(factories.part10_bytes(dataset), batch=batch, name="a.dcm")
    dataset.PatientSex = "M"
    dataset.AnatomicRegionSequence[0].CodeMeaning = "Chest"
    dataset.PixelData = dataset.PixelData[:-2] + b"\x07\x07"
    outcome = store.store_file(factories.part10_bytes(dataset), batch=batch, name="b.dcm")
    assert outcome.code == "conflict"
    return Refusal.objects.get()


def files(folder):
    return [path for path in (settings.MEDIA_ROOT / folder).rglob("*") if path.is_file()]


def test_a_conflict_names_exactly_the_elements_that_differ(conflict):
    found, complete = quarantine.compare(conflict)
    assert complete
    assert [(d.keyword, d.ours, d.theirs) for d in found if d.vr != "OW"] == [
        ("CodeMeaning", "Abdomen", "Chest"),
        ("PatientSex", "F", "M"),
    ]
    assert [d.place for d in found] == ["(0008,2218) item 1 (0008,0104)", "(0010,0040)", "(7FE0,0010)"]
    assert [d.identifying for d in found] == [False, True, False]
    pixels = found[-1]
    assert pixels.ours.startswith("2,560 bytes, SHA-256 ")
    assert pixels.ours != pixels.theirs


def test_the_same_values_in_another_character_set_and_byte_order_do_not_differ(batch):
    dataset = factories.ct_slice(PatientName="Müller^Jürgen")
    store.store_file(factories.part10_bytes(dataset), batch=batch)
    dataset.SpecificCharacterSet, dataset.PatientName = "ISO_IR 100", "Müller^Jürgen"
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2"
    store.store_file(factories.part10_bytes(dataset), batch=batch)
    found, _ = quarantine.compare(Refusal.objects.get())
    assert [d.keyword for d in found] == ["TransferSyntaxUID"]


def test_keeping_the_stored_one_settles_a_conflict_and_keeps_the_bytes(conflict):
    alice = factories.UserFactory()
    before = Instance.objects.get().sha256
    quarantine.keep_stored(conflict, by=alice)
    conflict.refresh_from_db()
    assert (conflict.state, conflict.settled_by) == ("kept", alice)
    assert len(files("quarantine")) == 1
    assert Instance.objects.get().sha256 == before
    with pytest.raises(quarantine.QuarantineError, match="settled already"):
        quarantine.keep_stored(conflict, by=alice)
    quarantine.discard(conflict, by=alice)
    assert files("quarantine") == []
    assert Refusal.objects.get().state == "discarded"


def test_a_conflict_is_refused_again_as_long_as_the_other_is_stored(conflict):
    assert quarantine.retry(conflict, by=None).code == "conflict"
    assert (Refusal.objects.count(), Refusal.objects.get().state) == (1, "open")
    assert (len(files("quarantine")), files("incoming")) == (1, [])
    Study.objects.get().delete()
    outcome = quarantine.retry(conflict, by=None)
    assert outcome.state == "stored"
    assert Refusal.objects.get().state == "stored"
    assert files("quarantine") == []
    batch = ImportBatch.objects.get()
    assert (batch.stored, batch.refused) == (2, 0)


def test_retry_shows_the_new_reason(batch):
    series = factories.make_ct_series(batch.project, 1)
    uid = series.study.study_instance_uid
    other = factories.ct_slice(StudyInstanceUID=uid, PatientID="P2")
    store.store_file(factories.part10_bytes(other), batch=batch, name="b.dcm")
    refusal = Refusal.objects.get()
    assert (refusal.code, refusal.size) == ("patient_mismatch", len(factories.part10_bytes(other)))
    assert quarantine.retry(refusal, by=None).code == "patient_mismatch"
    quarantine.path_of(refusal).write_bytes(factories.part10_bytes(other)[:-10])
    assert quarantine.retry(refusal, by=None).code == "truncated"
    refusal.refresh_from_db()
    assert refusal.code == "truncated"
    assert files("incoming") == []
    assert len(files("instances")) == 1


def test_what_was_not_kept_cannot_be_retried(batch):
    store.store_file(b"%PDF-1.7" + b"x" * 500, batch=batch, name="a.pdf")
    with pytest.raises(quarantine.QuarantineError, match="not kept"):
        quarantine.retry(Refusal.objects.get(), by=None)


def test_the_page_shows_reasons_and_hides_identity_from_engineers(client, project, conflict):
    engineer, manager = factories.member(project, Role.ENGINEER), factories.member(project, Role.MANAGER)
    client.force_login(engineer)
    page = client.get("/quarantine/").content.decode()
    assert "Other bytes under a stored UID" in page
    assert "b.dcm" in page
    detail = client.get(f"/quarantine/{conflict.pk}/").content.decode()
    assert "PatientSex" in detail
    assert "hidden" in detail
    assert "Abdomen" in detail
    client.force_login(manager)
    detail = client.get(f"/quarantine/{conflict.pk}/").content.decode()
    assert "hidden</td>" not in detail
    answer = client.get(f"/quarantine/{conflict.pk}/file/")
    assert b"".join(answer.streaming_content) == quarantine.path_of(conflict).read_bytes()
    assert answer["Content-Disposition"] == f'attachment; filename="refused-{conflict.pk}.bin"'
    client.post(f"/quarantine/{conflict.pk}/keep/")
    assert "Nothing waits here" in client.get("/quarantine/").content.decode()
    assert "Stored one counts" in client.get("/quarantine/?state=kept").content.decode()


def test_all_of_one_reason(client, project, batch):
    client.force_login(factories.member(project, Role.MANAGER))
    for k in range(3):
        store.store_file(factories.part10_bytes(factories.ct_slice(k))[:-20], batch=batch, name=f"{k}.dcm")
    store.store_file(b"x" * 900, batch=batch, name="notes.txt")
    whole = [factories.part10_bytes(factories.ct_slice(k)) for k in range(2)]
    for refusal, data in zip(Refusal.objects.filter(code="truncated").order_by("pk"), whole, strict=False):
        quarantine.path_of(refusal).write_bytes(data)
    answer = client.post("/quarantine/all/", {"action": "retry", "code": "truncated"}, follow=True)
    assert "2 stored, 0 were there already, 1 refused again." in answer.content.decode()
    assert Instance.objects.count() == 2
    client.post("/quarantine/all/", {"action": "discard"})
    assert sorted(Refusal.objects.values_list("state", flat=True)) == ["discarded"] * 2 + ["stored"] * 2
    assert files("quarantine") == []


def test_other_projects_stay_untouched(client, project, conflict):
    client.force_login(factories.member(factories.ProjectFactory(), Role.MANAGER))
    assert "b.dcm" not in client.get("/quarantine/?project=lung").content.decode()
    client.post("/quarantine/all/", {"action": "discard", "project": "lung"})
    assert Refusal.objects.get().state == "open"


def test_over_rest(client, project, conflict):
    client.force_login(factories.member(project, Role.MANAGER, username="alice"))
    listed = client.get("/api/refusals/?project=lung&code=conflict&state=open").json()
    (row,) = listed["results"] if isinstance(listed, dict) else listed
    assert (row["name"], row["kept"], row["source"]) == ("b.dcm", True, "upload")
    again = client.post(f"/api/refusals/{conflict.pk}/retry/").json()
    assert (again["state"], again["code"]) == ("open", "conflict")
    kept = client.post(f"/api/refusals/{conflict.pk}/keep/").json()
    assert (kept["state"], kept["settled_by"]) == ("kept", "alice")
    assert client.post(f"/api/refusals/{conflict.pk}/keep/").status_code == 409
    assert client.post(f"/api/refusals/{conflict.pk}/discard/").json()["kept"] is False
    assert client.get(f"/api/refusals/{conflict.pk}/file/").status_code == 409
