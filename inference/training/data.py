"""Prepared cases in memory, and random patches of them as a Lightning data module.

Which patch is cut is decided by (seed, epoch, place in the epoch) alone, so a resumed run sees the patches that an
unbroken one would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from scipy.ndimage import find_objects
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from inference.errors import TrainingError

FEW = 3  # training cases of a structure, below which a run warns
MIXED = 1.5  # so many times coarser is another image to a network that counts voxels


@dataclass(frozen=True)
class PreparedCase:
    """image: float32 [1, z, y, x] after preprocessing; labels: integer [z, y, x] on the same grid; name: pseudonym;
    spacing: (z, y, x) mm; anisotropy: of the image's own voxels, before preprocessing; left_out: how many lesions a
    step cropped away."""

    name: str
    image: Tensor
    labels: Tensor
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    anisotropy: float = 1.0
    left_out: int = 0


def check_cases(
    training: Sequence[PreparedCase], validation: Sequence[PreparedCase], *, patch: Sequence[int], structures: list[str]
) -> list[str]:
    """Warnings for the log. Raises `TrainingError` where nothing could be learned from these cases."""
    shown = _shown(training, len(structures))
    if sum(shown) == 0:
        raise TrainingError(
            "The training set has no foreground: in none of its "
            f"{len(training)} cases is a voxel of {', '.join(structures)} marked.",
            "Check that the reference standard belongs to these images and that its labels are named like this.",
        )
    absent = [name for name, count in zip(structures, shown, strict=True) if count == 0]
    if absent:
        raise TrainingError(
            f"The training set never shows {', '.join(absent)}.",
            "Leave these structures out with data.structures, or freeze the cohort with another seed.",
        )
    warnings = [
        f"{name} is shown by {count} of {len(training)} training cases: too few to learn it from"
        for name, count in zip(structures, shown, strict=True)
        if count < min(FEW, len(training))
    ]
    if validation:
        unseen = [name for name, n in zip(structures, _shown(validation, len(structures)), strict=True) if n == 0]
        warnings += [f"No validation case shows {name}: its Dice tells of false voxels alone" for name in unseen]
    return warnings + check_sizes(training, validation, patch=patch)


def _shown(cases: Sequence[PreparedCase], structures: int) -> list[int]:
    """How many cases show each structure."""
    seen = torch.zeros(structures + 1, dtype=torch.int64)
    for case in cases:
        seen += torch.bincount(case.labels.flatten().long(), minlength=structures + 1) > 0
    return seen[1:].tolist()


def check_sizes(
    training: Sequence[PreparedCase], validation: Sequence[PreparedCase], *, patch: Sequence[int]
) -> list[str]:
    """Warnings for the log. Raises `TrainingError` where a case is much smaller than the patch."""
    warnings = check_fit(training, validation, patch=patch)
    if not validation:
        warnings.append("The cohort has no validation patients: there will be no validation curve")
    return warnings


def check_fit(
    training: Sequence[PreparedCase], validation: Sequence[PreparedCase], *, patch: Sequence[int]
) -> list[str]:
    """Warnings about sizes and spacings. Raises `TrainingError` as `check_sizes`."""
    warnings = []
    for case in [*training, *validation]:
        size = tuple(case.labels.shape)
        if any(2 * have < want for have, want in zip(size, patch, strict=True)):
            raise TrainingError(
                f"After preprocessing case {case.name} has {_by(size)} voxels (z, y, x), less than half of the patch "
                f"{_by(patch)} on an axis, so most of it would be padding.",
                "Choose a smaller training.patch, a finer spacing, or leave the case out.",
            )
    small = sum(any(h < w for h, w in zip(case.labels.shape, patch, strict=True)) for case in training)
    if small:
        warnings.append(f"{small} of {len(training)} training cases are smaller than the patch: their edges repeat")
    if mixed := mixed_spacing([case.spacing for case in training]):
        warnings.append(mixed)
    return warnings


def mixed_spacing(spacings: Sequence[Sequence[float]]) -> str:
    """A warning where after preprocessing one voxel means very different lengths, (z, y, x) mm; else empty."""
    low, high = np.min(spacings, axis=0), np.max(spacings, axis=0)
    if (high <= MIXED * low).all():
        return ""
    return (
        f"Voxels of the training cases measure from {_by_mm(low)} to {_by_mm(high)} mm (z, y, x) after preprocessing, "
        "so a structure has very different sizes in voxels: add a step resample"
    )


def cut(case: PreparedCase, start: Sequence[int], size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The patch [1, *size] and its labels [1, *size] from voxel `start` (z, y, x), which may lie outside.

    Outside the volume the image repeats its edge and the labels are background.
    """
    shape = case.labels.shape
    inside = [slice(max(s, 0), min(s + n, have)) for s, n, have in zip(start, size, shape, strict=True)]
    image, labels = case.image[(slice(None), *inside)], case.labels[tuple(inside)][None]
    before = [max(0, -s) for s in start]
    after = [n - b - (i.stop - i.start) for n, b, i in zip(size, before, inside, strict=True)]
    if any(before) or any(after):
        padding = [v for b, a in zip(reversed(before), reversed(after), strict=True) for v in (b, a)]
        image = torch.nn.functional.pad(image[None], padding, mode="replicate")[0]
        labels = torch.nn.functional.pad(labels, padding)
    return image, labels


