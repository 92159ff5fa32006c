"""Pages on which tables come in, pairs of near-duplicates, and cohorts from everything that a filter matches."""

from __future__ import annotations

import csv
import io
import re
import zipfile

import numpy as np
import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.urls import reverse
from PIL import Image

from inference.jobs.models import Job
from portal.accounts.models import Role
from portal.worklist.tasks import import_pictures
from studies.cohorts import services
from studies.cohorts.clinical import ClinicalValue, ClinicalVariable, TableImport
from studies.cohorts.models import Cohort
from studies.duplicates import services as duplicates
from studies.duplicates.models import Pair
from studies.models import Embargo, Patient, Refusal
from tests.factories import ProjectFactory, UserFactory, ct_pixels, make_ct_series, member
from tests.jobs import execute

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def media(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path


@pytest.fixture
def project():
    return ProjectFactory(slug="chest")


@pytest.fixture
def engineer(client, project):
    user = member(project, Role.ENGINEER)
    client.force_login(user)
    return user


def upload(client, project, text: str | bytes, purpose="variables", cohort=None, **more):
    data = text.encode() if isinstance(text, str) else text
    return client.post(
        reverse("table_create"),
        {"purpose": purpose, "project": project.slug, "cohort": cohort.pk if cohort else "",
         "file": SimpleUploadedFile("labs.csv", data), **more},
    )  # fmt: skip


def test_a_table_is_uploaded_checked_corrected_and_imported(client, project, engineer):
    for n in (1, 2):
        Patient.objects.create(project=project, patient_id=f"P{n}")
    made = upload(client, project, "PatientID;seen;CRP\nP1;03/04/2020;1,5\nP2;05/06/2020;2,5\nP9;05/06/2020;2\n")
    record = TableImport.objects.get()
    assert made.url == reverse("table", args=[record.pk])
    page = client.get(made.url).content.decode()
    assert "2 problems" in page
    assert "No patient of the project has this ID." in page
    assert "say which" in page
    assert reverse("table_finish", args=[record.pk]) not in page
    refused = client.post(reverse("table_finish", args=[record.pk]), follow=True).content.decode()
    assert "nothing was imported" in refused
    said = {
        "kind-0": "patient_id",
        "kind-1": "date",
        "kind-2": "number",
        "dates-1": "mdy",
        "unit-2": "mg/L",
        "unknown": "skip",
    }
    assert client.post(made.url, said).status_code == 302
    page = client.get(made.url).content.decode()
    assert "Ready" in page
    assert client.post(reverse("table_finish", args=[record.pk])).url == reverse("clinical")
    assert ClinicalValue.objects.get(patient__patient_id="P1", variable__name="seen").date.isoformat() == "2020-03-04"
    assert ClinicalVariable.objects.get(name="CRP").unit == "mg/L"
    listed = client.get(reverse("clinical")).content.decode()
    assert "CRP" in listed
    assert "labs.csv" in listed


def test_another_encoding_is_read_when_it_is_chosen(client, project, engineer):
    Patient.objects.create(project=project, patient_id="P1")
    upload(client, project, "PatientID,Größe\nP1,1\n".encode("latin-1"), encoding="utf-16")
    assert not TableImport.objects.exists()
    upload(client, project, "PatientID,Größe\nP1,1\n".encode("latin-1"))
    record = TableImport.objects.get()
    url = reverse("table", args=[record.pk])
    assert "Windows-1252" in client.get(url).content.decode()
    client.post(url, {"kind-0": "patient_id", "kind-1": "number", "encoding": "latin-1"})
    assert "Latin-1" in client.get(url).content.decode()


def test_what_is_no_table_is_explained_at_the_field(client, project, engineer):
    answer = upload(client, project, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(50))
    assert answer.status_code == 422
    assert "old Excel format" in answer.content.decode()
    needs_cohort = upload(client, project, "case\nC-0001\n", purpose="cohort")
    assert "Choose the cohort" in needs_cohort.content.decode()


def test_script_in_a_table_is_shown_as_text(client, project, engineer):
    upload(client, project, "PatientID,<script>alert(1)</script>\n<img src=x>,<i>7</i>\n")
    page = client.get(reverse("table", args=[TableImport.objects.get().pk])).content.decode()
    assert "<script>alert" not in page
    assert "<img src=x>" not in page
    assert "<i>7</i>" not in page


def test_a_cohort_takes_cases_and_classes_from_tables(client, project, engineer):
    cohort = services.create(project=project, name="A", by=None)
    studies = [make_ct_series(project, 1, PatientID=f"P{n}", PatientName=f"N^{n}").study for n in (1, 2)]
    upload(client, project, "PatientID\nP1\nP2\n", purpose="cohort", cohort=cohort)
    client.post(reverse("table_finish", args=[TableImport.objects.latest("pk").pk]))
    assert set(cohort.cases.values_list("study", flat=True)) == {study.pk for study in studies}
    upload(client, project, "case,label\nC-0001,covid\nC-0002,none\n", purpose="reference", cohort=cohort)
    record = TableImport.objects.latest("pk")
    client.post(
        reverse("table", args=[record.pk]),
        {"kind-0": "case", "kind-1": "label", "reference": "Biopsy", "source": "pathology"},
    )
    assert client.post(reverse("table_finish", args=[record.pk])).url == reverse("cohort", args=[cohort.pk])
    reference = cohort.reference_standards.get()
    assert (str(reference), reference.source, reference.classes) == ("Biopsy v1", "pathology", ["covid", "none"])
    assert "covid" in client.get(reverse("cohort", args=[cohort.pk])).content.decode()


def test_lists_take_a_fixed_number_of_queries(client, project, engineer, django_assert_max_num_queries):
    patients = [Patient.objects.create(project=project, patient_id=f"P{n}") for n in range(3)]
    for n in range(8):
        variable = ClinicalVariable.objects.create(project=project, name=f"V{n}", kind="number")
        for patient in patients:
            ClinicalValue.objects.create(variable=variable, patient=patient, number=n)
        upload(client, project, f"PatientID,V{n}\nP1,1\n")
    copies(project)
    with django_assert_max_num_queries(20):
        client.get(reverse("clinical"))
    for url in ("/api/clinical-variables/", "/api/clinical-values/", "/api/table-imports/", "/api/near-duplicates/"):
        with django_assert_max_num_queries(8):
            assert client.get(url).status_code == 200


def copies(project, other=None):
    make_ct_series(project, 1, PatientID="P1")
    make_ct_series(other or project, 1, PatientID="P2", PixelData=copy_pixels())
    duplicates.compare_pending(settled=False)
    return Pair.objects.get()


def copy_pixels() -> bytes:
    return ct_pixels(0).astype("<i2").tobytes()


def test_pairs_are_shown_side_by_side_and_settled(client, project, engineer, django_assert_max_num_queries):
    pair = copies(project)
    with django_assert_max_num_queries(24):
        page = client.get(reverse("duplicates")).content.decode()
    assert "P1" in page
    assert "P2" in page
    assert "0 of 255 bits differ" in page
    client.post(reverse("duplicate_settle", args=[pair.pk]), {"same": "no"})
    pair.refresh_from_db()
    assert (pair.state, pair.settled_by) == ("dismissed", engineer)
    assert "P1" not in client.get(reverse("duplicates")).content.decode()
    assert "P1" in client.get(reverse("duplicates"), {"state": "dismissed"}).content.decode()
    client.post(reverse("duplicate_settle", args=[pair.pk]), {"same": "yes"})
    pair.refresh_from_db()
    assert pair.state == "found"


def test_a_pair_with_a_project_that_one_may_only_view_is_not_settled_and_not_listed(client, project, engineer):
    other = ProjectFactory()
    pair = copies(project, other)
    assert client.post(reverse("duplicate_settle", args=[pair.pk])).status_code == 404
    other.memberships.create(user=engineer, role=Role.VIEWER)
    assert client.post(reverse("duplicate_settle", args=[pair.pk])).status_code == 403
    assert "P2" not in client.get(reverse("duplicates")).content.decode()


def test_a_cohort_page_warns_of_copies_on_two_sides_and_of_changed_studies(client, project, engineer):
    cohort = services.create(project=project, name="A", by=None)
    studies = [make_ct_series(project, 1, PatientID=f"P{n}").study for n in (2, 3)]
    services.add_studies(cohort, studies)
    services.freeze(cohort, by=None, fractions={"train": 0.5, "test": 0.5})
    page = client.get(reverse("cohort", args=[cohort.pk])).content.decode()
    assert "two sides of the split" not in page
    assert "split=changed" not in page
    series = [study.series.get() for study in studies]
    Pair.objects.create(one=series[0], other=series[1], distance=4)
    make_ct_series(project, 1, PatientID="P2", StudyInstanceUID=studies[0].study_instance_uid, SeriesDescription="New")
    page = client.get(reverse("cohort", args=[cohort.pk])).content.decode()
    assert "1 pair of near-duplicate images on two sides of the split" in page
    assert "1 case changed" in page
    narrowed = client.get(reverse("cohort", args=[cohort.pk]), {"split": "changed"}).content.decode()
    assert "1 new series" in narrowed
    assert "C-0002" not in narrowed


def test_classes_are_not_shown_to_readers_nor_to_who_reads_blinded(client, project, engineer):
    cohort = services.create(project=project, name="A", by=None)
    cases = services.add_studies(cohort, [make_ct_series(project, 1, PatientID=f"P{n}").study for n in (1, 2)]).cases
    truths = [
        services.CaseTruth(case, values={"class": name}) for case, name in zip(cases, ("covid", "clear"), strict=True)
    ]
    services.create_reference(
        cohort, name="X", source="import", labels=[], classes=["covid", "clear"], cases=truths, by=None
    )

    def exported() -> list[str]:
        text = client.get(reverse("cohort_export", args=[cohort.pk])).content.decode()
        return [row["class"] for row in csv.DictReader(io.StringIO(text))]

    assert exported() == ["covid", "clear"]
    Embargo.objects.create(user=engineer, study=cases[0].study, reason="campaign:1")
    assert exported() == ["", "clear"]
    client.force_login(member(project, Role.READER))
    assert exported() == ["", ""]
    services.freeze(cohort, by=None, fractions={"train": 0.5, "test": 0.5})
    page = client.get(reverse("cohort", args=[cohort.pk])).content.decode()
    assert 'data-label="Class"' not in page
    assert 'data-label="covid"' not in page


def test_freezing_in_folds_by_the_form_shows_the_table(client, project, engineer):
    cohort = services.create(project=project, name="A", by=None)
    services.add_studies(cohort, [make_ct_series(project, 1, PatientID=f"P{n}").study for n in range(6)])
    url = reverse("cohort_freeze", args=[cohort.pk])
    assert client.post(url, {"kind": "folds", "folds": "", "seed": 1}).status_code == 422
    assert client.post(url, {"kind": "sources", "source": "manufacturer", "seed": 1}).status_code == 422  # only one
    assert client.post(url, {"kind": "folds", "folds": 3, "held_out": 0, "seed": 1}).status_code == 302
    page = client.get(reverse("cohort", args=[cohort.pk])).content.decode()
    assert "3 folds" in page
    part = client.get(reverse("cohort", args=[cohort.pk]), {"split": "fold-1"}).content.decode()
    shown = {case.name for case in cohort.cases.filter(cohort_patient__fold=1)}
    assert all((f"{case.name}<" in part) == (case.name in shown) for case in cohort.cases.all())
    exported = list(
        csv.DictReader(io.StringIO(client.get(reverse("cohort_export", args=[cohort.pk])).content.decode()))
    )
    assert {row["fold"] for row in exported} == {"1", "2", "3"}


def test_everything_that_the_filter_matches_becomes_a_cohort(client, project, engineer):
    for n in range(3):
        make_ct_series(project, 1, PatientID=f"P{n}", StudyDescription="Knee" if n else "Hip")
    page = client.post(reverse("studies"), {"q": "Knee", "modality": "CT", "sort": "added"}).content.decode()
    offered = page[page.index(f'<form method="post" action="{reverse("cohort_create")}"') :].split("</form>")[0]
    fields = dict(re.findall(r'name="(\w+)" value="([^"]*)"', offered))
    assert (fields["all"], fields["q"], fields["modality"]) == ("1", "Knee", "CT")
    form = client.post(reverse("cohort_create"), fields)
    page = form.content.decode()
    assert form.status_code == 200
    assert "Add 2 studies to a cohort" in page
    sent = {"all": "1", "filter-q": "Knee", "filter-modality": "CT", "cohort": "", "name": "Knees"}
    made = client.post(reverse("cohort_create"), sent)
    assert made.status_code == 302
    assert "Knee" not in made.url
    assert Cohort.objects.get().cases.count() == 2
    nothing = client.post(reverse("cohort_create"), {"all": "1", "q": "Elbow"}).content.decode()
    assert "No study matches the filter" in nothing


def test_the_clinical_export_carries_no_identity(client, project, engineer):
    series = make_ct_series(project, 1, PatientID="SECRET1", PatientName="Hidden^One")
    cohort = services.create(project=project, name="A", by=None)
    services.add_studies(cohort, [series.study])
    upload(client, project, "PatientID,date,CRP,stage\nSECRET1,2020-01-01,5,II\nSECRET1,2020-01-03 12:00,7,II\n")
    client.post(reverse("table_finish", args=[TableImport.objects.get().pk]))
    text = client.get(reverse("cohort_variables", args=[cohort.pk])).content.decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["patient"], row["variable"], row["day"], row["value"]) for row in rows] == [
        ("P-0001", "CRP", "0", "5.0"), ("P-0001", "CRP", "2.5", "7.0"), ("P-0001", "stage", "", "II"),
    ]  # fmt: skip
    assert "SECRET" not in text
    assert "2020" not in text
    client.force_login(member(project, Role.READER))
    assert len(client.get(reverse("cohort_variables", args=[cohort.pk])).content.decode().splitlines()) == 1
    client.force_login(UserFactory())
    assert client.get(reverse("cohort_variables", args=[cohort.pk])).status_code == 404


