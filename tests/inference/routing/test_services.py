"""What comes in is routed once, whole, and nothing else is."""

from __future__ import annotations

import os
import signal
import time
from datetime import timedelta

import numpy as np
import psycopg
import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from inference.jobs.models import Job
from inference.prediction.models import Prediction
from inference.registry.models import Stage
from inference.routing import matching, rules, services
from inference.routing.conditions import RuleError
from inference.routing.models import Look, RoutedStudy, RoutingRule
from portal.accounts.audit.models import AuditEvent
from studies.dicom import segmentation
from studies.ingest import quarantine, store
from studies.models import ImportBatch, Origin, Refusal, RemovedFile, Series
from studies.volumes import source_datasets
from tests.factories import ProjectFactory, ct_slice, make_ct_series, part10_bytes, store_datasets
from tests.forking import fork, wait
from tests.inference.models_factory import LABELS
from tests.portal.rows import version_row

pytestmark = pytest.mark.django_db
Outcome = RoutedStudy.Outcome


def jobs() -> list[tuple[int, dict]]:
    """(version, studies and images) of each run that was started."""
    return [
        (job.parameters["version"], {int(k): v for k, v in job.parameters["images"].items()})
        for job in Job.objects.filter(task="inference.prediction.tasks.predict").order_by("pk")
    ]


def add_slice(series: Series) -> None:
    """A late image of the same series, next to its last one."""
    study = series.study
    dataset = ct_slice(
        series.number_of_instances,
        StudyInstanceUID=study.study_instance_uid,
        SeriesInstanceUID=series.series_instance_uid,
        FrameOfReferenceUID=series.frame_of_reference_uid,
        PatientID=study.patient.patient_id,
    )
    batch = store.open_batch(study.project, ImportBatch.Source.COMMAND)
    assert store.store_file(part10_bytes(dataset), batch=batch).state == "stored"
    series.refresh_from_db()


def test_a_study_that_came_in_is_run_once_on_the_series_that_matches(project, version, make_rule):
    make_rule(version, conditions={"series_description": {"how": "contains", "text": "lung"}})
    soft = make_ct_series(project, 5, SeriesDescription="Soft tissue")
    lung = make_ct_series(project, 3, SeriesDescription="Lung", StudyInstanceUID=soft.study.study_instance_uid)
    other = make_ct_series(project, 3, SeriesDescription="Head", PatientID="P2")
    assert services.route_settled() == 2
    assert jobs() == [(version.pk, {soft.study_id: lung.pk})]
    row = RoutedStudy.objects.get()
    assert (row.outcome, row.image, row.version, row.number_of_instances) == (Outcome.RUN, lung, version, 3)
    assert row.job == Job.objects.get()
    event = AuditEvent.objects.get(action="study.route")
    assert (event.object_id, event.detail["rule"]) == (str(soft.study_id), row.rule_id)

    assert services.route_settled() == 0
    assert set(Look.objects.values_list("study", flat=True)) == {soft.study_id, other.study_id}
    assert Job.objects.count() == 1


def test_what_was_there_before_the_rule_was_switched_on_is_left_alone(project, version, make_rule):
    make_ct_series(project)
    rule = make_rule(version)
    assert services.route_settled() == 0
    rules.switch(rule, False, by=None)
    make_ct_series(project, PatientID="P2")
    assert services.route_settled() == 0
    rules.switch(rule, True, by=None)
    assert services.route_settled() == 0
    new = make_ct_series(project, PatientID="P3")
    assert services.route_settled() == 1
    assert list(jobs()[0][1]) == [new.study_id]


def test_nothing_is_routed_while_images_still_come_in(project, version, make_rule, settings):
    settings.ROUTING_SETTLE_SECONDS = 60
    make_rule(version)
    series = make_ct_series(project)
    assert services.route_settled() == 0
    # 61 s later, but a second series of the study began 10 s ago
    Series.objects.filter(pk=series.pk).update(updated_at=timezone.now() - timedelta(seconds=61))
    RoutingRule.objects.update(enabled_at=timezone.now() - timedelta(hours=1))
    late = make_ct_series(project, StudyInstanceUID=series.study.study_instance_uid)
    assert services.route_settled() == 0
    Series.objects.filter(pk=late.pk).update(updated_at=timezone.now() - timedelta(seconds=61))
    assert services.route_settled() == 1
    assert len(jobs()) == 1


