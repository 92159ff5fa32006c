"""NIfTI images and masks into the archive: DICOM series, SEG reference objects, a cohort and its reference standard.

Identifiers derive from project, file name and content, so importing the same files again adds nothing.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from portal.accounts.models import Project, User
from studies.cohorts import services as cohorts
from studies.cohorts.errors import CohortError
from studies.cohorts.models import Case, Cohort, ReferenceStandard
from studies.cohorts.splits import DEFAULT_FRACTIONS, checked_fractions
from studies.dicom import labels as label_codes
from studies.dicom import nifti, segmentation
from studies.dicom.errors import ImageError
from studies.dicom.series import Identity, encode, image_series, in_slice_order
from studies.dicom.uids import derived_uid
from studies.ingest import store
from studies.ingest.outcome import Refused
from studies.models import ImportBatch, Instance, Origin, Series, Study

# nnU-Net calls the first channel of case X `X_0000` and its mask `X`.
CHANNEL = "_0000"
PROVENANCE = "Imported from NIfTI"


@dataclass(frozen=True)
class RefusedFile:
    file: str
    code: str
    reason: str


@dataclass
class Summary:
    """What became of the pairs. `problem` says why the cohort could not be frozen, where it could not."""

    project: str
    stored: int = 0
    duplicate: int = 0
    refused: list[RefusedFile] = field(default_factory=list)
    batch: int | None = None
    cohort: int | None = None
    frozen: bool = False
    reference: int | None = None
    reference_version: int | None = None
    cases: int = 0
    patients: int = 0
    splits: dict[str, int] = field(default_factory=dict)
    # The largest quantisation step of floating-point images, as a part of that image's range of values.
    quantisation: float = 0.0
    problem: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Plan:
    """What to import and how. masks: None for images only, without a reference standard; folds: in so many the cohort
    is frozen, in place of the fractions."""

    project: Project
    images: Path
    cohort: str
    masks: Path | None = None
    labels: Sequence[label_codes.Label] = ()
    modality: str = "MR"
    fractions: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_FRACTIONS))
    folds: int = 0
    seed: int = 1
    freeze: bool = True
    reference: str = "Imported masks"
    body_part: str = ""
    by: User | None = None


@dataclass(frozen=True)
class _Pair:
    image: Path
    mask: Path | None
    stem: str


class _Skip(Exception):
    def __init__(self, file: str, code: str, reason: str):
        super().__init__(code)
        self.refused = RefusedFile(file, code, reason)


def import_pairs(plan: Plan, *, progress: Callable[[int, int], None] = lambda done, total: None) -> Summary:
    """Import every pair that is sound; the others are refused one by one, with file and reason.

    Raises `ImageError` or `CohortError` where nothing can be imported at all: no such folder, no NIfTI file in it,
    labels or fractions that make no sense.
    """
    labels = label_codes.checked(plan.labels) if plan.masks else []
    if not plan.folds:
        checked_fractions(plan.fractions)
    pairs, refused = _pairs(plan)
    cohort = Cohort.objects.filter(project=plan.project, name=plan.cohort.strip()).first()
    batch = store.open_batch(plan.project, ImportBatch.Source.COMMAND, plan.by)
    summary = Summary(project=plan.project.slug, batch=batch.pk)
    for refusal in refused:
        _refuse(summary, batch, refusal)
    members = None
    if cohort is not None and cohort.frozen:
        members = set(cohort.cases.values_list("study__study_instance_uid", flat=True))
    found: dict[str, Series | None] = {}
    for done, pair in enumerate(pairs):
        progress(done, len(pairs))
        try:
            study_uid, mask_series, new, step = _import_pair(pair, plan, labels, batch, members=members)
        except _Skip as skip:
            _refuse(summary, batch, skip.refused)
            continue
        found[study_uid] = mask_series
        summary.quantisation = max(summary.quantisation, step)
        if new:
            summary.stored += 1
        else:
            summary.duplicate += 1
    progress(len(pairs), len(pairs))
    if found:
        if cohort is None:
            cohort = cohorts.create(
                project=plan.project, name=plan.cohort, by=plan.by, description="Imported from NIfTI files."
            )
        _curate(plan, cohort, found, labels, summary)
    return summary


def _pairs(plan: Plan) -> tuple[list[_Pair], list[RefusedFile]]:
    images, masks = _files(plan.images), _files(plan.masks) if plan.masks else []
    if plan.masks and plan.images.is_file() and plan.masks.is_file():
        return [_Pair(images[0], masks[0], nifti.stem(images[0]))], []
    by_stem = {nifti.stem(path): path for path in masks}
    pairs, refused, seen, used = [], [], set(), set()
    for path in images:
        stem = nifti.stem(path)
        if stem in seen:
            refused.append(RefusedFile(path.name, "same_name", "Another image has the same name; rename one of them."))
            continue
        seen.add(stem)
        key = stem if stem in by_stem else stem.removesuffix(CHANNEL)
        if plan.masks and key not in by_stem:
            refused.append(
                RefusedFile(path.name, "missing_mask", "No mask has the name of this image; add one or leave it out.")
            )
            continue
        used.add(key)
        pairs.append(_Pair(path, by_stem.get(key), stem))
    for stem in sorted(set(by_stem) - used):
        refused.append(
            RefusedFile(by_stem[stem].name, "missing_image", "No image has the name of this mask; it was left out.")
        )
    return pairs, refused


def _files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise nifti.NiftiError(f"There is no file or folder {place}.", "Check the path.", code="no_such_place")
    found = sorted(path for path in place.iterdir() if path.is_file() and nifti.is_nifti(path))
    if not found:
        raise nifti.NiftiError(f"The folder {place} holds no .nii or .nii.gz file.", "Check the path.", code="no_files")
    return found


def _import_pair(
    pair: _Pair,
    plan: Plan,
    labels: Sequence[label_codes.Label],
    batch: ImportBatch,
    *,
    members: set[str] | None,
) -> tuple[str, Series | None, bool, float]:
    """Store one image and its mask: study UID, mask series, whether anything was new, relative quantisation step."""
    image = _read(pair.image)
    mask = _mask(pair, image, labels) if pair.mask else None
    try:
        stored = encode(image.raw, image.slope, image.intercept)
    except ImageError as error:
        raise _Skip(pair.image.name, error.code, f"{error.cause} {error.next_step}") from error
    identity = _identity(pair, plan, image)
    if members is not None and identity.study_instance_uid not in members:
        raise _Skip(
            pair.image.name,
            "cohort_frozen",
            f"The cohort “{plan.cohort}” is frozen and does not hold this image; import it into another cohort.",
        )
    datasets = image_series(stored, image.affine, identity, modality=plan.modality)
    new = _store_missing(datasets, batch, plan, pair.image.name, Origin.ACQUIRED)
    mask_series = None
    if mask is not None and pair.mask is not None:
        series_uid = derived_uid(identity.key, "mask", mask.digest, json.dumps(list(labels), sort_keys=True))
        sop_uid = derived_uid(series_uid, "instance")
        if not _held(plan.project, [sop_uid]):
            label_map = in_slice_order(np.rint(mask.values()).astype(np.uint8), image.affine)
            made = segmentation.write(
                datasets,
                label_map,
                labels,
                series_description=plan.reference,
                series_instance_uid=series_uid,
                sop_instance_uid=sop_uid,
            )
            new = _store_missing([made], batch, plan, pair.mask.name, Origin.REFERENCE) or new
        mask_series = Series.objects.get(study__project=plan.project, series_instance_uid=series_uid)
    reach = float(np.ptp(stored.array)) * stored.slope
    return identity.study_instance_uid, mask_series, new, stored.step / reach if reach else 0.0


def _read(path: Path) -> nifti.Nifti:
    try:
        return nifti.read(path)
    except nifti.NiftiError as error:
        raise _Skip(path.name, error.code, f"{error.cause} {error.next_step}") from error


def _mask(pair: _Pair, image: nifti.Nifti, labels: Sequence[label_codes.Label]) -> nifti.Nifti:
    assert pair.mask is not None
    name = pair.mask.name
    mask = _read(pair.mask)
    if mask.raw.shape != image.raw.shape:
        shapes = ["×".join(map(str, one.raw.shape[::-1])) for one in (mask, image)]
        raise _Skip(
            name,
            "mask_shape",
            f"The mask has {shapes[0]} voxels, the image {pair.image.name} {shapes[1]}. Draw or resample the mask on"
            " the image's grid.",
        )
    if not nifti.same_grid(mask, image):
        raise _Skip(
            name,
            "mask_affine",
            f"The mask lies elsewhere than the image {pair.image.name}: their affines differ. Resample the mask on the"
            " image's grid, or correct its header.",
        )
    present = np.unique(mask.values())
    numbers = {label["number"] for label in labels}
    unknown = [float(value) for value in present if value != 0 and float(value) not in numbers]
    if unknown:
        listed = ", ".join(f"{value:g}" for value in unknown[:10])
        raise _Skip(
            name,
            "unknown_label",
            f"The mask holds the values {listed}, which are not among the labels"
            f" {', '.join(map(str, sorted(numbers)))}. Name them with --labels, or clean the mask.",
        )
    return mask


def _identity(pair: _Pair, plan: Plan, image: nifti.Nifti) -> Identity:
    patient = "".join(character for character in pair.stem if character.isprintable() and character != "\\").strip()
    if len(patient) > 64:
        patient = f"{patient[:48]}-{derived_uid(patient)[-15:]}"
    return Identity(
        patient_id=patient,
        patient_name=patient.replace("^", " ").replace("=", " "),
        key=derived_uid("nifti", plan.project.slug, pair.stem, plan.modality, image.digest),
        study_description=plan.cohort,
        series_description="Imported from NIfTI",
        body_part_examined=plan.body_part,
    )


def _held(project: Project, uids: Sequence[str]) -> set[str]:
    return set(
        Instance.objects.filter(project=project, sop_instance_uid__in=uids).values_list("sop_instance_uid", flat=True)
    )


def _store_missing(datasets: list[Dataset], batch: ImportBatch, plan: Plan, name: str, origin: Origin) -> bool:
    """Store the objects that the project lacks; whether there were any."""
    held = _held(plan.project, [dataset.SOPInstanceUID for dataset in datasets])
    missing = [dataset for dataset in datasets if dataset.SOPInstanceUID not in held]
    outcomes = store.store_files(
        _encoded(missing, name), batch=batch, origin=origin, created_by=plan.by, provenance=PROVENANCE
    )
    for outcome in list(outcomes):
        if outcome.refused:
            raise _Skip(name, outcome.code, outcome.reason)
    return bool(missing)


def _encoded(datasets: list[Dataset], name: str) -> Iterator[tuple[bytes, str]]:
    for dataset in datasets:
        stream = io.BytesIO()
        dataset.save_as(stream, enforce_file_format=True)
        yield stream.getvalue(), name


def _refuse(summary: Summary, batch: ImportBatch, refused: RefusedFile) -> None:
    store.store_file(Refused(refused.code, refused.reason, keep=False), batch=batch, name=refused.file)
    summary.refused.append(refused)


def _curate(
    plan: Plan,
    cohort: Cohort,
    found: Mapping[str, Series | None],
    labels: Sequence[label_codes.Label],
    summary: Summary,
) -> None:
    """Cases, reference standard and split; what is there already stays."""
    summary.cohort = cohort.pk
    studies = {
        study.study_instance_uid: study
        for study in Study.objects.filter(project=plan.project, study_instance_uid__in=list(found))
    }
    if not cohort.frozen:
        cohorts.add_studies(cohort, [studies[uid] for uid in found])
    cases = {case.study.study_instance_uid: case for case in cohort.cases.select_related("study")}
    truths = {cases[uid].pk: (cases[uid], series) for uid, series in found.items() if series is not None}
    if truths:
        reference = _reference(plan, cohort, truths, labels)
        summary.reference, summary.reference_version = reference.pk, reference.version
    if plan.freeze and not cohort.frozen:
        try:
            fractions = {} if plan.folds else plan.fractions
            cohort = cohorts.freeze(cohort, by=plan.by, fractions=fractions, folds=plan.folds, seed=plan.seed)
        except CohortError as error:
            summary.problem = f"The cohort could not be frozen. {error}"
    summary.frozen = cohort.frozen
    summary.cases, summary.patients = cohort.cases.count(), cohort.patients.count()
    for split in cohort.cases.values_list("cohort_patient__split", flat=True):
        summary.splits[split or "none"] = summary.splits.get(split or "none", 0) + 1


def _reference(
    plan: Plan, cohort: Cohort, truths: Mapping[int, tuple[Case, Series]], labels: Sequence[label_codes.Label]
) -> ReferenceStandard:
    """The latest version where it says the same, else a next one that keeps the other cases' truth."""
    latest = cohort.reference_standards.filter(name=plan.reference).order_by("-version").first()
    wanted = {pk: series for pk, (_, series) in truths.items()}
    cases = {pk: case for pk, (case, _) in truths.items()}
    if latest is not None and latest.labels == list(labels):
        before = {
            label.case_id: label
            for label in latest.case_labels.select_related("case", "segmentation")
            if label.segmentation is not None
        }
        if all(pk in before and before[pk].segmentation == series for pk, series in wanted.items()):
            return latest
        for pk, label in before.items():
            if label.segmentation is not None:
                wanted.setdefault(pk, label.segmentation)
                cases.setdefault(pk, label.case)
    return cohorts.create_reference(
        cohort,
        name=plan.reference,
        source=ReferenceStandard.Source.IMPORT,
        labels=labels,
        cases=[cohorts.CaseTruth(cases[pk], series) for pk, series in wanted.items()],
        by=plan.by,
        detail={"format": "NIfTI", "files": len(truths)},
    )
