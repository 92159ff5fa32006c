from __future__ import annotations

import csv
import io

import pytest
from django.urls import reverse

from portal.accounts.models import Role
from studies.cohorts import services
from studies.cohorts.models import Cohort
from tests.factories import ProjectFactory, UserFactory, make_ct_series, member

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def media(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path


@pytest.fixture
def project():
    return ProjectFactory(slug="chest")


@pytest.fixture
def cohort(project):
    cohort = services.create(project=project, name="Chests", by=None)
    studies = [
        make_ct_series(project, 2, PatientID=f"SECRET{n}", PatientName=f"Hidden^{n}").study for n in (0, 1, 2, 2)
    ]
    services.add_studies(cohort, studies)
    return cohort


def get(client, name, *args, **query):
    return client.get(reverse(name, args=args), query)


def test_the_list_and_the_page_show_members_and_split(client, project, cohort, django_assert_max_num_queries):
    client.force_login(member(project, Role.ENGINEER))
    services.freeze(cohort, by=None, seed=2)
    for n in range(5):
        services.create(project=project, name=f"Other {n}", by=None)
    with django_assert_max_num_queries(25):
        listed = get(client, "cohorts").content.decode()
    assert "Chests" in listed
    with django_assert_max_num_queries(31):  # however many cases; one of them writes the audit trail
        page = get(client, "cohort", cohort.pk).content.decode()
    assert all(f"C-000{n}" in page for n in (1, 2, 3, 4))
    side = cohort.cases.get(name="C-0003").cohort_patient.split
    part = get(client, "cohort", cohort.pk, split=side).content.decode()
    assert "C-0003" in part
    assert "C-0004" in part  # the other study of the same patient
    assert "C-0001" not in part or cohort.cases.get(name="C-0001").cohort_patient.split == side


def test_another_project_sees_nothing(client, cohort):
    client.force_login(UserFactory())
    assert "Chests" not in get(client, "cohorts").content.decode()
    for name in ("cohort", "cohort_export"):
        assert get(client, name, cohort.pk).status_code == 404
    for name, args in (("cohort_freeze", [cohort.pk]), ("case_remove", [cohort.pk, cohort.cases.first().pk])):
        assert client.post(reverse(name, args=args)).status_code == 404


@pytest.mark.parametrize("role", [Role.READER, Role.VIEWER])
def test_readers_and_viewers_change_nothing(client, project, cohort, role):
    client.force_login(member(project, role))
    for name, args in (("cohort_freeze", [cohort.pk]), ("case_remove", [cohort.pk, cohort.cases.first().pk])):
        assert client.post(reverse(name, args=args), {"train": 70}).status_code == 403
    assert get(client, "cohort_create").status_code == 403
    assert client.post(reverse("cohort_create"), {"cohort": "", "name": "X"}).status_code == 403
    assert cohort.cases.count() == 4


def test_a_reader_cannot_follow_a_case_to_its_patient(client, project, cohort):
    client.force_login(member(project, Role.READER))
    page = get(client, "cohort", cohort.pk).content.decode()
    assert "C-0001" in page
    study = cohort.cases.get(name="C-0001").study
    assert "SECRET" not in page
    assert "Hidden" not in page
    assert reverse("study", args=[study.pk]) not in page


def test_studies_selected_in_the_worklist_become_a_cohort(client, project):
    client.force_login(member(project, Role.ENGINEER))
    studies = [make_ct_series(project, 1, PatientID=f"P{n}").study for n in range(2)]
    form = client.get(reverse("cohort_create") + "?" + "&".join(f"study={study.pk}" for study in studies))
    assert form.status_code == 200
    nameless = client.post(reverse("cohort_create"), {"study": [s.pk for s in studies], "cohort": "", "name": " "})
    assert nameless.status_code == 422
    made = client.post(reverse("cohort_create"), {"study": [s.pk for s in studies], "cohort": "", "name": "New"})
    cohort = Cohort.objects.get(name="New")
    assert made.url == reverse("cohort", args=[cohort.pk])
    assert cohort.cases.count() == 2
    taken = client.post(reverse("cohort_create"), {"study": [studies[0].pk], "cohort": "", "name": "New"})
    assert taken.status_code == 422
    assert "already has a cohort" in taken.content.decode()
    more = make_ct_series(project, 1, PatientID="P7").study
    client.post(reverse("cohort_create"), {"study": [more.pk], "cohort": cohort.pk})
    assert cohort.cases.count() == 3


def test_studies_of_a_foreign_project_are_left_out(client, project):
    client.force_login(member(project, Role.ENGINEER))
    own, foreign = make_ct_series(project, 1).study, make_ct_series(ProjectFactory(), 1).study
    client.post(reverse("cohort_create"), {"study": [own.pk, foreign.pk], "cohort": "", "name": "New"})
    assert list(Cohort.objects.get(name="New").cases.values_list("study", flat=True)) == [own.pk]


def test_freezing_by_the_form(client, project, cohort):
    user = member(project, Role.ENGINEER)
    client.force_login(user)
    url = reverse("cohort_freeze", args=[cohort.pk])
    wrong = client.post(url, {"train": 50, "validation": 10, "test": 20, "seed": 1})
    assert wrong.status_code == 422
    assert "add up to 80 %" in wrong.content.decode()
    assert client.post(url, {"train": 40, "validation": 30, "test": 30, "seed": 9}).status_code == 302
    cohort.refresh_from_db()
    assert (cohort.frozen, cohort.seed, cohort.frozen_by) == (True, 9, user)
    twice = client.post(url, {"train": 40, "validation": 30, "test": 30, "seed": 9})
    assert twice.status_code == 422
    assert "is frozen" in twice.content.decode()


def test_a_cohort_of_one_patient_is_explained(client, project):
    cohort = services.create(project=project, name="One", by=None)
    services.add_studies(cohort, [make_ct_series(project, 1).study])
    client.force_login(member(project, Role.ENGINEER))
    answer = client.post(
        reverse("cohort_freeze", args=[cohort.pk]), {"train": 70, "validation": 10, "test": 20, "seed": 1}
    )
    assert answer.status_code == 422
    assert "1 patient;" in answer.content.decode()


def test_the_export_carries_no_identity(client, project, cohort):
    client.force_login(member(project, Role.VIEWER))
    services.freeze(cohort, by=None)
    answer = get(client, "cohort_export", cohort.pk)
    assert answer["Content-Disposition"] == f'attachment; filename="cohort-{cohort.pk}.csv"'
    text = answer.content.decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["case"] for row in rows] == ["C-0001", "C-0002", "C-0003", "C-0004"]
    assert [row["patient"] for row in rows] == ["P-0001", "P-0002", "P-0003", "P-0003"]
    assert rows[2]["split"] == rows[3]["split"]
    for case in cohort.cases.select_related("study__patient", "image"):
        study = case.study
        for secret in (
            study.patient.patient_id, study.patient.patient_name, study.study_instance_uid,
            case.image.series_instance_uid, study.accession_number, "2024",
        ):  # fmt: skip
            assert secret not in text


def test_a_case_is_taken_out(client, project, cohort):
    client.force_login(member(project, Role.MANAGER))
    case = cohort.cases.get(name="C-0002")
    client.post(reverse("case_remove", args=[cohort.pk, case.pk]))
    assert not cohort.cases.filter(name="C-0002").exists()
    assert case.study.__class__.objects.filter(pk=case.study_id).exists()
