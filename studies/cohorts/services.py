"""The only writers of cohorts, their members and splits, and reference standards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import transaction
from django.db.models import Case as Choice
from django.db.models import Max, Sum, When
from django.utils import timezone

from portal.accounts.audit import trail
from portal.accounts.models import Project, User
from studies.cohorts import boxes, changes, freezing
from studies.cohorts.errors import CohortError
from studies.cohorts.freezing import Design
from studies.cohorts.models import Case, Cohort, CohortPatient, ReferenceLabel, ReferenceStandard
from studies.cohorts.splits import DEFAULT_FRACTIONS
from studies.dicom.errors import SegmentationError
from studies.dicom.labels import Label, checked
from studies.duplicates import services as duplicates
from studies.models import Origin, Series, Study

# Series that show nothing to segment or to read by themselves.
NOT_IMAGES = ("SEG", "SR", "PR", "KO", "RTSTRUCT", "RTPLAN", "RTDOSE", "REG", "DOC", "ECG", "AU")
OTHER = "OT"  # photographs, but scanned papers too: taken where a study has nothing else
COMPARED_AT_ONCE = 2000  # series that a freeze looks at itself


@dataclass
class Added:
    """What became of studies that were to be added: new cases, members already, those without images, and those whose
    images all have quality findings, where these were to be left out."""

    cases: list[Case] = field(default_factory=list)
    already: list[Case] = field(default_factory=list)
    without_image: list[Study] = field(default_factory=list)
    flagged: list[Study] = field(default_factory=list)


@dataclass(frozen=True)
class CaseTruth:
    """What is held to be true for one case: a SEG series, answers, or both."""

    case: Case
    segmentation: Series | None = None
    values: Mapping[str, Any] = field(default_factory=dict)


@transaction.atomic
def create(*, project: Project, name: str, by: User | None, description: str = "") -> Cohort:
    """An empty cohort. Raises `CohortError` (`name`, `name_taken`)."""
    name = name.strip()
    if not name or len(name) > 80:
        raise CohortError("name", "A cohort needs a name of at most 80 characters.", "Type a name.")
    cohort, made = Cohort.objects.get_or_create(
        project=project, name=name, defaults={"created_by": by, "description": description.strip()}
    )
    if not made:
        raise CohortError("name_taken", f"The project already has a cohort “{name}”.", "Choose another name.")
    trail.record("cohort.create", cohort, user=by)
    return cohort


@transaction.atomic
def add_studies(
    cohort: Cohort,
    studies: Iterable[Study],
    *,
    images: Mapping[int, Series] | None = None,
    without_findings: bool = False,
) -> Added:
    """Make a case of each study, in the order given, with pseudonyms C-0001, C-0002, …

    images: study id → the series to work on; otherwise the study's acquired image series with most images.
    without_findings: choose only among series in which the quality control found nothing.
    Raises `CohortError` (`frozen`, `other_project`); nothing is added then.
    """
    cohort = _locked(cohort)
    wanted = list(studies)
    _refuse_other_projects(cohort, wanted)
    members = {case.study_id: case for case in cohort.cases.all()}
    chosen = dict(images or {})
    open_studies = [study for study in wanted if study.pk not in chosen and study.pk not in members]
    picked = _pick_images(open_studies, without_findings=without_findings)
    usable = _pick_images(open_studies) if without_findings else picked
    result = Added()
    number = cohort.cases.count()
    taken = {case.name for case in members.values()}
    new: dict[int, Case] = {}
    for study in wanted:
        if study.pk in members or study.pk in new:
            result.already.append(members.get(study.pk) or new[study.pk])
            continue
        image = chosen.get(study.pk) or picked.get(study.pk)
        if image is None or image.study_id != study.pk:
            (result.flagged if study.pk in usable else result.without_image).append(study)
            continue
        number += 1
        while f"C-{number:04d}" in taken:
            number += 1
        new[study.pk] = Case(cohort=cohort, study=study, image=image, name=f"C-{number:04d}")
    patients = {case.study.patient_id for case in new.values()}
    CohortPatient.objects.bulk_create(
        [CohortPatient(cohort=cohort, patient_id=patient) for patient in sorted(patients)],
        ignore_conflicts=True,
        batch_size=2000,
    )
    places = {place.patient_id: place for place in cohort.patients.filter(patient__in=patients)}
    snapshots = changes.snapshots([case.study_id for case in new.values()])
    for case in new.values():
        case.cohort_patient = places[case.study.patient_id]
        case.as_added = snapshots.get(case.study_id)
    result.cases = Case.objects.bulk_create(new.values(), batch_size=2000)
    trail.record("cohort.add", cohort, cases=len(result.cases))
    return result


def without_images(studies: Sequence[Study]) -> list[Study]:
    """Those that `add_studies` would leave out, as they have no image series."""
    picked = _pick_images(studies)
    return [study for study in studies if study.pk not in picked]


@transaction.atomic
def remove(case: Case) -> None:
    """Take a case out of a cohort that is not frozen. Raises `CohortError` (`frozen`, `in_use`)."""
    _locked(case.cohort)
    if case.reference_labels.exists() or case.tasks.exists():
        raise CohortError(
            "in_use",
            f"Case {case.name} has a reference standard or reading tasks.",
            "Make a new cohort without it instead.",
        )
    place = case.cohort_patient
    trail.record("cohort.remove", case, project=case.cohort.project_id, patient=place.patient_id)
    case.delete()
    if not place.cases.exists():
        place.delete()


def freeze(
    cohort: Cohort,
    *,
    by: User | None,
    fractions: Mapping[str, float] = DEFAULT_FRACTIONS,
    seed: int = 1,
    folds: int = 0,
    leave_source_out: bool = False,
    classes: ReferenceStandard | None = None,
    source: str = "",
    stratify_source: bool = False,
) -> Cohort:
    """Fix the members for ever and split them by patient; patients with near-duplicate images stay together.

    The parameters are those of `freezing.Design`. The same patients, images and design give the same split. From here
    on the database refuses every change of members and splits. Raises `CohortError` (`frozen`, `empty`, `fractions`,
    `seed`, `folds`, `sources`, `too_few_patients`, `not_compared`).
    """
    design = Design(dict(fractions), seed, folds, leave_source_out, classes, source, stratify_source)
    compare_images(cohort)
    with transaction.atomic():
        cohort = _locked(cohort)
        made = freezing.plan(cohort, design)
        CohortPatient.objects.bulk_update(made.places, ["split", "fold", "group"], batch_size=2000)
        cohort.seed, cohort.method, cohort.digest = seed, made.method, _digest(cohort)
        cohort.frozen_at, cohort.frozen_by = timezone.now(), by
        cohort.save(update_fields=["seed", "method", "digest", "frozen_at", "frozen_by"])
        trail.record("cohort.freeze", cohort, user=by, seed=seed)
    return cohort


def compare_images(cohort: Cohort) -> None:
    """Look for near-duplicates among the images that came too lately for the background.

    Raises `CohortError` (`not_compared`) where these are too many to wait for.
    """
    missing = duplicates.pending(settled=False).filter(study__cases__cohort=cohort).distinct()
    n = missing.count()
    if n > COMPARED_AT_ONCE:
        raise CohortError(
            "not_compared",
            f"{n} series of the cohort were not compared with the others yet, so copies of one image could end on two"
            " sides of the split.",
            "The comparison runs in the background after an import; try again in some minutes, or run"
            " `manage.py find_duplicates`.",
        )
    duplicates.compare(list(missing))


@transaction.atomic
def create_reference(
    cohort: Cohort,
    *,
    name: str,
    source: str,
    labels: Sequence[Label],
    cases: Iterable[CaseTruth],
    by: User | None,
    detail: Mapping[str, Any] | None = None,
    classes: Sequence[str] = (),
) -> ReferenceStandard:
    """The next version of the reference standard `name` of a cohort; earlier versions stay as they are.

    classes: names of the classes of a classification, in order; each case then has one as `values["class"]`.
    Of boxes and points each case has them as `values["boxes"]`, see `ReferenceLabel`.
    Raises `CohortError` (`name`, `labels`, `classes`, `boxes`, `empty`, `other_cohort`, `wrong_segmentation`, `twice`).
    """
    cohort = Cohort.objects.select_for_update().get(pk=cohort.pk)
    name = name.strip()
    if not name or len(name) > 80:
        raise CohortError("name", "A reference standard needs a name of at most 80 characters.", "Type a name.")
    truths = list(cases)
    if not truths:
        raise CohortError("empty", "The reference standard has no case.", "Give the truth of at least one case.")
    made_labels: list[dict[str, Any]] = []
    if labels or any(truth.segmentation for truth in truths):
        try:
            made_labels = checked(labels)
        except SegmentationError as error:
            raise CohortError("labels", error.cause, error.next_step) from error
    kind = _kind(made_labels, classes, truths)
    if kind == ReferenceStandard.Kind.BOXES:
        boxes.check(made_labels, ((truth.case.name, truth.values) for truth in truths))
    for truth in truths:
        _check_truth(cohort, truth)
    if len({truth.case.pk for truth in truths}) < len(truths):
        raise CohortError("twice", "A case is named twice.", "Give the truth of each case once.")
    latest = cohort.reference_standards.filter(name=name).aggregate(latest=Max("version"))["latest"] or 0
    reference = ReferenceStandard.objects.create(
        cohort=cohort,
        name=name,
        version=latest + 1,
        source=ReferenceStandard.Source(source),
        kind=kind,
        classes=list(classes),
        labels=made_labels,
        detail=dict(detail or {}),
        created_by=by,
    )
    ReferenceLabel.objects.bulk_create(
        ReferenceLabel(reference=reference, case=truth.case, segmentation=truth.segmentation, values=dict(truth.values))
        for truth in truths
    )
    trail.record("reference.create", reference, project=cohort.project_id, user=by, version=reference.version)
    return reference


def _kind(
    labels: Sequence[Mapping[str, Any]], classes: Sequence[str], truths: Sequence[CaseTruth]
) -> ReferenceStandard.Kind:
    """What the reference standard holds. Raises `CohortError` (`classes`)."""
    if not classes:
        if labels and any("boxes" in truth.values for truth in truths):
            return ReferenceStandard.Kind.BOXES
        return ReferenceStandard.Kind.SEGMENTATION if labels else ReferenceStandard.Kind.ANSWERS
    if len(set(classes)) < len(classes) or len(classes) < 2 or any(not name or len(name) > 64 for name in classes):
        raise CohortError(
            "classes",
            "A classification needs two or more classes with different names of at most 64 characters.",
            "See the values of the label column.",
        )
    strange = next((truth for truth in truths if truth.values.get("class") not in classes), None)
    if strange is not None:
        raise CohortError(
            "classes",
            f"Case {strange.case.name} has the class {strange.values.get('class')!r}, which is not among the classes.",
            "Name every class, and give each case one of them.",
        )
    return ReferenceStandard.Kind.CLASSIFICATION


def _locked(cohort: Cohort) -> Cohort:
    """The cohort, locked until the end of the transaction. Raises `CohortError` (`frozen`)."""
    cohort = Cohort.objects.select_for_update().get(pk=cohort.pk)
    if cohort.frozen:
        raise CohortError(
            "frozen",
            f"The cohort “{cohort.name}” is frozen; its members and split cannot change.",
            "Make a new cohort from the same studies.",
        )
    return cohort


def _refuse_other_projects(cohort: Cohort, studies: Sequence[Study]) -> None:
    if any(study.project_id != cohort.project_id for study in studies):
        raise CohortError(
            "other_project",
            "A study belongs to another project than the cohort.",
            "Choose studies of the cohort's project only.",
        )


def _pick_images(studies: Sequence[Study], *, without_findings: bool = False) -> dict[int, Series]:
    """Study id → its acquired image series with most frames; the lowest series number among equals."""
    found = (
        Series.objects.filter(study__in=studies, origin=Origin.ACQUIRED)
        .exclude(modality__in=NOT_IMAGES)
        .annotate(frames=Sum("instances__number_of_frames"))
        .filter(frames__gt=0)
        .annotate(other=Choice(When(modality=OTHER, then=1), default=0))
        .order_by("study_id", "other", "-frames", "series_number", "id")
    )
    if without_findings:
        found = found.filter(quality_findings__isnull=True)
    picked: dict[int, Series] = {}
    for series in found:
        picked.setdefault(series.study_id, series)
    return picked


def _digest(cohort: Cohort) -> str:
    """SHA-256 over studies, images and splits; says no more about patients than who belongs together."""
    rows = cohort.cases.order_by("study__study_instance_uid").values_list(
        "study__study_instance_uid", "image__series_instance_uid", "cohort_patient__split", "cohort_patient__fold"
    )
    told = [list(row) if row[3] is not None else list(row[:3]) for row in rows]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _check_truth(cohort: Cohort, truth: CaseTruth) -> None:
    if truth.case.cohort_id != cohort.pk:
        raise CohortError("other_cohort", "A case belongs to another cohort.", "Choose cases of this cohort.")
    segmentation = truth.segmentation
    if segmentation is None:
        return
    if segmentation.study_id != truth.case.study_id or segmentation.modality != "SEG":
        raise CohortError(
            "wrong_segmentation",
            f"The segmentation given for case {truth.case.name} is not a segmentation of its study.",
            "Choose a SEG series of the same study.",
        )
    if segmentation.origin not in (Origin.REFERENCE, Origin.ANNOTATION):
        raise CohortError(
            "wrong_segmentation",
            f"The segmentation given for case {truth.case.name} can be seen by readers.",
            "Store it as a reference standard before it is used as one.",
        )
