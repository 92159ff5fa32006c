"""The demonstration's images: pydicom's sample files, and phantoms with their cohorts and reference standards."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from portal.accounts.models import Project, User
from portal.demo.services import Size
from studies.cohorts import services as cohorts
from studies.cohorts.errors import CohortError
from studies.cohorts.models import Cohort, ReferenceStandard, Split
from studies.dicom import phantom, segmentation
from studies.dicom.uids import derived_uid
from studies.ingest import store
from studies.models import ImportBatch, Instance, Origin, Series, Study

Report = Callable[[float, str], None]

# Sound files of the pydicom package, of many kinds; nothing is downloaded.
SAMPLES = (
    "CT_small.dcm", "MR_small.dcm", "JPEG2000.dcm", "693_J2KI.dcm", "JPGExtended.dcm", "examples_jpeg2k.dcm",
    "examples_overlay.dcm", "examples_palette.dcm", "examples_rgb_color.dcm", "examples_ybr_color.dcm", "test-SR.dcm",
    "rtdose.dcm", "rtplan.dcm", "rtstruct.dcm", "waveform_ecg.dcm", "liver_1frame.dcm",
)  # fmt: skip
FRACTIONS = {"train": 0.44, "validation": 0.06, "test": 0.5}
COHORT, READING_COHORT, OWN_COHORT = (
    "Liver phantoms, CT",
    "Liver phantoms, reading set",
    "Liver phantoms, to try reading",
)
REFERENCE = "Truth by construction"


@dataclass(frozen=True)
class Archive:
    """What the later steps work on."""

    cohort: Cohort
    reference: ReferenceStandard
    reading: Cohort
    own: Cohort


def load_samples(project: Project, by: User | None, say: Callable[[str], None]) -> int:
    """Store pydicom's sample files; what the archive refuses is told and left out. Returns how many are there."""
    found = [Path(path) for name in SAMPLES if (path := get_testdata_file(name, download=False))]
    batch = store.open_batch(project, ImportBatch.Source.DEMO, by)
    there = 0
    for outcome in store.store_files([(path, path.name) for path in found], batch=batch, created_by=by):
        if outcome.refused:
            say(f"{outcome.name} was refused: {outcome.reason}")
        else:
            there += 1
    return there


def load_phantoms(project: Project, by: User, size: Size, report: Report) -> Archive:
    """Store the phantoms and their masks, and make the cohorts; what is there already stays."""
    batch = store.open_batch(project, ImportBatch.Source.DEMO, by)
    truths: dict[str, Series] = {}
    for number in range(size.phantoms):
        report(number / size.phantoms, f"phantom {number + 1} of {size.phantoms}")
        made = phantom.make(number)
        truths[made.identity.study_instance_uid] = _store_phantom(made, project, batch, by)
    studies = list(
        Study.objects.filter(project=project, study_instance_uid__in=list(truths)).order_by("patient__patient_id")
    )
    cohort = _cohort(
        project,
        COHORT,
        "Synthetic CT of the liver, with and without lesions; the truth is known.",
        studies,
        FRACTIONS,
        by,
    )
    reference = cohort.reference_standards.filter(name=REFERENCE).first() or cohorts.create_reference(
        cohort,
        name=REFERENCE,
        source=ReferenceStandard.Source.PHANTOM,
        labels=phantom.LABELS,
        cases=[
            cohorts.CaseTruth(case, truths[case.study.study_instance_uid])
            for case in cohort.cases.select_related("study", "cohort")
        ],
        by=by,
        detail={"synthetic": True, "made by": "studies.dicom.phantom"},
    )
    # Readers see test patients only, so that their consensus is an independent second truth.
    unseen = [
        case.study
        for case in cohort.cases.filter(cohort_patient__split=Split.TEST).select_related("study").order_by("name")
    ]
    everything_tests = {Split.TEST.value: 1.0}
    reading = _cohort(
        project,
        READING_COHORT,
        "Test phantoms that three synthetic readers outline.",
        unseen[: size.reading_cases],
        everything_tests,
        by,
    )
    own = _cohort(
        project,
        OWN_COHORT,
        "Test phantoms for you to read.",
        unseen[size.reading_cases : size.reading_cases + size.own_cases],
        everything_tests,
        by,
    )
    return Archive(cohort, reference, reading, own)


def _store_phantom(made: phantom.Phantom, project: Project, batch: ImportBatch, by: User) -> Series:
    """The series of its mask; images and mask are stored where they are missing."""
    identity = made.identity
    datasets = made.datasets()
    _store_missing(datasets, project, batch, by, Origin.ACQUIRED)
    series_uid = derived_uid(identity.key, "mask")
    found = Series.objects.filter(study__project=project, series_instance_uid=series_uid).first()
    if found is None:
        mask = segmentation.write(
            datasets,
            made.label_map,
            phantom.LABELS,
            series_description="Truth by construction, synthetic",
            series_instance_uid=series_uid,
            sop_instance_uid=derived_uid(series_uid, "instance"),
        )
        mask.SyntheticData = "YES"
        _store_missing([mask], project, batch, by, Origin.REFERENCE)
        found = Series.objects.get(study__project=project, series_instance_uid=series_uid)
    return found


def _store_missing(datasets: list[Dataset], project: Project, batch: ImportBatch, by: User, origin: Origin) -> None:
    uids = [dataset.SOPInstanceUID for dataset in datasets]
    held = set(
        Instance.objects.filter(project=project, sop_instance_uid__in=uids).values_list("sop_instance_uid", flat=True)
    )
    missing = [dataset for dataset in datasets if dataset.SOPInstanceUID not in held]
    outcomes = store.store_files(
        _encoded(missing), batch=batch, origin=origin, created_by=by, provenance="Synthetic phantom"
    )
    for outcome in outcomes:
        if outcome.refused:
            raise CohortError("refused", f"The archive refused a phantom: {outcome.reason}")


def _encoded(datasets: list[Dataset]) -> Iterator[tuple[bytes, str]]:
    for dataset in datasets:
        stream = io.BytesIO()
        dataset.save_as(stream, enforce_file_format=True)
        yield stream.getvalue(), "phantom.dcm"


def _cohort(
    project: Project, name: str, description: str, studies: list[Study], fractions: dict[str, float], by: User
) -> Cohort:
    cohort = Cohort.objects.filter(project=project, name=name).first()
    if cohort is None:
        cohort = cohorts.create(project=project, name=name, description=description, by=by)
    if not cohort.frozen:
        cohorts.add_studies(cohort, studies)
        cohort = cohorts.freeze(cohort, by=by, fractions=fractions, seed=1)
    return cohort
