"""What a blinded task root serves and stores: no identity out, the true identity in."""

import io
import json

import pydicom
import pytest
from django.urls import reverse
from pydicom.dataset import Dataset

from portal.annotation import segmentations
from portal.annotation.blinding import Blinding
from studies.cohorts import services as cohorts
from studies.dicom import segmentation
from studies.models import ImportBatch, Instance, Origin, Series
from studies.volumes import source_datasets
from tests.factories import ct_slice, make_ct_series, part10_bytes
from tests.portal.annotation.conftest import box, task_of

IDENTITY = {
    "PatientName": "Hidden^Helga",
    "PatientID": "SECRET-ID-77",
    "PatientBirthDate": "19511231",
    "OtherPatientIDs": "SECRET-OTHER",
    "PatientAddress": "Secret Street 9",
    "PatientTelephoneNumbers": "0451-SECRET",
    "PatientComments": "SECRET comment",
    "InstitutionName": "Secret Hospital",
    "InstitutionAddress": "Secret Lane",
    "StationName": "SECRETSTATION",
    "AccessionNumber": "SECRETACC",
    "StudyID": "SECRETSTUDY",
    "ReferringPhysicianName": "Secret^Referrer",
    "PerformingPhysicianName": "Secret^Performer",
    "OperatorsName": "Secret^Operator",
    "ImageComments": "secret remark",
}
WORDS = [b"secret", b"hidden", b"helga", b"19511231"]


def nothing_of_the_patient(content: bytes) -> None:
    found = [word for word in WORDS if word in content.lower()]
    assert not found, found


@pytest.fixture
def task(world):
    """The blinded task of alice on a case full of identity."""
    nested = Dataset()
    nested.PatientName = "Hidden^Nested"
    nested.RequestingPhysician = "Secret^Requester"
    series = make_ct_series(world.project, ReferencedStudySequence=[nested], **IDENTITY)
    cohort = cohorts.create(project=world.project, name="Identified", by=world.manager)
    cohorts.add_studies(cohort, [series.study])
    return task_of(world.campaign(cohort=cohort), world.alice)


def seg_of(task, *, pseudonymous: bool = True, label_map=None, **changes) -> Dataset:
    dataset = segmentation.write(
        source_datasets(task.case.image),
        box(slice(10, 20)) if label_map is None else label_map,
        segmentations.labels_of(task.campaign),
    )
    if pseudonymous:
        Blinding(task.case.name).strip(dataset)
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    return dataset


def stow(client, task, dataset):
    boundary = b"part"
    body = b"--part\r\nContent-Type: application/dicom\r\n\r\n" + part10_bytes(dataset) + b"\r\n--part--\r\n"
    return client.post(
        f"/dicomweb/tasks/{task.pk}/studies",
        data=body,
        content_type=f'multipart/related; type="application/dicom"; boundary={boundary.decode()}',
    )


def content(response) -> bytes:
    return b"".join(response.streaming_content) if response.streaming else response.content


def paths(task) -> list[str]:
    study, series = task.case.study.study_instance_uid, task.case.image.series_instance_uid
    first = task.case.image.instances.first().sop_instance_uid
    return [
        "studies",
        "studies?includefield=all",
        "series",
        "instances?includefield=all",
        f"studies/{study}/series?includefield=all",
        f"studies/{study}/metadata",
        f"studies/{study}/series/{series}/metadata",
        f"studies/{study}/series/{series}/instances/{first}/metadata",
        f"studies/{study}",
        f"studies/{study}/series/{series}",
        f"studies/{study}/series/{series}/instances/{first}",
        f"wado?requestType=WADO&studyUID={study}&seriesUID={series}&objectUID={first}&contentType=application/dicom",
    ]


def test_no_path_of_the_root_tells_who_the_patient_is(client, world, task):
    client.force_login(world.alice)
    for path in paths(task):
        response = client.get(f"/dicomweb/tasks/{task.pk}/{path}")
        assert response.status_code == 200, path
        nothing_of_the_patient(content(response))


def test_qido_and_files_carry_the_pseudonym(client, world, task):
    client.force_login(world.alice)
    (study,) = client.get(f"/dicomweb/tasks/{task.pk}/studies").json()
    assert study["00100010"]["Value"] == [{"Alphabetic": task.case.name}]
    assert study["00100020"]["Value"] == [task.case.name]
    assert "Value" not in study.get("00100030", {})
    instance = task.case.image.instances.first()
    served = pydicom.dcmread(io.BytesIO(Blinding("C-1").part10(segmentations.file_of(instance))))
    stored = pydicom.dcmread(segmentations.file_of(instance))
    assert (served.PatientName, served.PatientID, served.PatientIdentityRemoved) == ("C-1", "C-1", "YES")
    assert served.PixelData == stored.PixelData
    assert served.SOPInstanceUID == stored.SOPInstanceUID
    assert served.ImagePositionPatient == stored.ImagePositionPatient


