"""Ordering an export on its page and over REST, the sign-off, the file, and who may go back."""

from __future__ import annotations

import io
import zipfile

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from inference.jobs.models import Job
from portal.accounts.audit.models import AuditEvent
from portal.accounts.models import Role
from portal.worklist.tasks import export_deidentified
from studies.cohorts import services as cohorts
from studies.deid import keys, services
from studies.deid.models import Export, PixelReview
from studies.deid.profile import Profile
from tests.factories import ProjectFactory, UserFactory, ct_datasets, ct_slice, member, store_datasets
from tests.jobs import execute

with_worker = pytest.mark.django_db(transaction=True)
pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def media(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path


@pytest.fixture
def project():
    return ProjectFactory(slug="chest")


@pytest.fixture
def manager(client, project):
    user = member(project)
    client.force_login(user)
    return user


def cohort_of(project, **values):
    series = store_datasets(project, ct_datasets(2, PatientName="Zubkov^Wilhelmina", PatientID="MRN-7", **values))
    cohort = cohorts.create(project=project, name="All", by=None)
    cohorts.add_studies(cohort, [series.study])
    return cohort


def run_job(export):
    """As a worker does."""
    for job in Job.objects.filter(task=export_deidentified.name, state="queued"):
        execute(job, export_deidentified.body)
    export.refresh_from_db()


def ordered(client, project, **values):
    return client.post(reverse("exports"), {"order": 1, "project": project.slug, **values})


@with_worker
def test_from_the_form_to_the_file(client, project, manager, broker):
    cohort = cohort_of(project)
    ordered(client, project, cohort=cohort.pk, options=["shift-dates"], remove="Manufacturer, KVP", nifti="on")
    export = Export.objects.get()
    assert (export.profile, export.remove) == ("basic,shift-dates", ["KVP", "Manufacturer"])
    address = reverse("export", args=[export.pk])
    assert "In the making" in client.get(address).content.decode()
    run_job(export)
    assert export.state == "done", export.failure
    assert client.get(address, headers={"HX-Request": "true"})["HX-Refresh"] == "true"
    page = client.get(address).content.decode()
    assert "PatientName" in page
    assert "Zubkov" not in page
    response = client.get(reverse("export_download", args=[export.pk]))
    assert response["Content-Disposition"] == f'attachment; filename="readroom-export-{export.pk}.zip"'
    archive = zipfile.ZipFile(io.BytesIO(b"".join(response.streaming_content)))
    assert sum(name.endswith(".dcm") for name in archive.namelist()) == 2
    assert sum(name.endswith(".nii.gz") for name in archive.namelist()) == 1
    client.post(reverse("export_discard", args=[export.pk]))
    assert "The file was deleted" in client.get(address).content.decode()
    assert list(services.media("exports").iterdir()) == []
    told = set(AuditEvent.objects.filter(project=project).values_list("action", flat=True))
    assert {"export.order", "export.write", "study.deidentify", "export.fetch", "export.discard"} <= told


def test_studies_selected_in_the_worklist_are_exported(client, project, manager):
    one, other = (store_datasets(project, [ct_slice(PatientID=f"P{n}")]).study for n in range(2))
    assert "<b>2</b> selected studies" in client.get(reverse("exports"), {"study": [one.pk, other.pk]}).content.decode()
    ordered(client, project, study=[one.pk, other.pk])
    assert set(Export.objects.get().studies.all()) == {one, other}
    foreign = store_datasets(ProjectFactory(), [ct_slice()]).study
    assert ordered(client, project, study=[foreign.pk]).status_code == 422  # as if nothing were selected
    assert Export.objects.count() == 1


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"options": ["shift-dates", "retain-dates"]}, "both shifted and kept"),
        ({"remove": "PatientsName"}, "is no DICOM keyword"),
        ({"keep_private": "(0019,xx0C) ACME"}, "Retain Safe Private only"),
        ({"cohort": ""}, "Choose a cohort"),
    ],
)
def test_an_order_that_makes_no_sense_says_why(client, project, manager, values, words):
    cohort = cohort_of(project)
    answer = ordered(client, project, **({"cohort": cohort.pk} | values))
    assert answer.status_code == 422
    assert words in answer.content.decode()
    assert not Export.objects.exists()