def test_what_models_readers_and_other_software_made_is_never_run_on(project, version, make_rule):
    """Neither a result of ours, nor one that comes back from a PACS, makes a study be routed."""
    rule = make_rule(version, conditions={"modality": ["SEG", "CT"]})
    series = make_ct_series(project)
    services.route_settled()
    mask = segmentation.write(source_datasets(series), _ones(series), LABELS, series_description="Result")
    ours = store_datasets(project, [mask], origin=Origin.MODEL)
    assert services.route_settled() == 0

    foreign = segmentation.write(source_datasets(series), _ones(series), LABELS, series_description="From elsewhere")
    theirs = store_datasets(project, [foreign], origin=Origin.ACQUIRED)
    services.route_settled()
    assert len(jobs()) == 1
    facts = matching.facts_of([series.study], [version])
    decision = matching.decide(rule, rule.parsed(), version, series.study, facts)
    assert decision.image == series
    assert ours.pk not in [one.pk for one in facts.images[series.study_id]]
    assert theirs.modality == "SEG"


def _ones(series: Series):
    return np.ones((series.number_of_instances, 32, 40), np.uint8)


def test_a_study_with_files_in_quarantine_waits_until_they_are_settled(project, version, make_rule):
    rule = make_rule(version)
    series = make_ct_series(project)
    uid = series.study.study_instance_uid
    batch = store.open_batch(project, ImportBatch.Source.COMMAND)
    assert store.store_file(part10_bytes(ct_slice(9, StudyInstanceUID=uid, PatientID="P9")), batch=batch).refused
    assert services.route_settled() == 0
    assert list(services.pending(project, held=True)) == [series.study]
    facts = matching.facts_of([series.study], [version])
    assert matching.decide(rule, rule.parsed(), version, series.study, facts).verdict == "held"
    # another project's quarantine says nothing about this study
    elsewhere = store.open_batch(ProjectFactory(), ImportBatch.Source.COMMAND)
    store.store_file(part10_bytes(ct_slice(9, StudyInstanceUID=uid, PatientID="P9")), batch=elsewhere)

    quarantine.discard(Refusal.objects.get(batch=batch), by=None)
    assert services.route_settled() == 1
    assert len(jobs()) == 1


def test_another_series_that_comes_late_is_looked_at_and_not_run_again(project, version, make_rule):
    make_rule(version)
    series = make_ct_series(project, 3)
    services.route_settled()
    make_ct_series(project, 9, StudyInstanceUID=series.study.study_instance_uid)
    assert services.route_settled() == 1
    assert len(jobs()) == 1
    assert RoutedStudy.objects.count() == 1


def finish(job: Job, image: Series, version) -> Prediction:
    """As a worker would leave it: the job has ended, the result is in the archive."""
    mask = segmentation.write(source_datasets(image), _ones(image), LABELS, series_description=str(version))
    stored = store_datasets(image.study.project, [mask], origin=Origin.MODEL)
    Job.objects.filter(pk=job.pk).update(state="succeeded", finished_at=timezone.now())
    return Prediction.objects.create(version=version, study=image.study, image=image, job=job, segmentation=stored)


def test_an_image_that_changed_is_run_again_and_its_outdated_result_is_gone(project, version, make_rule):
    make_rule(version)
    series = make_ct_series(project, 3)
    services.route_settled()
    first = RoutedStudy.objects.get()
    add_slice(series)
    assert services.route_settled() == 0, "the run on the image as it was has not ended"

    result = finish(first.job, series, version)
    mask = result.segmentation
    file = mask.instances.get().file
    assert services.note_results() == 1
    assert services.route_settled() == 1
    assert len(jobs()) == 2
    first.refresh_from_db()
    assert (first.current, first.prediction) == (False, None)
    again = RoutedStudy.objects.get(current=True)
    assert (again.number_of_instances, again.image) == (4, series)
    assert not Prediction.objects.exists()
    assert not Series.objects.filter(pk=mask.pk).exists()
    assert RemovedFile.objects.filter(file=file).exists() or not store.absolute_path(file).exists()
    study = series.study
    study.refresh_from_db()
    assert (study.number_of_series, study.number_of_instances, study.modalities_in_study) == (1, 4, ["CT"])


