"""Cases of a frozen cohort, prepared for training. The split is the cohort's; nothing here draws another one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from inference.errors import TrainingError
from inference.imaging import grids, intensity, preprocessing
from inference.training.config import Config
from studies.cohorts.models import Cohort, ReferenceLabel, ReferenceStandard, Split
from studies.volumes import load_image, load_label_map, load_volume

if TYPE_CHECKING:
    from inference.training.data import PreparedCase
    from inference.training.fit import Watcher

PLANNED_SHARE = 0.6  # of the free memory, as the estimate knows the network alone


def find_cohort(cohort: Cohort) -> None:
    """Raise `TrainingError` unless the cohort can be trained on."""
    if not cohort.frozen:
        raise TrainingError(
            f"The cohort “{cohort.name}” is not frozen, so it has no split into training and test patients yet.",
            "Freeze it on its page; the members are then fixed and each patient gets one place in the split.",
        )
    patients = cohort.patients.count()
    if patients < 2:
        raise TrainingError(
            f"The cohort “{cohort.name}” has {'one patient' if patients == 1 else 'no patients'}; training needs some "
            "and testing needs others.",
            "Add studies of more patients to a new cohort.",
        )
    for split, what in ((Split.TRAIN, "training"), (Split.TEST, "test")):
        if not cohort.patients.filter(split=split).exists():
            raise TrainingError(
                f"The split of the cohort “{cohort.name}” has no {what} patients.",
                "Freeze a cohort with a share for each of training and test.",
            )


def choose_labels(reference: ReferenceStandard, structures: Sequence[str]) -> list[dict[str, Any]]:
    """The labels to learn, numbered 1, 2, … in the order of the reference standard. Raises `TrainingError`."""
    known = [label["name"] for label in reference.labels]
    absent = [name for name in structures if name not in known]
    if absent:
        raise TrainingError(
            f"The reference standard “{reference}” has no structure {absent[0]!r}.",
            f"Choose from: {', '.join(known) or 'none'}.",
        )
    chosen = [label for label in reference.labels if not structures or label["name"] in structures]
    if not chosen:
        raise TrainingError(
            f"The reference standard “{reference}” has no structures to segment.",
            "Choose one that was imported or drawn as segmentation.",
        )
    return [{**label, "number": number} for number, label in enumerate(chosen, start=1)]


def labelled_cases(reference: ReferenceStandard, split: str = "") -> list[ReferenceLabel]:
    """Cases that have a segmentation in this reference standard, of one side of the split or all."""
    entries = reference.case_labels.filter(segmentation__isnull=False)
    if split:
        entries = entries.filter(case__cohort_patient__split=split)
    return list(
        entries.select_related("case__image", "case__study", "case__cohort_patient", "segmentation").order_by(
            "case__name", "case_id"
        )
    )


def plan(entries: Sequence[ReferenceLabel], config: Config, labels: int, run: Watcher) -> Config:
    """The configuration with spacing, patch, batch and network as the training images ask for; see `planning`."""
    from inference.networks import planning
    from inference.training.fit import free_memory

    shapes, spacings = [], []
    moves = ("orient", "crop_foreground", "crop_body", "crop_centre", "crop")
    steps = [step for step in config["preprocessing"] if step["name"] in moves]
    for number, entry in enumerate(entries, start=1):
        run.check()
        run.progress(0, f"planning: image {number} of {len(entries)}")
        prepared = preprocessing.prepare(load_volume(entry.case.image), steps)
        shapes.append(prepared.shape)
        spacings.append(prepared.spacing)
    free, _ = free_memory()
    made = planning.plan(
        planning.Fingerprint(shapes, spacings),
        outputs=labels + 1,
        bytes_available=int(free * PLANNED_SHARE),
        features=config["network"]["parameters"]["features"],
    )
    spacing = "×".join(f"{n:g}" for n in made.spacing)
    run.log(
        f"Planned from {len(shapes)} images: {spacing} mm, patch {'×'.join(str(n) for n in made.patch)}, batch "
        f"{made.batch_size}, {len(made.parameters['strides'])} stages"
    )
    others = [step for step in config["preprocessing"] if step not in steps and step["name"] != "resample"]
    return {
        **config,
        "preprocessing": [*steps, {"name": "resample", "spacing": made.spacing}, *others],
        "network": {
            "name": "nnunet",
            "dimensions": 2 if made.patch[0] == 1 else 3,
            "parameters": {**made.parameters, "residual": config["network"]["parameters"]["residual"]},
        },
        "training": {**config["training"], "patch": made.patch, "batch_size": made.batch_size},
        "inference": {**config["inference"], "window": list(made.patch)},
    }


def fit_scales(entries: Sequence[ReferenceLabel], config: Config, run: Watcher) -> Config:
    """The configuration with the histogram scales (`nyul`) that were left open, learned from these images alone.

    entries: training patients; what a scale is learned from must never be validated or tested on.
    """
    steps = list(config["preprocessing"])
    while (place := preprocessing.unfitted(steps)) is not None:

        def arrays(before: Sequence[preprocessing.Step] = tuple(steps[:place])) -> Iterator[np.ndarray]:
            for number, entry in enumerate(entries, start=1):
                run.check()
                run.progress(0, f"histogram of image {number} of {len(entries)}")
                yield preprocessing.prepare(load_image(entry.case.image), before).array

        scale = intensity.landmarks(arrays())
        steps[place] = {**steps[place], "scale": scale}
        run.log(
            f"Step {place + 1} (nyul): the scale was learned from the {len(entries)} training images alone: "
            + ", ".join(f"{value:.4g}" for value in scale)
        )
    return {**config, "preprocessing": steps}


def load_case(entry: ReferenceLabel, config: Config, labels: Sequence[dict[str, Any]]) -> PreparedCase:
    """Image and label map after preprocessing. Raises `ImageError` or `PreprocessingError`."""
    import torch

    from inference.training.data import PreparedCase

    volume = load_volume(entry.case.image)
    label_map = load_label_map(entry.segmentation, volume, labels)  # type: ignore[arg-type]
    prepared = preprocessing.prepare(volume, config["preprocessing"])
    on_grid = grids.resample_labels(volume.like(label_map), prepared)
    return PreparedCase(
        entry.case.name,
        torch.from_numpy(prepared.array)[None],
        torch.from_numpy(on_grid.astype(np.uint8)),
        prepared.spacing,
        volume.anisotropy,
    )


def check_room(bytes_of_cases: int, done: int, total: int) -> None:
    """Raise `TrainingError` where the cases still to come will not fit into memory, going by those that are loaded."""
    free = psutil.virtual_memory().available
    each, gigabyte = bytes_of_cases / done, 2**30
    needed = each * (total - done)
    if needed > free:
        raise TrainingError(
            f"{total} prepared cases take about {each * total / gigabyte:.1f} GB of memory; after {done} of them this "
            f"machine has {free / gigabyte:.1f} GB left for the other {needed / gigabyte:.1f} GB.",
            "Crop the images or resample them to a coarser spacing, use a smaller cohort, or a larger machine.",
        )


def load_cases(
    entries: Sequence[ReferenceLabel],
    config: Config,
    labels: Sequence[dict[str, Any]],
    *,
    tick: Callable[[str], None],
) -> list[PreparedCase]:
    """Every case in memory; `tick` is called with the name of each before it is read."""
    return load_each(entries, lambda entry: load_case(entry, config, labels), tick=tick)


def load_each(
    entries: Sequence[ReferenceLabel], load: Callable[[ReferenceLabel], PreparedCase], *, tick: Callable[[str], None]
) -> list[PreparedCase]:
    """Every case in memory. Raises `TrainingError` that names the case, or says that memory will not suffice."""
    cases: list[PreparedCase] = []
    held = 0
    for entry in entries:
        tick(entry.case.name)
        try:
            cases.append(load(entry))
            held += cases[-1].image.nbytes + cases[-1].labels.nbytes
            check_room(held, len(cases), len(entries))
        except TrainingError:
            raise
        except Exception as error:
            cause = getattr(error, "cause", None)
            if not isinstance(cause, str):
                raise
            raise TrainingError(f"Case {entry.case.name}: {cause}", getattr(error, "next_step", "")) from error
    return cases
