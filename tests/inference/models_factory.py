"""A tiny world for models: bright balls in noise as CT series, with their label maps, in a frozen cohort.

The truth is constructed, so a model that finds the balls is right for reasons outside the code.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from inference.networks import table
from inference.registry import bundle, services
from inference.registry.models import ModelVersion
from portal.accounts.models import Project
from studies.cohorts import services as cohorts
from studies.cohorts.models import Cohort, ReferenceStandard
from studies.dicom import segmentation
from studies.models import Origin, Series
from studies.volumes import source_datasets
from tests.factories import ct_datasets, store_datasets

SHAPE = (12, 16, 20)  # slices, rows, columns
LABELS = [{"number": 1, "name": "Ball"}, {"number": 2, "name": "Dim ball"}]

CONFIG: dict[str, Any] = {
    "name": "balls",
    "data": {"modality": ["CT"]},
    "preprocessing": [{"name": "orient", "to": "LPS"}, {"name": "normalise", "method": "zscore"}],
    "network": {"name": "unet", "channels": [4, 8], "strides": [2], "residual_units": 1},
    "training": {
        "patch": [12, 16, 20],
        "batch_size": 2,
        "samples_per_case": 2,
        "epochs": 2,
        "learning_rate": 0.02,
        "averaging": 0.9,
        "seed": 5,
    },
    "augmentation": {"rotation": 10, "noise": 0.05},
}


def ball_map(seed: int, *, dim: bool = True) -> np.ndarray:
    """Label map [z, y, x] with a ball (1) on the left and a dim one (2) on the right."""
    random = np.random.default_rng(seed)
    z, y, x = np.indices(SHAPE)
    labels = np.zeros(SHAPE, dtype=np.uint8)
    for number, centre in ((1, 5), (2, 15)):
        if number == 2 and not dim:
            continue
        cz, cy, cx = 6 + random.integers(-1, 2), 8 + random.integers(-2, 3), centre + random.integers(-1, 2)
        labels[((z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2) < 3.2**2] = number
    return labels


def ball_series(project: Project, seed: int, labels: np.ndarray, *, patient: str = "", **overrides: Any) -> Series:
    random = np.random.default_rng(1000 + seed)
    stored = 1000 + 400 * (labels == 1) + 200 * (labels == 2) + random.normal(0, 20, SHAPE)
    # Slices are drawn from foot to head, as the volume has them.
    datasets = ct_datasets(
        SHAPE[0], PatientID=patient or f"B{seed}", PatientName=f"Ball^{seed}", Rows=SHAPE[1], Columns=SHAPE[2],
        **overrides,
    )  # fmt: skip
    for number, dataset in enumerate(datasets):
        dataset.PixelData = np.round(stored[number]).astype("<i2").tobytes()
    return store_datasets(project, datasets)


def add_mask(project: Project, image: Series, labels: np.ndarray) -> Series:
    dataset = segmentation.write(source_datasets(image), labels, LABELS, series_description="Truth")
    return store_datasets(project, [dataset], origin=Origin.REFERENCE)


def ball_cohort(
    project: Project,
    patients: int = 8,
    *,
    name: str = "Balls",
    dim: Any = lambda seed: True,
    freeze: bool = True,
    maker: Any = lambda seed: "Readroom test",
    **design: Any,
) -> tuple[Cohort, ReferenceStandard]:
    """A cohort with one case for each patient and its reference standard; split 50/25/25 where nothing is said."""
    cohort = cohorts.create(project=project, name=name, by=None)
    truths = []
    for seed in range(patients):
        labels = ball_map(seed, dim=dim(seed))
        image = ball_series(project, seed, labels, patient=f"{name}-{seed}", Manufacturer=maker(seed))
        case = cohorts.add_studies(cohort, [image.study]).cases[0]
        truths.append(cohorts.CaseTruth(case, add_mask(project, image, labels)))
    reference = cohorts.create_reference(
        cohort, name="Truth", source=ReferenceStandard.Source.PHANTOM, labels=LABELS, cases=truths, by=None
    )
    if freeze:
        design = design or {"fractions": {"train": 0.5, "validation": 0.25, "test": 0.25}}
        cohort = cohorts.freeze(cohort, by=None, **design)
    return cohort, reference


def ball_manifest(**changes: Any) -> bundle.Manifest:
    return {
        "format": bundle.FORMAT,
        "task": "segmentation",
        "inputs": [{"name": "image", "modality": ["CT"], "smallest": [6, 8, 10]}],
        "preprocessing": [],
        "network": {"name": "unet", "dimensions": 3, "parameters": {"channels": [2, 2], "strides": [1]}},
        "labels": LABELS,
        "output": {"activation": "softmax", "threshold": 0.5},
        "inference": {"window": [12, 16, 20], "overlap": 0.5, "mirror": []},
        "card": {"intended_use": "Finds balls in synthetic volumes.", "limits": "Knows no other shapes."},
        **changes,
    }


def threshold_version(project: Project, *, name: str = "threshold", **changes: Any) -> ModelVersion:
    """A registered version whose weights are random: what matters is that it runs and where results go."""
    model = services.create_model(project=project, name=name, task="segmentation", by=None)
    manifest = bundle.check_manifest(ball_manifest(**changes))
    torch.manual_seed(0)
    network = table.build(
        "unet", dimensions=3, in_channels=1, out_channels=len(LABELS) + 1, parameters=manifest["network"]["parameters"]
    )
    return services.register_version(model, manifest, network.state_dict(), by=None)


class Fixed(nn.Module):
    """The same answer about every image: [batch, outputs]."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(x.shape[0], -1)


class Voxelwise(nn.Module):
    """logits = weight · channels + bias, voxel by voxel."""

    def __init__(self, weight: list[list[float]], bias: list[float]) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.tensor(weight)), nn.Parameter(torch.tensor(bias))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("oc,bczyx->bozyx", self.weight, x) + self.bias[None, :, None, None, None]


def program_version(project: Project, network: nn.Module, *, name: str = "program", **changes: Any) -> ModelVersion:
    """A registered version that computes what `network` does, as TorchScript."""
    manifest = bundle.check_manifest(ball_manifest(network={"name": "torchscript", "dimensions": 3}, **changes))
    model = services.create_model(project=project, name=name, task=manifest["task"], by=None)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.ts"
        torch.jit.script(network).save(str(file))
        return services.register_version(model, manifest, file, by=None)


def mr_series(
    project: Project, array: np.ndarray, description: str, *, shared: dict[str, Any], **overrides: Any
) -> Series:
    """An MR series of values [z, y, x]; `shared` are the UIDs of its study (and frame of reference)."""
    datasets = ct_datasets(
        array.shape[0], Rows=array.shape[1], Columns=array.shape[2], Modality="MR", SeriesDescription=description,
        RescaleIntercept=0, **(shared | overrides),
    )  # fmt: skip
    for number, dataset in enumerate(datasets):
        dataset.PixelData = np.round(array[number]).astype("<i2").tobytes()
    return store_datasets(project, datasets)