class EpochSampler(Sampler[int]):
    """A new order for every epoch, decided by seed and epoch."""

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.seed, self.epoch = length, seed, 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        return iter(np.random.default_rng([self.seed, self.epoch]).permutation(self.length).tolist())


class Patches(Dataset[dict[str, Tensor]]):
    def __init__(self, cases: Sequence[PreparedCase], settings: dict[str, Any]) -> None:
        self.cases, self.epoch = cases, 0
        self.patch, self.seed = settings["patch"], settings["seed"]
        self.samples, self.foreground_share = settings["samples_per_case"], settings["foreground_share"]
        # Where to centre patches on a structure: one list of voxels for each structure of each case.
        self._voxels: list[list[np.ndarray]] = []
        if self.foreground_share > 0:
            for case in cases:
                array = case.labels.numpy().astype(np.int32)
                self._voxels.append(
                    [
                        np.argwhere(array[place] == n) + [side.start for side in place]
                        for n, place in enumerate(find_objects(array), start=1)
                        if place is not None
                    ]
                )

    def __len__(self) -> int:
        return len(self.cases) * self.samples

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        number = place % len(self.cases)
        case = self.cases[number]
        random = np.random.default_rng([self.seed, self.epoch, place])
        low = [min(0, have - want) for have, want in zip(case.labels.shape, self.patch, strict=True)]
        high = [max(0, have - want) for have, want in zip(case.labels.shape, self.patch, strict=True)]
        start = [int(random.integers(a, b + 1)) for a, b in zip(low, high, strict=True)]
        if self.foreground_share > 0 and random.random() < self.foreground_share and self._voxels[number]:
            structure = self._voxels[number][int(random.integers(len(self._voxels[number])))]
            centre = structure[int(random.integers(len(structure)))]
            start = [int(np.clip(c - n // 2, a, b)) for c, n, a, b in zip(centre, self.patch, low, high, strict=True)]
        image, labels = cut(case, start, self.patch)
        return {"image": image, "labels": labels}


class WholeCases(Dataset[dict[str, Tensor]]):
    def __init__(self, cases: Sequence[PreparedCase]) -> None:
        self.cases = cases

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        return {"image": self.cases[place].image, "labels": self.cases[place].labels[None]}


class SegmentationData(pl.LightningDataModule):
    """settings: the section `training` of a configuration."""

    def __init__(
        self, training: Sequence[PreparedCase], validation: Sequence[PreparedCase], settings: dict[str, Any]
    ) -> None:
        super().__init__()
        self.training, self.validation = list(training), list(validation)
        self.settings = settings
        self.patches = Patches(self.training, settings)
        self.order = EpochSampler(len(self.patches), settings["seed"])

    def steps_per_epoch(self) -> int:
        batch = min(self.settings["batch_size"], len(self.patches))
        return len(self.patches) // batch

    def set_epoch(self, epoch: int) -> None:
        self.patches.epoch = self.order.epoch = epoch

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        # Without worker processes: the cases are in memory, and a daemonic Celery worker may not have children.
        return DataLoader(
            self.patches,
            batch_size=min(self.settings["batch_size"], len(self.patches)),
            sampler=self.order,
            drop_last=True,
            pin_memory=torch.cuda.is_available(),
        )

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return DataLoader(WholeCases(self.validation), batch_size=1)


def _by_mm(spacing: Sequence[float]) -> str:
    return "×".join(f"{n:.3g}" for n in spacing)


def _by(size: Sequence[int]) -> str:
    return "×".join(str(n) for n in size)