@with_worker
def test_the_last_sign_off_lets_the_export_go_on(client, project, manager, broker):
    cohort = cohort_of(project, Modality="US")
    ordered(client, project, cohort=cohort.pk)
    export = Export.objects.get()
    run_job(export)
    assert export.state == "blocked"
    review = PixelReview.objects.get()
    address = reverse("export", args=[export.pk])
    assert "ultrasound" in client.get(address).content.decode()
    picture = client.get(reverse("export_picture", args=[export.pk, review.pk, 0]))
    assert picture.content.startswith(b"\x89PNG")
    assert picture["Cache-Control"] == "private, no-store"
    assert client.get(reverse("export_picture", args=[export.pk, review.pk, 99])).status_code == 404
    client.post(reverse("export_review", args=[export.pk, review.pk]), {"decision": "blank", "drawn": "1,2,3"})
    client.post(reverse("export_review", args=[export.pk, review.pk]), {"decision": "blank"})
    review.refresh_from_db()
    assert review.decision == ""  # nothing was marked
    client.post(reverse("export_review", args=[export.pk, review.pk]), {"decision": "blank", "drawn": "1,2,9,12"})
    review.refresh_from_db()
    assert (review.decision, review.blanked, review.by) == ("blank", [[1, 2, 9, 12]], manager)
    run_job(export)
    assert export.state == "done"
    assert manager.username in client.get(address).content.decode()


@with_worker
def test_a_failure_shows_file_and_attribute_and_can_be_started_again(client, project, manager, broker):
    cohort = cohort_of(project, Manufacturer="Zubkov")
    ordered(client, project, cohort=cohort.pk)
    export = Export.objects.get()
    run_job(export)
    assert export.state == "failed"
    page = client.get(reverse("export", args=[export.pk])).content.decode()
    assert "0001.dcm" in page
    assert "Manufacturer" in page
    assert "Zubkov" not in page
    assert "Zubkov" not in str(Job.objects.values_list("cause", "next_step", "progress_text").get())
    form = client.get(reverse("exports"), {"like": export.pk}).content.decode()
    assert 'value="Manufacturer"' in form
    assert f'<option value="{cohort.pk}" selected>' in form
    client.post(reverse("export_restart", args=[export.pk]))
    export.refresh_from_db()
    assert (export.state, export.failure) == ("queued", "")


def test_only_administrators_go_back(client, project, manager):
    patient = cohort_of(project).cases.get().study.patient
    asked = {"project": project.slug, "pseudonym": keys.keyed(project).patient("MRN-7")}
    assert client.post(reverse("reidentify"), asked).status_code == 403
    assert "behind a pseudonym" not in client.get(reverse("exports")).content.decode()
    client.force_login(UserFactory(is_superuser=True))
    assert client.post(reverse("reidentify"), asked).url == reverse("patient", args=[patient.pk])
    assert AuditEvent.objects.get(action="pseudonym.reveal", outcome="success").patient == patient.pk
    assert f"patient {patient.pk}" in client.get(reverse("exports") + "?project=chest").content.decode()


def many(project, n):
    study = store_datasets(project, [ct_slice(PatientID=f"Q{n}")]).study
    for _ in range(n):
        services.order(project=project, profile=Profile(), by=member(project), studies=[study])


@pytest.mark.parametrize("address", ["/exports/?project=chest", "/api/exports/"])
def test_the_lists_take_the_same_number_of_queries_however_long(client, project, manager, address):
    counted = []
    for n in (2, 9):
        many(project, n)
        with CaptureQueriesContext(
            connection,
        ) as queries:
            assert client.get(address).status_code == 200
        counted.append(len(queries))
    assert counted[0] == counted[1]


def test_the_list_has_the_exports_of_ones_own_projects_only(client, project, manager):
    many(project, 1)
    many(ProjectFactory(), 2)
    assert [row["id"] for row in client.get("/api/exports/").json()["results"]] == [project.exports.get().pk]
    client.force_login(member(project, Role.ENGINEER))
    assert client.get("/api/exports/").json()["results"] == []


@with_worker
def test_over_rest(client, project, manager, broker):
    cohort = cohort_of(project, Modality="US")
    asked = {"project": "chest", "cohort": cohort.pk, "options": ["retain-patient"], "nifti": False}
    made = client.post("/api/exports/", asked, content_type="application/json")
    assert made.status_code == 201, made.content
    export = Export.objects.get(pk=made.json()["id"])
    assert export.profile == "basic,retain-patient"
    assert client.get(f"/api/exports/{export.pk}/file/").status_code == 409
    run_job(export)
    assert client.get(f"/api/exports/{export.pk}/").json()["state"] == "blocked"
    (review,) = client.get(f"/api/exports/{export.pk}/pixels/").json()
    signed = client.post(
        f"/api/exports/{export.pk}/sign/",
        {"review": review["id"], "decision": "clear"},
        content_type="application/json",
    )
    assert signed.json()["by"] == manager.username
    run_job(export)
    assert b"".join(client.get(f"/api/exports/{export.pk}/file/").streaming_content)[:2] == b"PK"
    both = {"project": "chest", "cohort": cohort.pk, "studies": [1]}
    assert client.post("/api/exports/", both, content_type="application/json").status_code == 400
    wrong = {"project": "chest", "cohort": cohort.pk, "options": ["shift-dates", "retain-dates"]}
    answer = client.post("/api/exports/", wrong, content_type="application/json")
    assert (answer.status_code, answer.json()["code"]) == (409, "profile")