def archive(**files: bytes) -> SimpleUploadedFile:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        for name, data in files.items():
            made.writestr(name, data)
    return SimpleUploadedFile("pictures.zip", stream.getvalue())


def png(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (30, 30), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def test_an_archive_of_pictures_is_imported_by_a_job(client, project, engineer, tmp_path):
    wrong = client.post(
        reverse("pictures"), {"project": "chest", "cohort": "A", "file": SimpleUploadedFile("a.zip", b"no")}
    )
    assert wrong.status_code == 422
    text = b"file,label,patient\nimg/a.png,x,P1\nimg/b.png,y,P2\nimg/gone.png,y,P3\n"
    files = {"set/labels.csv": text, "set/img/a.png": png(1), "set/img/b.png": png(2), "../../evil.png": png(3)}
    sent = client.post(
        reverse("pictures"), {"project": "chest", "cohort": "A", "kind": "CR", "file": archive(**files), "split": ""}
    )
    job = Job.objects.get()
    assert sent.url == reverse("job", args=[job.pk])
    execute(job, import_pictures.body)
    job.refresh_from_db()
    assert job.state == "succeeded", (job.cause, list(job.log.values_list("text", flat=True)))
    assert (job.result["stored"], job.result["refused"], job.result["classes"]) == (2, 1, {"x": 1, "y": 1})
    assert Cohort.objects.get().cases.count() == 2
    assert Refusal.objects.get(code="not_found")
    assert not list((tmp_path / "tables").iterdir())
    assert client.get(reverse("job", args=[job.pk])).status_code == 200


def test_an_archive_without_a_table_is_a_failure_in_words(client, project, engineer):
    client.post(reverse("pictures"), {"project": "chest", "cohort": "A", "file": archive(**{"a.png": png(1)})})
    job = Job.objects.get()
    execute(job, import_pictures.body)
    job.refresh_from_db()
    assert job.state == "failed"
    assert "no table" in job.cause
