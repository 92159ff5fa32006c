"""Routing what came in; the only writers of `Look` and `RoutedStudy` besides `pushes`.

The archive itself says what waits: acquired images that came in after a rule was switched on, in a study that was not
looked at with that many images. Nothing is kept in memory and no message is needed, so what comes in while no worker
runs is routed later. Jobs, log and look of a study are one transaction under the study's lock: a crash leaves all of
it or nothing, and what it leaves open is found again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from django.db import connection, transaction
from django.db.models import Exists, F, Max, Min, OuterRef, Q, QuerySet

from inference.errors import InferenceError
from inference.jobs.models import Job
from inference.prediction import results
from inference.prediction import services as prediction
from inference.prediction.models import Prediction
from inference.routing import matching
from inference.routing.matching import Decision, Verdict
from inference.routing.models import Look, RoutedStudy, RoutingRule
from portal.accounts.audit import trail
from portal.accounts.models import Project, User
from studies.models import Origin, Refusal, Study
from studies.removal import RemovalError

logger = logging.getLogger(__name__)

_LOCK = 0x51C2  # any fixed number: one worker routes at a time
TURN_SECONDS = 20.0  # the next turn goes on
STUDIES_OF_A_JOB = 50
MOST_AT_ONCE = 500  # studies that “run on these now” takes
Outcome, Push = RoutedStudy.Outcome, RoutedStudy.Push


def pending(project: Project, *, held: bool = False) -> QuerySet[Study]:
    """Studies at rest for which enabled rules of a project are to be asked; with `held` those that wait for their
    quarantine.

    Cheap however large the archive is: what was looked at and got nothing since is left out by the study's own row.
    """
    since = RoutingRule.objects.filter(project=project, enabled=True).aggregate(first=Min("enabled_at"))["first"]
    if since is None:
        return Study.objects.none()
    acquired = Q(series__origin=Origin.ACQUIRED, series__number_of_instances__gt=0)
    refused = Refusal.objects.open().of_study(OuterRef("study_instance_uid"), project.pk)
    return (
        Study.objects.filter(project=project, updated_at__gte=since)
        .filter(Q(routing_look__isnull=True) | ~Q(routing_look__objects_held=F("number_of_instances")))
        .filter(Exists(refused) if held else ~Exists(refused))
        .annotate(newest=Max("series__updated_at", filter=acquired))
        .filter(newest__gte=since, newest__lt=matching.settled_before())
        .order_by("pk")
    )


def route_settled() -> int:
    """Ask the rules about every study that settled; returns how many studies that were. One process at a time."""
    started, count = time.monotonic(), 0
    with _alone() as alone:
        projects = Project.objects.filter(routing_rules__enabled=True).distinct().order_by("pk") if alone else []
        for key in [key for project in projects for key in pending(project).values_list("pk", flat=True)]:
            if time.monotonic() - started > TURN_SECONDS:
                break
            try:
                count += route_study(key)
            except Exception as error:  # the others are routed, and this one is tried again in the next turn
                logger.error("a study could not be routed", extra={"study": key, "kind": type(error).__name__})
    return count


@contextmanager
def _alone() -> Iterator[bool]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [_LOCK])
        mine = bool(cursor.fetchone()[0])
    try:
        yield mine
    finally:
        if mine:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [_LOCK])


def route_study(key: int) -> bool:
    """Ask the enabled rules of a study's project, in their order, once it is at rest; whether they were asked."""
    with transaction.atomic():
        study = Study.objects.select_for_update(of=("self",), no_key=True).filter(pk=key).first()
        if study is None:
            return False
        rules = enabled_rules(study.project_id)
        versions = {rule.pk: rule.present_version() for rule in rules}
        wanted = [version for version in versions.values() if version is not None]
        facts = matching.facts_of([study], wanted)
        arrived = facts.arrived_at(study)
        if arrived is None or arrived >= facts.at_rest_since or study.pk in facts.held:
            return False
        images = facts.number_of_instances(study)
        if Look.objects.filter(study=study, number_of_instances=images).update(objects_held=study.number_of_instances):
            return False  # only results and the like were added
        asked = [rule for rule in rules if rule.enabled_at is not None and rule.enabled_at <= arrived]
        first = [matching.decide(rule, rule.parsed(), versions[rule.pk], study, facts) for rule in asked]
        if any(decision.verdict is Verdict.UNSETTLED for decision in first):
            return False
        for rule in asked:
            facts = matching.facts_of([study], wanted)  # anew: the rule before may run the same version
            decision = matching.decide(rule, rule.parsed(), versions[rule.pk], study, facts)
            if decision.verdict in (Verdict.MATCH, Verdict.PRESENT, Verdict.SKIPPED):
                _apply(rule, [decision], by=None)
        Look.objects.update_or_create(
            study=study, defaults={"number_of_instances": images, "objects_held": study.number_of_instances}
        )
    return True


def enabled_rules(project: int) -> list[RoutingRule]:
    rules = RoutingRule.objects.filter(project=project, enabled=True)
    return list(rules.select_related("project", "model", "version__model__project", "node").order_by("position", "pk"))


def run_now(rule: RoutingRule, studies: Iterable[int], *, by: User) -> list[RoutedStudy]:
    """Run the rule on these studies (primary keys) of its project as far as they match, whether it is on or not.

    What matches no longer is left out. Answers the rows of those that were run.
    """
    keys = list(dict.fromkeys(studies))[:MOST_AT_ONCE]
    done: list[RoutedStudy] = []
    trail.record("rule.run", rule, user=by, studies=len(keys))
    for start in range(0, len(keys), STUDIES_OF_A_JOB):
        with transaction.atomic():
            chosen = list(
                Study.objects.select_for_update(of=("self",), no_key=True)
                .filter(pk__in=keys[start : start + STUDIES_OF_A_JOB], project=rule.project_id)
                .order_by("pk")
            )
            version = rule.present_version()
            facts = matching.facts_of(chosen, [version] if version is not None else [])
            decided = [matching.decide(rule, rule.parsed(), version, study, facts) for study in chosen]
            done += _apply(rule, [one for one in decided if one.verdict is Verdict.MATCH], by=by)
    return [row for row in done if row.outcome == Outcome.RUN]