def test_a_result_on_which_something_rests_stays_although_the_image_changed(project, version, make_rule):
    make_rule(version)
    series = make_ct_series(project, 3)
    services.route_settled()
    result = finish(RoutedStudy.objects.get().job, series, version)
    other = version_row(project, "volumes")
    further = Prediction.objects.create(
        version=other, study=series.study, image=series, segmentation=result.segmentation
    )
    add_slice(series)
    assert services.route_settled() == 1
    assert list(Prediction.objects.order_by("pk")) == [result, further]
    assert len(jobs()) == 1
    skipped = RoutedStudy.objects.get(outcome=Outcome.SKIPPED)
    assert skipped.reason.startswith("The image has changed, but its result stays.")


def test_two_rules_for_one_version_run_it_once(project, version, make_rule):
    first, second = make_rule(version), make_rule(version, name="Other", version=None, model=version.model)
    series = make_ct_series(project)
    services.route_settled()
    assert len(jobs()) == 1
    assert dict(RoutedStudy.objects.values_list("rule", "outcome")) == {first.pk: "run", second.pk: "present"}
    assert RoutedStudy.objects.get(rule=second).job == Job.objects.get()
    result = finish(Job.objects.get(), series, version)
    services.note_results()
    assert set(RoutedStudy.objects.values_list("prediction", flat=True)) == {result.pk}


def test_the_database_refuses_a_second_run_of_a_version_on_a_study(project, version, make_rule):
    make_rule(version)
    make_ct_series(project)
    services.route_settled()
    row = RoutedStudy.objects.get()
    row.pk = None
    with pytest.raises(IntegrityError), transaction.atomic():
        row.save(force_insert=True)


def test_whatever_is_in_production_when_the_study_comes_in_is_run(project, version, make_rule):
    rule = make_rule(version, version=None, model=version.model)
    make_ct_series(project)
    services.route_settled()
    newer = version_row(project, "nodules", 2)
    newer.manifest = version.manifest
    newer.stage, version.stage = Stage.PRODUCTION, Stage.VALIDATED
    version.save()
    newer.save()
    make_ct_series(project, PatientID="P2")
    services.route_settled()
    assert [pk for pk, _ in jobs()] == [version.pk, newer.pk]

    newer.stage = Stage.RETIRED
    newer.save()
    make_ct_series(project, PatientID="P3")
    services.route_settled()
    assert len(jobs()) == 2
    skipped = RoutedStudy.objects.get(outcome=Outcome.SKIPPED)
    assert (skipped.rule, skipped.reason) == (rule, "No version of nodules is in production.")


def test_what_the_model_does_not_take_is_skipped_with_the_reason(project, version, make_rule):
    make_rule(version)
    make_ct_series(project, Modality="MR")
    services.route_settled()
    assert jobs() == []
    assert RoutedStudy.objects.get().reason == "nodules 1 works on CT, the series that match are MR."


def test_what_was_run_by_hand_is_not_run_again(project, version, make_rule):
    make_rule(version)
    series = make_ct_series(project)
    made = Prediction.objects.create(version=version, study=series.study, image=series)
    services.route_settled()
    assert jobs() == []
    row = RoutedStudy.objects.get()
    assert (row.outcome, row.prediction, row.told) == (Outcome.PRESENT, made, True)


