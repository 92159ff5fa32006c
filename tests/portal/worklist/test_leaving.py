"""A study is deleted or moved by a manager; what readers and cohorts rest on stays."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.urls import reverse

from inference.prediction.models import Prediction
from portal.accounts.audit.models import AuditEvent
from portal.accounts.models import Role
from portal.annotation.models import Campaign, Task
from portal.worklist import leaving, thumbnails
from studies import removal
from studies.cohorts import services as cohorts
from studies.ingest import store
from studies.ingest.checking import check
from studies.models import Instance, Origin, Patient, RemovedFile, Series, Study
from studies.removal import RemovalError
from tests.factories import ProjectFactory, make_ct_series, member
from tests.portal.rows import LABELS, prediction_row, version_row

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _own_media(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path / "media"


@pytest.fixture
def project(transactional_db):
    return ProjectFactory(slug="thorax")


@pytest.fixture
def manager(project, client):
    user = member(project, Role.MANAGER)
    client.force_login(user)
    return user


@pytest.fixture
def study(project) -> Study:
    return make_ct_series(project, 3, PatientID="L1", PatientName="Leaving^Lea").study


def files() -> set[Path]:
    root = Path(store.absolute_path(""))
    return {path for path in root.rglob("*") if path.is_file()}


def in_cohort(study: Study, manager):
    cohort = cohorts.create(project=study.project, name="Test set", by=manager)
    cohorts.add_studies(cohort, [study])
    return cohort


def test_nothing_of_a_deleted_study_is_left(client, manager, project, study):
    other = make_ct_series(project, 2, PatientID="L2")
    kept = files()
    kept_now = {store.absolute_path(row.file) for row in other.instances.all()}
    make_ct_series(project, 1, StudyInstanceUID=study.study_instance_uid, PatientID="L1", origin=Origin.MODEL)
    prediction_row(version_row(project), study)
    client.get(reverse("study_thumbnail", args=[study.pk]))
    series = study.series.get(origin=Origin.ACQUIRED)
    client.get(f"/dicomweb/studies/{study.study_instance_uid}/series/{series.series_instance_uid}/metadata")
    assert len(files()) > len(kept) + 1  # thumbnail and metadata are kept ready-made
    in_cohort(study, manager)

    response = client.post(reverse("study_delete", args=[study.pk]), follow=True)
    assert "was deleted" in response.content.decode()
    assert files() == kept_now
    assert not Study.objects.filter(pk=study.pk).exists()
    assert not Patient.objects.filter(patient_id="L1").exists()
    assert not Prediction.objects.exists()
    assert Instance.objects.count() == 2
    assert not RemovedFile.objects.exists()
    assert check().findings == []
    assert AuditEvent.objects.filter(action="study.delete", user_id=manager.pk, object_id=str(study.pk)).count() == 1


def test_the_page_says_what_will_be_lost(client, manager, project, study):
    prediction_row(version_row(project), study)
    in_cohort(study, manager)
    page = client.get(reverse("study_leave", args=[study.pk])).content.decode()
    assert "3 objects in 1 series" in page
    assert "1 AI result" in page
    assert "it leaves the cohort Test set" in page


@pytest.mark.parametrize("what", ["frozen", "reading", "closed", "reference"])
def test_what_others_rest_on_stays(client, manager, project, study, what):
    cohort = in_cohort(study, manager)
    reader = member(project, Role.READER)
    if what == "frozen":
        cohorts.freeze(cohort, fractions={"train": 1.0}, seed=1, by=manager)
        words = "is frozen"
    elif what == "reference":
        case = cohort.cases.get()
        reference = cohort.reference_standards.create(name="Truth", source="import", labels=LABELS)
        reference.case_labels.create(case=case, values={"class": "yes"})
        words = "The reference standard “Truth v1” says"
    else:
        campaign = Campaign.objects.create(project=project, cohort=cohort, name="Nodules", state=what)
        Task.objects.create(campaign=campaign, case=cohort.cases.get(), reader=reader, position=1)
        words = "“Nodules” is open" if what == "reading" else "Reads of the campaign “Nodules”"
    page = client.get(reverse("study_leave", args=[study.pk])).content.decode()
    assert "has to stay" in page
    assert words in page
    before = files()
    response = client.post(reverse("study_delete", args=[study.pk]), follow=True)
    assert "The study stays" in response.content.decode()
    assert words in response.content.decode()
    with pytest.raises(RemovalError, match=words):
        leaving.move(study, ProjectFactory(created_by=manager), by=_manager_everywhere(manager))
    assert files() == before
    assert Instance.objects.count() == 3
    assert cohort.cases.count() == 1


def _manager_everywhere(user):
    user.is_superuser = True
    return user


def test_moving_takes_images_along_and_leaves_results_behind(client, manager, project, study):
    to = ProjectFactory(slug="abdomen")
    to.memberships.create(user=manager, role=Role.MANAGER)
    stays = make_ct_series(project, 1, PatientID="L1").study  # of the same patient
    prediction_row(version_row(project), study)
    before = files()
    client.post(reverse("study_move", args=[study.pk]), {"project": "abdomen"})
    study.refresh_from_db()
    assert study.project == to
    assert (study.patient.project, study.patient.patient_id, study.patient.patient_name) == (to, "L1", "Leaving^Lea")
    assert set(Instance.objects.filter(series__study=study).values_list("project", flat=True)) == {to.pk}
    assert Patient.objects.get(project=project, patient_id="L1").studies.get() == stays
    assert not Prediction.objects.exists()
    assert files() == before
    assert check().findings == []
    outsider = member(project, Role.MANAGER)
    assert not Study.objects.visible_to(outsider).filter(pk=study.pk).exists()
    assert AuditEvent.objects.filter(action="study.move", object_id=str(study.pk)).count() == 1
    # What arrives for it later in the old project is a study of its own there.
    assert (
        make_ct_series(project, 1, StudyInstanceUID=study.study_instance_uid, PatientID="L1").study.project == project
    )


def test_a_study_that_is_there_already_is_not_moved(client, manager, project, study):
    to = ProjectFactory(slug="abdomen")
    to.memberships.create(user=manager, role=Role.MANAGER)
    make_ct_series(to, 1, StudyInstanceUID=study.study_instance_uid, PatientID="L1")
    response = client.post(reverse("study_move", args=[study.pk]), {"project": "abdomen"}, follow=True)
    assert "holds this study already" in response.content.decode()
    study.refresh_from_db()
    assert study.project == project


def test_only_into_projects_that_one_manages(client, manager, project, study):
    seen = ProjectFactory(slug="seen")
    seen.memberships.create(user=manager, role=Role.ENGINEER)
    ProjectFactory(slug="foreign")
    assert leaving.destinations(study, manager) == []
    response = client.post(reverse("study_move", args=[study.pk]), {"project": "seen"}, follow=True)
    assert "You are no manager of the other project" in response.content.decode()
    assert client.post(reverse("study_move", args=[study.pk]), {"project": "foreign"}).status_code == 404
    study.refresh_from_db()
    assert study.project == project


def test_files_that_a_crash_left_are_removed_and_never_taken_in_again(manager, project, study, monkeypatch):
    """The process ends between the commit and the removal of the files."""
    monkeypatch.setattr(removal, "finish", lambda: 0)
    leaving.delete(study, by=manager)
    monkeypatch.undo()
    assert len(files()) == 3
    report = check(repair=True, grace=0)
    assert report.findings == []
    assert files() == set()
    assert not Instance.objects.exists()
    assert not Series.objects.exists()


def test_thumbnails_of_every_image_are_named(project, study):
    assert len(thumbnails.of_study(study)) == 3