def test_searching_by_identity_does_not_give_it_away(client, world, task):
    client.force_login(world.alice)
    root = f"/dicomweb/tasks/{task.pk}/studies"
    for query in ("PatientName=Hidden*", "PatientID=SECRET-ID-77", "AccessionNumber=SECRETACC", "00100030=19511231"):
        assert client.get(f"{root}?{query}").json() == [], query
    assert len(client.get(f"{root}?PatientID={task.case.name}").json()) == 1


def test_an_open_campaign_serves_the_patient_as_stored(client, world):
    campaign = world.campaign(blinded=False)
    task = task_of(campaign, world.alice)
    client.force_login(world.alice)
    (study,) = client.get(f"/dicomweb/tasks/{task.pk}/studies").json()
    assert study["00100020"]["Value"] == [task.case.study.patient.patient_id]


def test_private_and_nested_identity_goes_too():
    dataset = ct_slice(**IDENTITY)
    block = dataset.private_block(0x0099, "SECRET CREATOR", create=True)
    block.add_new(1, "LO", "secret private")
    item = Dataset()
    item.PatientID = "SECRET"
    item.PersonName = "Secret^Person"
    dataset.ReferencedStudySequence = [item]
    served = Blinding("C-9").dataset(json.loads(dataset.to_json()))
    nothing_of_the_patient(json.dumps(served).encode())
    Blinding("C-9").strip(dataset)
    nothing_of_the_patient(part10_bytes(dataset))


def test_what_a_blinded_reader_stores_is_kept_under_the_true_patient_and_served_blinded(client, world, task):
    client.force_login(world.alice)
    sent = seg_of(task)
    response = stow(client, task, sent)
    assert response.status_code == 200, response.content
    instance = Instance.objects.get(sop_instance_uid=sent.SOPInstanceUID)
    kept = pydicom.dcmread(segmentations.file_of(instance))
    assert (kept.PatientID, str(kept.PatientName), kept.AccessionNumber) == (
        "SECRET-ID-77",
        "Hidden^Helga",
        "SECRETACC",
    )
    assert kept.PixelData == sent.PixelData
    assert "PatientIdentityRemoved" not in kept
    series = instance.series
    assert (series.origin, series.created_by, series.provenance) == (
        Origin.DRAFT,
        world.alice,
        f"campaign {task.campaign_id} task {task.pk}",
    )
    uid = f"studies/{sent.StudyInstanceUID}/series/{sent.SeriesInstanceUID}"
    for path in (uid, f"{uid}/metadata", f"{uid}/instances/{sent.SOPInstanceUID}"):
        served = client.get(f"/dicomweb/tasks/{task.pk}/{path}")
        assert served.status_code == 200
        nothing_of_the_patient(content(served))


def test_sending_the_same_object_again_is_no_conflict(client, world, task):
    client.force_login(world.alice)
    sent = seg_of(task)
    assert stow(client, task, sent).status_code == 200
    assert stow(client, task, sent).status_code == 200
    # a drawing that is saved is no import: it must not crowd the list of what was brought in
    assert set(ImportBatch.objects.filter(created_by=world.alice).values_list("source", flat=True)) == {"reading"}
    assert Instance.objects.filter(sop_instance_uid=sent.SOPInstanceUID).count() == 1


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        (lambda task, other: seg_of(task, StudyInstanceUID="1.2.3.4"), 409, "another study"),
        (lambda task, other: seg_of(other, StudyInstanceUID=task.case.study.study_instance_uid), 409, "other images"),
        (lambda task, other: ct_slice(StudyInstanceUID=task.case.study.study_instance_uid), 403, "Only segmentations"),
    ],
    ids=["another study", "other images", "an image"],
)
def test_only_work_on_this_very_study_is_stored(client, world, task, change, status, words):
    other = task_of(world.campaign(name="Other"), world.alice)
    client.force_login(world.alice)
    before = Series.objects.count()
    response = stow(client, task, change(task, other))
    assert response.status_code == status
    assert words in response.json()["detail"]
    assert Series.objects.count() == before


def test_nobody_but_the_reader_opens_the_root(client, world, task):
    for person in (world.bob, world.carol, world.manager, world.engineer, world.viewer, world.outsider):
        client.force_login(person)
        assert client.get(f"/dicomweb/tasks/{task.pk}/studies").status_code == 404, person
        assert stow(client, task, seg_of(task)).status_code == 404
        assert client.get(reverse("reading_state", args=[task.pk])).status_code == 404
    client.logout()
    assert client.get(f"/dicomweb/tasks/{task.pk}/studies").status_code == 401


def test_the_root_is_shut_while_the_campaign_is_paused(client, world, task):
    from portal.annotation import campaigns

    campaigns.pause(task.campaign, by=world.manager)
    client.force_login(world.alice)
    response = client.get(f"/dicomweb/tasks/{task.pk}/studies")
    assert response.status_code == 409
    assert "paused" in response.json()["detail"]
