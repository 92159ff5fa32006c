"""From several readings of a case to one, published as a reference standard.

Answers: majority for yes/no and choices, median for scales and numbers, none for free text. Segments: majority of the
readers at each voxel, ties are background; or STAPLE. A manager's decision on a case goes before both. Cases that lack
reads or cannot be agreed on are left out and named, never dropped in silence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from django.db import transaction

from inference.jobs.models import Job
from inference.jobs.services import submit as submit_job
from portal.accounts.audit import trail
from portal.accounts.models import User
from portal.annotation import answers as answering
from portal.annotation import overlaps, segmentations, states, voting
from portal.annotation.errors import AnnotationError, CampaignError, NotAdjudicable
from portal.annotation.models import Adjudication, Campaign, Consensus, Question, Read
from studies.cohorts import services as cohorts
from studies.cohorts.errors import CohortError
from studies.cohorts.models import Case, ReferenceStandard
from studies.dicom import segmentation
from studies.dicom.errors import ImageError
from studies.ingest import store
from studies.models import ImportBatch, Origin, Series
from studies.volumes import source_datasets

MAJORITY, STAPLE = "majority", "STAPLE"
METHODS = {MAJORITY: voting.majority_map, STAPLE: voting.staple_map}
Kind = Question.Kind


@dataclass(frozen=True)
class CasePlan:
    """What a case would get: its reads, its decision if any, the agreed answers, and what is left undecided."""

    case: Case
    reads: list[Read]
    decision: Adjudication | None
    answers: dict[str, Any]
    undecided: list[Question] = field(default_factory=list)
    reason: str = ""  # why the case is left out; empty where it is in

    @property
    def decided(self) -> bool:
        return self.decision is not None

    @property
    def tied(self) -> bool:
        """A tie on a required question keeps the case out until a manager decides."""
        return any(question.required for question in self.undecided)


def plan(campaign: Campaign, *, minimum_reads: int | None = None) -> list[CasePlan]:
    """Every case of the campaign's cohort with what would be published for it now."""
    needed = campaign.overlap if minimum_reads is None else minimum_reads
    questions = list(campaign.questions.all())
    reads = overlaps.by_case(overlaps.newest_reads(campaign))
    decisions = newest_decisions(campaign)
    plans = []
    for case in Case.objects.filter(cohort=campaign.cohort_id).select_related("study", "image"):
        own, decision = reads.get(case.pk, []), decisions.get(case.pk)
        agreed, undecided = _agreed_answers(questions, own, decision)
        reason = ""
        if not own:
            reason = "no reads"
        elif decision is None and len(own) < needed:
            reason = f"{len(own)} of {needed} reads"
        elif tied := [question for question in undecided if question.required]:
            reason = "a tie on " + ", ".join(f"“{question.text}”" for question in tied)
        plans.append(CasePlan(case, own, decision, agreed, undecided, reason))
    return plans


def newest_decisions(campaign: Campaign) -> dict[int, Adjudication]:
    rows = Adjudication.objects.filter(campaign=campaign).order_by("case_id", "-id").distinct("case_id")
    return {row.case_id: row for row in rows.select_related("by", "read")}


def _agreed_answers(
    questions: list[Question], reads: list[Read], decision: Adjudication | None
) -> tuple[dict[str, Any], list[Question]]:
    agreed, undecided = {}, []
    for question in questions:
        key = str(question.pk)
        if decision is not None and key in decision.answers:
            agreed[key] = decision.answers[key]
            continue
        given = [read.answers[key] for read in reads if key in read.answers]
        if not given or question.kind == Kind.TEXT:
            continue
        ordered = question.kind in (Kind.SCALE, Kind.NUMBER)
        value = voting.middle(given) if ordered else voting.majority(given)
        if value is None:
            undecided.append(question)
        else:
            agreed[key] = value
    return agreed, undecided


@transaction.atomic
def adjudicate(
    campaign: Campaign, case: Case, *, by: User, reason: str, answers: dict[str, Any], read: Read | None = None
) -> Adjudication:
    """Decide on a case: answers that override the majority, and whose segmentation counts. Earlier decisions stay."""
    states.after(campaign, "adjudicate")
    if case.cohort_id != campaign.cohort_id:
        raise NotAdjudicable("This case is not part of the campaign.", "Choose one of its cases.", "case")
    if not reason.strip():
        raise NotAdjudicable("The decision has no reason.", "Say in a sentence why; it is kept with it.", "reason")
    if read is not None and (read.task.campaign_id != campaign.pk or read.task.case_id != case.pk):
        raise NotAdjudicable("This read is not one of the case.", "Choose a read of this case.", "read")
    content = answering.normalised(campaign.questions.all(), answers)
    if not content and read is None:
        raise NotAdjudicable("Nothing is decided.", "Choose an answer or a reader's segmentation.", "answers")
    trail.record("campaign.adjudicate", case, project=campaign.project_id, patient=case.study.patient_id, user=by)
    return Adjudication.objects.create(
        campaign=campaign, case=case, answers=content, read=read, reason=reason.strip(), by=by
    )


