"""Radiograph-like pictures of two classes in a frozen cohort: a bright disc, or a bright bar, in noise."""

from __future__ import annotations

from typing import Any

import numpy as np

from portal.accounts.models import Project
from studies.cohorts import services as cohorts
from studies.cohorts.models import Cohort, ReferenceStandard
from tests.factories import ct_slice, store_datasets

CLASSES = ("disc", "bar")
SIZE = 32

CONFIG: dict[str, Any] = {
    "name": "shapes",
    "task": "classification",
    "preprocessing": [{"name": "normalise", "method": "zscore"}, {"name": "resize", "to": [1, SIZE, SIZE]}],
    "network": {"name": "cnn", "dimensions": 2, "channels": [4, 8], "hidden": 8},
    "training": {
        "patch": [1, SIZE, SIZE],
        "batch_size": 4,
        "epochs": 12,
        "learning_rate": 0.02,
        "averaging": 0.5,
        "seed": 3,
    },
    "augmentation": {"shift": 0.05, "noise": 0.05},
}


def picture(kind: str, seed: int) -> np.ndarray:
    """uint16 [SIZE, SIZE]."""
    random = np.random.default_rng(seed)
    y, x = np.indices((SIZE, SIZE))
    cy, cx = random.integers(12, 20, 2)
    shape = (y - cy) ** 2 + (x - cx) ** 2 < 36 if kind == "disc" else (abs(y - cy) < 2) & (abs(x - cx) < 11)
    return np.clip(300 + 400 * shape + random.normal(0, 30, (SIZE, SIZE)), 0, 4095).astype(np.uint16)


def shape_cohort(
    project: Project, patients: int = 12, *, classes: Any = lambda seed: CLASSES[seed % 2], maker: Any = None, **design
) -> tuple[Cohort, ReferenceStandard]:
    """One picture for each patient, without a place in the patient, as radiographs have none."""
    cohort = cohorts.create(project=project, name="Shapes", by=None)
    truths = []
    for seed in range(patients):
        dataset = ct_slice(0, rows=SIZE, columns=SIZE, PatientID=f"S{seed}", PatientName=f"Shape^{seed}")
        dataset.Modality, dataset.RescaleIntercept = "CR", 0
        dataset.Manufacturer = maker(seed) if maker else "Readroom test"
        del dataset.ImagePositionPatient, dataset.ImageOrientationPatient
        dataset.PixelData = picture(classes(seed), seed).astype("<u2").tobytes()
        dataset.PixelRepresentation = 0
        series = store_datasets(project, [dataset])
        case = cohorts.add_studies(cohort, [series.study]).cases[0]
        truths.append(cohorts.CaseTruth(case, values={"class": classes(seed)}))
    reference = cohorts.create_reference(
        cohort,
        name="Shape",
        source=ReferenceStandard.Source.PHANTOM,
        labels=[],
        cases=truths,
        by=None,
        classes=list(CLASSES),
    )
    design = design or {"fractions": {"train": 0.5, "validation": 0.25, "test": 0.25}, "classes": reference}
    return cohorts.freeze(cohort, by=None, **design), reference