def forget(study: Study) -> None:
    """A study leaves its project or the archive."""
    RoutedStudy.objects.filter(study=study).delete()
    Look.objects.filter(study=study).delete()


def note_results() -> int:
    """Write down what came of runs that have ended; returns of how many studies."""
    open_rows = RoutedStudy.objects.filter(told=False, job__state=Job.State.SUCCEEDED)
    count = 0
    for row in open_rows.select_related("job").order_by("pk")[:1000]:
        found = _result_of(row)
        values: dict[str, Any] = {"told": True, "prediction": found}
        if found is None:
            values["reason"] = _why_without_result(row)[:300]
            if row.push == Push.WAITING:
                values |= {"push": Push.FAILED, "push_cause": "There is no result to send."}
        count += RoutedStudy.objects.filter(pk=row.pk, told=False).update(**values)
    return count


def _result_of(row: RoutedStudy) -> Prediction | None:
    """Of a model with several inputs the result may name another image than the one that the rule was asked about."""
    found = Prediction.objects.filter(version=row.version_id, study=row.study_id)
    return found.filter(image=row.image_id).first() or found.filter(job=row.job_id, job__isnull=False).first()


def _why_without_result(row: RoutedStudy) -> str:
    assert row.job is not None
    for case in row.job.result.get("cases", []):
        if case.get("study") == row.study_id and case.get("cause"):
            return f"{case['cause']} {case.get('next_step', '')}".strip()
    return "The run gave no result for this study."


def _apply(rule: RoutingRule, decisions: Sequence[Decision], *, by: User | None) -> list[RoutedStudy]:
    """Write down what a rule says to studies that are locked, and start what is to be run, as one job."""
    rows = [_row(rule, decision, by) for decision in decisions]
    for row, decision in zip(rows, decisions, strict=True):
        if decision.verdict is Verdict.MATCH and decision.ran is not None:
            _retire(row, decision.ran, by)
    to_run = [row for row in rows if row.outcome == Outcome.RUN]
    if to_run:
        _start(rule, to_run, by)
    written = []
    for row in rows:
        if row.outcome != Outcome.SKIPPED and rule.push and rule.node is not None:
            row.push, row.node = Push.WAITING, rule.node
        row.told = row.outcome == Outcome.SKIPPED or row.prediction_id is not None
        if row.outcome != Outcome.RUN and _said_before(row):
            continue
        row.save()
        written.append(row)
        trail.record("study.route", row.study, user=by, rule=rule.pk, did=str(row.outcome), version=row.version_id or 0)
    return written


def _row(rule: RoutingRule, decision: Decision, by: User | None) -> RoutedStudy:
    outcome = {Verdict.MATCH: Outcome.RUN, Verdict.PRESENT: Outcome.PRESENT}.get(decision.verdict, Outcome.SKIPPED)
    image, version, prediction_id, job = decision.image, decision.version, None, None
    if outcome == Outcome.PRESENT and image is not None and version is not None:
        job = decision.ran.job if decision.ran is not None else None
        found = Prediction.objects.filter(version=version, study=decision.study).order_by("-pk")
        held = found.filter(image=image).first() or (found.first() if job is None else None)
        if held is not None:
            prediction_id, image = held.pk, held.image
    return RoutedStudy(
        rule=rule, rule_name=rule.name, study=decision.study, outcome=outcome, reason=decision.reason[:300],
        version=version, image=image, by=by, job=job, prediction_id=prediction_id,
        number_of_instances=image.number_of_instances if image is not None else 0,
    )  # fmt: skip


def _retire(row: RoutedStudy, before: RoutedStudy, by: User | None) -> None:
    """The image has changed since it was run: its result is deleted, which knows nothing of the new images."""
    found = _result_of(before)
    if found is not None:
        try:
            results.withdraw(found, by=by)
        except RemovalError as error:
            row.outcome, row.reason = Outcome.SKIPPED, f"The image has changed, but its result stays. {error}"[:300]
            return
    old = RoutedStudy.objects.filter(study=before.study_id, version=before.version_id, current=True)
    old.filter(push=Push.WAITING).update(push=Push.NONE, push_due_at=None)
    old.update(current=False, told=True)


def _start(rule: RoutingRule, rows: Sequence[RoutedStudy], by: User | None) -> None:
    """One job for these rows; where it cannot be started they are skipped with the reason."""
    version = rows[0].version
    assert version is not None
    try:
        job = prediction.start(
            version,
            studies=[row.study for row in rows],
            images={row.study_id: row.image_id for row in rows if row.image_id is not None},
            by=by,
            priority=rule.priority,
        )
    except InferenceError as error:
        for row in rows:
            row.outcome, row.reason = Outcome.SKIPPED, str(error)[:300]
        return
    for row in rows:
        row.job = job


def _said_before(row: RoutedStudy) -> bool:
    """Whether the rule's log says the same of the study already, as where it was looked at again for a late series."""
    same = RoutedStudy.objects.filter(rule=row.rule, study=row.study, current=True)
    if row.outcome == Outcome.SKIPPED:
        return same.filter(outcome=row.outcome, reason=row.reason).exists()
    return same.filter(version=row.version).exclude(outcome=Outcome.SKIPPED).exists()