def test_a_run_without_a_result_says_why(project, version, make_rule):
    make_rule(version)
    series = make_ct_series(project)
    services.route_settled()
    case = {"study": series.study_id, "state": "failed", "cause": "Too few slices.", "next_step": "Choose another."}
    Job.objects.update(state="succeeded", result={"cases": [case]})
    services.note_results()
    assert RoutedStudy.objects.get().reason == "Too few slices. Choose another."


def test_rules_of_other_projects_are_not_asked(project, version, make_rule):
    make_rule(version)
    make_ct_series(ProjectFactory())
    assert services.route_settled() == 0


def test_run_now_takes_what_matches_in_jobs_of_many_studies(project, version, make_rule, monkeypatch):
    monkeypatch.setattr(services, "STUDIES_OF_A_JOB", 2)
    series = [make_ct_series(project, PatientID=f"P{n}") for n in range(3)]
    head = make_ct_series(project, PatientID="P9", BodyPartExamined="HEAD")
    rule = make_rule(version, on=False, conditions={"body_part_examined": ["CHEST"]})
    keys = [one.study_id for one in series] + [head.study_id]
    assert len(services.run_now(rule, keys, by=None)) == 3
    assert [sorted(images) for _, images in jobs()] == [keys[:2], keys[2:3]]
    assert services.run_now(rule, keys, by=None) == []
    elsewhere = make_ct_series(ProjectFactory())
    assert services.run_now(rule, [elsewhere.study_id], by=None) == []


def test_a_rule_names_models_and_conditions_that_can_be_used(project, version):
    other = version_row(ProjectFactory())
    with pytest.raises(RuleError, match="another project"):
        rules.create(project, by=None, name="A", version=other)
    with pytest.raises(RuleError, match="either"):
        rules.create(project, by=None, name="A", version=version, model=version.model)
    with pytest.raises(RuleError, match="no way in"):
        rules.create(project, by=None, name="A", version=version, conditions={"import_source": ["post"]})
    with pytest.raises(RuleError, match="where results shall go"):
        rules.create(project, by=None, name="A", version=version, push=True)
    rules.create(project, by=None, name="A", version=version)
    with pytest.raises(RuleError, match="already"):
        rules.create(project, by=None, name=" A ", version=version)


def test_rules_keep_their_order_through_moves_and_removal(project, version):
    made = [rules.create(project, by=None, name=name, version=version) for name in "ABCD"]

    def order() -> str:
        return "".join(RoutingRule.objects.order_by("position").values_list("name", flat=True))

    rules.move(made[2], True, by=None)
    assert order() == "ACBD"
    rules.move(made[0], True, by=None)
    rules.move(made[3], False, by=None)
    assert order() == "ACBD"
    rules.remove(RoutingRule.objects.get(name="C"), by=None)
    rules.move(RoutingRule.objects.get(name="D"), True, by=None)
    assert order() == "ADB"
    assert list(RoutingRule.objects.order_by("position").values_list("position", flat=True)) == [0, 1, 2]


@pytest.mark.django_db(transaction=True)
def test_a_process_killed_between_settling_and_submitting_loses_nothing(project, version, make_rule):
    """The child is held up by a lock after it wrote log and job, just before its commit, and killed there."""
    make_rule(version)
    key = make_ct_series(project).study_id
    with psycopg.connect(**database()) as other:
        other.execute(
            "INSERT INTO routing_look (study_id, number_of_instances, objects_held, looked_at)"
            " VALUES (%s, 0, 0, now())",
            [key],
        )
        child = fork(lambda: services.route_study(key))
        deadline = time.monotonic() + 60
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        while other.execute(waiting).fetchone() == (0,):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(child, signal.SIGKILL)
        assert os.WIFSIGNALED(wait(child))
        other.rollback()
    assert (Job.objects.count(), RoutedStudy.objects.count(), Look.objects.count()) == (0, 0, 0)
    assert services.route_settled() == 1
    assert len(jobs()) == 1
    assert services.route_settled() == 0


def database() -> dict[str, object]:
    said = connection.settings_dict
    return {
        "dbname": said["NAME"], "user": said["USER"], "password": said["PASSWORD"], "host": said["HOST"],
        "port": said["PORT"],
    }  # fmt: skip
