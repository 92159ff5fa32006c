"""Making and steering campaigns: the only writer of campaigns, their readers, questions, labels and tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import date

from django.db import transaction
from django.utils import timezone

from inference.registry.models import ModelVersion
from portal.accounts.audit import trail
from portal.accounts.models import Project, User
from portal.accounts.permissions import Action, may
from portal.annotation import assignment, design, states
from portal.annotation.errors import CampaignError
from portal.annotation.models import Campaign, CampaignReader, Question, SegmentLabel, Task
from studies.cohorts.models import Case, Cohort
from studies.models import Embargo


@transaction.atomic
def create(
    *,
    project: Project,
    by: User,
    name: str,
    cohort: Cohort,
    readers: Sequence[User],
    overlap: int,
    questions: Sequence[design.QuestionSpec] = (),
    segments: Sequence[design.SegmentSpec] = (),
    instructions: str = "",
    blinded: bool = True,
    ai_version: ModelVersion | None = None,
    due_date: date | None = None,
    seed: int = 1,
) -> Campaign:
    """Make a campaign in draft; the first of `design.problems` is raised."""
    for problem in design.problems(
        project=project,
        name=name,
        cohort=cohort,
        readers=readers,
        overlap=overlap,
        questions=questions,
        segments=segments,
        ai_version=ai_version,
    ):
        raise problem
    name = name.strip()
    campaign = Campaign.objects.create(
        project=project,
        cohort=cohort,
        name=name,
        instructions=instructions.strip(),
        overlap=overlap,
        blinded=blinded,
        ai_version=ai_version,
        due_date=due_date,
        seed=seed,
        created_by=by,
    )
    Question.objects.bulk_create(
        Question(
            campaign=campaign, position=i, text=q.text.strip(), kind=q.kind, choices=q.choices, required=q.required
        )
        for i, q in enumerate(questions, start=1)
    )
    SegmentLabel.objects.bulk_create(
        SegmentLabel(
            campaign=campaign,
            number=s.number,
            name=s.name.strip(),
            color=s.color or design.DEFAULT_COLORS[i % len(design.DEFAULT_COLORS)],
            required=s.required,
        )
        for i, s in enumerate(segments)
    )
    CampaignReader.objects.bulk_create(CampaignReader(campaign=campaign, user=user) for user in readers)
    trail.record("campaign.create", campaign, user=by, blinded=blinded, readers=len(readers))
    return campaign


@transaction.atomic
def discard(campaign: Campaign, *, by: User) -> None:
    """Delete a campaign that was never started."""
    campaign = _locked(campaign)
    states.after(campaign, "discard")
    trail.record("campaign.discard", campaign, user=by)
    campaign.delete()


@transaction.atomic
def start(campaign: Campaign, *, by: User) -> Campaign:
    """Assign every case to `overlap` readers and open the reading."""
    campaign = _locked(campaign)
    state = states.after(campaign, "start")
    readers = [place.user for place in campaign.readers.select_related("user").order_by("user_id")]
    for problem in [
        *design.cohort_problems(campaign.project, campaign.cohort),
        *design.reader_problems(campaign.project, readers, campaign.overlap),
    ]:
        raise problem
    cases = list(Case.objects.filter(cohort=campaign.cohort).order_by("name", "id"))
    pairs = assignment.assign([c.pk for c in cases], [r.pk for r in readers], campaign.overlap, campaign.seed)
    for reader in readers:
        own = assignment.order([case for case, who in pairs if who == reader.pk], reader.pk, campaign.seed)
        Task.objects.bulk_create(
            Task(campaign=campaign, case_id=case, reader=reader, position=i) for i, case in enumerate(own, start=1)
        )
        _embargo(campaign, reader, cases)
    campaign.state, campaign.started_at = state, timezone.now()
    campaign.save(update_fields=["state", "started_at"])
    trail.record("campaign.start", campaign, user=by)
    return campaign


@transaction.atomic
def pause(campaign: Campaign, *, by: User) -> Campaign:
    return _to(_locked(campaign), "pause", by)


@transaction.atomic
def resume(campaign: Campaign, *, by: User) -> Campaign:
    return _to(_locked(campaign), "resume", by)


@transaction.atomic
def close(campaign: Campaign, *, by: User) -> Campaign:
    """End the reading for good: what is submitted counts, drafts are kept but do not; embargoes are lifted."""
    campaign = _to(_locked(campaign), "close", by)
    campaign.closed_at = timezone.now()
    campaign.save(update_fields=["closed_at"])
    Embargo.objects.filter(reason=embargo_reason(campaign)).delete()
    return campaign


@transaction.atomic
def add_reader(campaign: Campaign, user: User, *, by: User) -> int:
    """Let `user` read from now on. Returns how many cases were assigned: those that lack reads, and own earlier ones.

    In draft nothing is assigned yet. A reader who comes back gets their own withdrawn cases again, drafts included.
    """
    campaign = _locked(campaign)
    states.after(campaign, "change_readers")
    if campaign.readers.filter(user=user).exists():
        raise CampaignError(f"{user} reads in this campaign already.", "Choose somebody else.", "reader")
    if not may(user, Action.READ, campaign.project):
        raise CampaignError(
            f"{user} may not read in this project.", "Give this person the role reader in the project first.", "reader"
        )
    CampaignReader.objects.create(campaign=campaign, user=user)
    trail.record("campaign.add_reader", campaign, user=by, reader=user.pk)
    if campaign.state == Campaign.State.DRAFT:
        return 0
    cases = list(Case.objects.filter(cohort=campaign.cohort))
    _embargo(campaign, user, cases)
    return _fill(campaign, only=user)


@transaction.atomic
def remove_reader(campaign: Campaign, user: User, *, by: User) -> int:
    """Take `user` out. Submitted reads stay and count; open cases and drafts are withdrawn, not deleted.

    Returns how many cases now lack a reader; `reassign_open` gives them to the others.
    """
    campaign = _locked(campaign)
    states.after(campaign, "change_readers")
    places = campaign.readers.filter(user=user)
    if not places.exists():
        raise CampaignError(f"{user} does not read in this campaign.", "Reload the page.", "reader")
    if campaign.state == Campaign.State.DRAFT and campaign.readers.count() <= campaign.overlap:
        raise CampaignError(
            f"The campaign asks for {campaign.overlap} reads a case and would have fewer readers.",
            "Add another reader first.",
            "reader",
        )
    places.delete()
    trail.record("campaign.remove_reader", campaign, user=by, reader=user.pk)
    withdrawn = 0
    for task in campaign.tasks.select_for_update().filter(reader=user):
        if states.task_can(task, "withdraw"):
            task.state = states.task_after(task, "withdraw")
            task.save(update_fields=["state"])
            withdrawn += 1
    Embargo.objects.filter(reason=embargo_reason(campaign), user=user).delete()
    return withdrawn


@transaction.atomic
def reassign_open(campaign: Campaign, *, by: User, reader: User | None = None) -> int:
    """Give cases that lack reads to the readers with the least to do; returns how many were assigned.

    With `reader`, this reader's untouched cases (no draft yet) are taken back first and go to others.
    """
    campaign = _locked(campaign)
    states.after(campaign, "change_readers")
    if campaign.state == Campaign.State.DRAFT:
        raise CampaignError("The campaign has not started, nothing is assigned yet.", "Start it.")
    trail.record("campaign.reassign", campaign, user=by, reader=reader.pk if reader is not None else None)
    avoid: set[tuple[int, int]] = set()
    if reader is not None:
        for task in campaign.tasks.select_for_update().filter(reader=reader, state=Task.State.OPEN):
            task.state = states.task_after(task, "withdraw")
            task.save(update_fields=["state"])
            avoid.add((task.case_id, reader.pk))
    return _fill(campaign, avoid=avoid)


def _fill(campaign: Campaign, *, only: User | None = None, avoid: set[tuple[int, int]] = frozenset()) -> int:  # type: ignore[assignment]
    """Assign readers to the cases that have fewer than `overlap` tasks in force."""
    tasks = list(campaign.tasks.select_for_update())
    active = set(campaign.readers.values_list("user_id", flat=True))
    own = {(task.case_id, task.reader_id): task for task in tasks}
    last = Counter[int]()
    loads = Counter[int](dict.fromkeys(active, 0))
    reads = Counter[int]()
    holders: dict[int, set[int]] = {}
    for task in tasks:
        last[task.reader_id] = max(last[task.reader_id], task.position)
        if task.state == Task.State.WITHDRAWN:
            continue
        reads[task.case_id] += 1
        holders.setdefault(task.case_id, set()).add(task.reader_id)
        if task.reader_id in active and task.state != Task.State.SUBMITTED:
            loads[task.reader_id] += 1
    cases = list(Case.objects.filter(cohort=campaign.cohort).order_by("name", "id").values_list("pk", flat=True))
    assigned = 0
    for case in assignment.order(cases, 0, campaign.seed):
        lacking = campaign.overlap - reads[case]
        if lacking <= 0:
            continue
        excluded = holders.get(case, set()) | {who for which, who in avoid if which == case}
        candidates = {who: n for who, n in loads.items() if only is None or who == only.pk}
        for who in assignment.takers(candidates, excluded, lacking):
            earlier = own.get((case, who))
            if earlier is not None:
                states.task_after(earlier, "reinstate")
                earlier.state = Task.State.STARTED if earlier.drafts.exists() else Task.State.OPEN
                earlier.save(update_fields=["state"])
            else:
                last[who] += 1
                Task.objects.create(campaign=campaign, case_id=case, reader_id=who, position=last[who])
            loads[who] += 1
            assigned += 1
    return assigned


def embargo_reason(campaign: Campaign) -> str:
    return f"campaign:{campaign.pk}"


def _embargo(campaign: Campaign, reader: User, cases: Sequence[Case]) -> None:
    Embargo.objects.bulk_create(
        (Embargo(user=reader, study_id=case.study_id, reason=embargo_reason(campaign)) for case in cases),
        ignore_conflicts=True,
    )


def _locked(campaign: Campaign) -> Campaign:
    return Campaign.objects.select_for_update().get(pk=campaign.pk)


def _to(campaign: Campaign, step: str, by: User) -> Campaign:
    campaign.state = states.after(campaign, step)
    campaign.save(update_fields=["state"])
    trail.record(f"campaign.{step}", campaign, user=by)
    return campaign