def check(campaign: Campaign, *, name: str, method: str, minimum_reads: int | None) -> None:
    """CampaignError where a consensus cannot be published like that."""
    states.after(campaign, "publish")
    if not name.strip() or len(name) > 80:
        raise CampaignError("The reference standard needs a name of at most 80 characters.", "Type one.", "name")
    if method not in METHODS:
        raise CampaignError(f"There is no method “{method}”.", "Use majority or STAPLE.", "method")
    if minimum_reads is not None and minimum_reads < 1:
        raise CampaignError("A case needs at least one read.", "Ask for 1 or more.", "minimum_reads")
    if not any(not planned.reason for planned in plan(campaign, minimum_reads=minimum_reads)):
        raise CampaignError(
            "No case has enough reads that agree.",
            "Wait for more reads, ask for fewer a case, or decide on cases yourself.",
            "minimum_reads",
        )


def request(
    campaign: Campaign, *, by: User, name: str, method: str = MAJORITY, minimum_reads: int | None = None
) -> Job:
    """Publish in the background."""
    from portal.annotation.tasks import publish_consensus

    check(campaign, name=name, method=method, minimum_reads=minimum_reads)
    return submit_job(
        publish_consensus,
        project=campaign.project,
        title=f"Consensus of {campaign.name}",
        parameters={"campaign": campaign.pk, "name": name, "method": method, "minimum_reads": minimum_reads},
        by=by,
    )


def latest_job(campaign: Campaign, user: User) -> Job | None:
    """The newest job that publishes a consensus of the campaign, as far as `user` may see it."""
    from portal.annotation.tasks import publish_consensus

    jobs = Job.objects.visible_to(user).filter(project=campaign.project_id, task=publish_consensus.name)
    return jobs.filter(parameters__campaign=campaign.pk).order_by("-pk").first()


def publish(
    campaign: Campaign,
    *,
    by: User | None,
    name: str,
    method: str = MAJORITY,
    minimum_reads: int | None = None,
    report: Callable[[float, str], Any] = lambda fraction, text: None,
) -> Consensus:
    """Store the agreed reading of every case that has one as the next version of reference standard `name`."""
    check(campaign, name=name, method=method, minimum_reads=minimum_reads)
    plans = plan(campaign, minimum_reads=minimum_reads)
    ready = [planned for planned in plans if not planned.reason]
    labels = segmentations.labels_of(campaign)
    batch = store.open_batch(campaign.project, ImportBatch.Source.READING, by) if labels else None
    truths, left_out = [], [_left_out(p) for p in plans if p.reason]
    for done, planned in enumerate(ready):
        report(done / len(ready), f"case {done + 1} of {len(ready)}")
        series = None
        if batch is not None:
            try:
                series = _store_map(campaign, planned, labels, method, batch, by)
            except (ImageError, AnnotationError) as error:
                left_out.append({"case": planned.case.name, "reason": error.cause})
                continue
        values = {
            question.text: planned.answers[str(question.pk)]
            for question in campaign.questions.all()
            if str(question.pk) in planned.answers
        }
        truths.append(cohorts.CaseTruth(planned.case, series, values))
    detail = {
        "campaign": campaign.pk,
        "campaign_name": campaign.name,
        "method": method,
        "minimum_reads": campaign.overlap if minimum_reads is None else minimum_reads,
        "reads": sum(len(planned.reads) for planned in ready),
        "adjudicated": [planned.case.name for planned in ready if planned.decided],
        "left_out": left_out,
    }
    with transaction.atomic():
        try:
            reference = cohorts.create_reference(
                campaign.cohort,
                name=name,
                source=ReferenceStandard.Source.CONSENSUS,
                labels=labels,
                cases=truths,
                by=by,
                detail=detail,
            )
        except CohortError as error:
            raise CampaignError(error.cause, error.next_step) from error
        return Consensus.objects.create(campaign=campaign, method=method, reference=reference, created_by=by)


def _left_out(planned: CasePlan) -> dict[str, str]:
    """Which question was tied stays within the campaign: it would tell readers about each other's answers."""
    return {
        "case": planned.case.name,
        "reason": "no majority" if planned.reason.startswith("a tie") else planned.reason,
    }


def _store_map(
    campaign: Campaign,
    planned: CasePlan,
    labels: list[dict[str, Any]],
    method: str,
    batch: ImportBatch,
    by: User | None,
) -> Series:
    agreed = agreed_map(planned, labels, method)
    dataset = segmentation.write(
        source_datasets(planned.case.image),
        agreed,
        labels,
        series_description=f"Consensus {method}",
        content_creator_name="Readroom^Consensus",
    )
    outcome = store.store_dataset(
        dataset,
        batch=batch,
        name=f"{planned.case.name}.dcm",
        origin=Origin.REFERENCE,
        created_by=by,
        provenance=f"campaign {campaign.pk} consensus",
    )
    if outcome.instance is None:
        raise CampaignError(f"The consensus of {planned.case.name} could not be stored: {outcome.reason}")
    return outcome.instance.series


def agreed_map(planned: CasePlan, labels: list[dict[str, Any]], method: str) -> np.ndarray:
    """The label map [z, y, x] of a case: the chosen reader's, or the vote of all."""
    like = segmentations.grid(planned.case.image)
    chosen = planned.decision.read if planned.decision is not None else None
    maps = [_map_of(read, like, labels) for read in ([chosen] if chosen else planned.reads)]
    return METHODS[method](maps, [label["number"] for label in labels])


def _map_of(read: Read, like: Any, labels: list[dict[str, Any]]) -> np.ndarray:
    instance = segmentations.instance_of(read)
    if instance is None:
        return np.zeros(like.shape, dtype=np.uint8)
    return segmentations.label_map(instance, like, labels)
