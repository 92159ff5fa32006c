"""The demonstration's readings: synthetic readers whose drawings are the truth with noise.

What they store goes through the same services as the work of people, and everything says that it is synthetic.
"""

from __future__ import annotations

import hashlib

import numpy as np
from django.db import transaction

from inference.jobs.errors import JobError
from portal.accounts import services as accounts
from portal.accounts.models import Project, Role, User
from portal.annotation import campaigns, consensus, reading, segmentations
from portal.annotation.design import QuestionSpec, SegmentSpec
from portal.annotation.models import Campaign, Consensus, Question, Task
from portal.demo.archive import Report
from studies.cohorts.models import Cohort, ReferenceStandard
from studies.dicom import phantom, segmentation
from studies.dicom.uids import derived_uid
from studies.ingest import store
from studies.models import ImportBatch, Instance, Origin, Series
from studies.volumes import load_label_map, source_datasets

CAMPAIGN = "Liver lesions (synthetic readers)"
OWN_CAMPAIGN = "Try reading: liver lesions"
CONSENSUS = "Consensus of synthetic readers"
PRESENT, SURE = "Is there a lesion in the liver?", "How sure are you?"
# Border noise in voxels, and how often a case's lesions are overlooked.
READERS = (
    ("Synthetic", "Reader One", 0.6, 0.0),
    ("Synthetic", "Reader Two", 1.0, 0.1),
    ("Synthetic", "Reader Three", 1.4, 0.2),
)
INSTRUCTIONS = (
    "Synthetic phantoms. Outline the liver and every lesion in it; lesions are darker than the liver."
    " The readers of this campaign are synthetic too: their drawings are the truth with noise."
)


def readers(project: Project) -> list[User]:
    """Accounts without a password: nobody can sign in as a synthetic reader."""
    found = []
    for number, (first, last, *_) in enumerate(READERS, start=1):
        user, made = User.objects.get_or_create(
            username=f"synth-{number}", defaults={"first_name": first, "last_name": last}
        )
        if made:
            user.set_unusable_password()
            user.save(update_fields=["password"])
        accounts.set_role(project=project, user=user, role=Role.READER)
        found.append(user)
    return found


def campaign(project: Project, cohort: Cohort, name: str, who: list[User], by: User) -> Campaign:
    """The campaign of that name, started; made where it is missing."""
    found = Campaign.objects.filter(project=project, name=name).first()
    if found is None:
        found = campaigns.create(
            project=project,
            by=by,
            name=name,
            cohort=cohort,
            readers=who,
            overlap=len(who),
            instructions=INSTRUCTIONS if len(who) > 1 else INSTRUCTIONS.split(" The readers")[0],
            questions=[
                QuestionSpec(PRESENT, Question.Kind.YES_NO),
                QuestionSpec(SURE, Question.Kind.SCALE, ["Guessing", "Certain"]),
            ],
            segments=[SegmentSpec(label["number"], label["name"]) for label in phantom.LABELS],  # type: ignore[arg-type]
        )
    if found.state == Campaign.State.DRAFT:
        found = campaigns.start(found, by=by)
    return found


def read_all(made: Campaign, truth: ReferenceStandard, report: Report) -> int:
    """Let every synthetic reader draw, answer and submit what they have not yet. Returns the number of new reads."""
    if made.state != Campaign.State.READING:
        return 0
    masks = {
        label.case.study_id: label.segmentation
        for label in truth.case_labels.select_related("case", "segmentation")
        if label.segmentation is not None
    }
    tasks = list(
        made.tasks.exclude(state__in=[Task.State.SUBMITTED, Task.State.WITHDRAWN])
        .select_related("case__image", "case__study", "reader", "campaign")
        .order_by("position", "reader_id")
    )
    batch = store.open_batch(made.project, ImportBatch.Source.DEMO, made.created_by)
    drawn = []
    for done, task in enumerate(tasks):
        report(done / len(tasks), f"synthetic drawing {done + 1} of {len(tasks)}")
        drawn.append(_draw(task, masks[task.case.study_id], truth, batch))
    # Together, so that the overlap between readers is measured once and not after each read.
    with transaction.atomic():
        for task, (sop_uid, present) in zip(tasks, drawn, strict=True):
            _submit(task, sop_uid, present)
    return len(tasks)


def agree(made: Campaign, by: User) -> Consensus:
    """Close the reading and publish the majority as a reference standard, once."""
    found = Consensus.objects.filter(campaign=made).first()
    if found is None:
        found = consensus.publish(made, by=by, name=CONSENSUS, method=consensus.MAJORITY)
    if made.state == Campaign.State.READING:
        campaigns.close(made, by=by)
    return found


def _draw(task: Task, mask: Series, truth: ReferenceStandard, batch: ImportBatch) -> tuple[str, bool]:
    """Store a synthetic drawing, once: its SOP instance UID, and whether it shows a lesion."""
    number, random = _chance(task)
    *_, strength, overlooks = READERS[number - 1]
    like = segmentations.grid(task.case.image)
    exact = load_label_map(mask, like, truth.labels)
    if random.random() < overlooks:
        exact = np.minimum(exact, 1)
    drawn = phantom.perturbed(exact, int(random.integers(2**31)), strength=strength)
    series_uid = derived_uid("synthetic drawing", task.campaign_id, task.case_id, number)
    sop_uid = derived_uid(series_uid, "instance")
    present = bool((drawn == 2).any())
    if Instance.objects.filter(project=task.campaign.project_id, sop_instance_uid=sop_uid).exists():
        return sop_uid, present
    dataset = segmentation.write(
        source_datasets(task.case.image),
        drawn,
        segmentations.labels_of(task.campaign),
        series_description=f"{task.campaign.name}, synthetic drawing",
        series_number=2000 + number,
        series_instance_uid=series_uid,
        sop_instance_uid=sop_uid,
        content_creator_name=f"{task.reader.last_name}^{task.reader.first_name}",
    )
    dataset.SyntheticData = "YES"
    outcome = store.store_dataset(
        dataset,
        batch=batch,
        origin=Origin.ANNOTATION,
        created_by=task.reader,
        provenance=segmentations.provenance(task),
    )
    if outcome.refused:
        raise JobError(f"The archive refused a synthetic drawing: {outcome.reason}")
    return sop_uid, present


def _submit(task: Task, sop_uid: str, present: bool) -> None:
    _, random = _chance(task)
    questions = {question.text: str(question.pk) for question in task.campaign.questions.all()}
    seconds = int(random.integers(40, 240))
    reading.opened(task)
    newest = reading.newest_draft(task)
    saved = reading.save_draft(
        task,
        base_version=newest.version if newest else 0,
        answers={questions[PRESENT]: "yes" if present else "no", questions[SURE]: int(random.integers(3, 6))},
        segmentation_sop_uid=sop_uid,
        active_seconds=seconds,
    )
    reading.submit(task, base_version=saved.record.version, active_seconds=seconds)


def _chance(task: Task) -> tuple[int, np.random.Generator]:
    """A reader's number, and chance that falls the same way whenever this reader meets this case."""
    number = int(task.reader.username.rsplit("-", 1)[1])
    digest = hashlib.sha256(f"{number} {task.case.study.study_instance_uid}".encode()).digest()
    return number, np.random.default_rng(int.from_bytes(digest[:8], "big"))
