"""Ordering an export on its page, the sign-off, the file, and who may go back."""

from __future__ import annotations

import io
import zipfile

import pytest
from django.urls import reverse

from portal.accounts.models import Role
from studies.cohorts import services as cohorts
from studies.deid.models import Export, PixelReview, Pseudonym
from tests.factories import ProjectFactory, UserFactory, ct_datasets, member, store_datasets

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def project():
    return ProjectFactory()


def cohort_of(project, **values):
    series = store_datasets(project, ct_datasets(2, PatientName="Zubkov^Wilhelmina", PatientID="MRN-7", **values))
    cohort = cohorts.create(project=project, name="All", by=None)
    cohorts.add_studies(cohort, [series.study])
    return cohort


def run_job(export):
    """As a worker does."""
    from inference.jobs.models import Job
    from inference.jobs.run import execute
    from portal.worklist.tasks import export_deidentified

    for job in Job.objects.filter(task=export_deidentified.name, state="queued"):
        execute(job.pk, export_deidentified.body, worker="test")
    export.refresh_from_db()


def test_from_the_form_to_the_file(client, project, broker):
    cohort = cohort_of(project)
    client.force_login(member(project))
    client.post(reverse("exports"), {"project": project.slug, "cohort": cohort.pk, "options": ["shift-dates"]})
    export = Export.objects.get()
    assert export.profile == "basic,shift-dates"
    run_job(export)
    assert export.state == "done"
    page = client.get(reverse("export", args=[export.pk])).content.decode()
    assert "PatientName" in page
    assert "Zubkov" not in page
    response = client.get(reverse("export_download", args=[export.pk]))
    assert response["Content-Disposition"] == f'attachment; filename="readroom-export-{export.pk}.zip"'
    archive = zipfile.ZipFile(io.BytesIO(b"".join(response.streaming_content)))
    assert sum(name.endswith(".dcm") for name in archive.namelist()) == 2


def test_the_last_sign_off_lets_the_export_go_on(client, project, broker):
    cohort = cohort_of(project, Modality="US")
    client.force_login(member(project))
    client.post(reverse("exports"), {"project": project.slug, "cohort": cohort.pk})
    export = Export.objects.get()
    run_job(export)
    assert export.state == "blocked"
    review = PixelReview.objects.get()
    assert "ultrasound" in client.get(reverse("export", args=[export.pk])).content.decode()
    client.post(reverse("export_review", args=[export.pk, review.pk]), {"decision": "clear"})
    run_job(export)
    assert export.state == "done"


def test_only_administrators_go_back(client, project):
    cohort = cohort_of(project)
    patient = cohort.cases.get().study.patient
    Pseudonym.objects.create(project=project, patient=patient, value="RR-ABC")
    asked = {"project": project.slug, "pseudonym": "RR-ABC"}
    client.force_login(member(project, Role.MANAGER))
    assert client.post(reverse("reidentify"), asked).status_code == 403
    client.force_login(UserFactory(is_superuser=True))
    assert client.post(reverse("reidentify"), asked).url == reverse("patient", args=[patient.pk])
