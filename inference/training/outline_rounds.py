"""One round of a segmentation's cross-validation: a network learns from the training cases and outlines the others.

The network is used as one that is in use: from a bundle, on the image of the archive, and measured on the image's own
grid. What is learned from images before the fit (a network's plan, a histogram's scale) is learned from the training
cases of the round alone.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from inference.errors import InferenceError
from inference.evaluation import summary
from inference.imaging import preprocessing
from inference.prediction import engine
from inference.registry import bundle
from inference.registry import manifest as manifests
from inference.training import cases, members, partitions, services
from inference.training.config import Config, planned
from inference.training.data import PreparedCase, check_fit
from inference.training.fit import Trained, Watcher
from inference.training.outlines import Judged
from inference.training.partitions import INNER_SHARE, Round
from inference.training.parts import Part
from studies.cohorts.models import ReferenceLabel
from studies.dicom.errors import ImageError
from studies.volumes import load_masks, load_volume

LEARNING = 0.8  # of a round's progress; the rest is outlining and measuring
Labels = Sequence[dict[str, Any]]


class Images:
    """Prepared cases, kept from round to round as long as they are prepared in the same way."""

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self.names = [label["name"] for label in labels]
        self._steps = ""
        self._held: dict[int, PreparedCase] = {}

    def of(self, entries: Sequence[ReferenceLabel], config: Config, watcher: Watcher) -> dict[int, PreparedCase]:
        """Case id → prepared case. Raises `TrainingError` that names the case."""
        steps = json.dumps(config["preprocessing"], sort_keys=True)
        if steps != self._steps:
            self._steps, self._held = steps, {}
        missing = [entry for entry in entries if entry.case_id not in self._held]
        done = 0

        def tick(name: str) -> None:
            nonlocal done
            watcher.check()
            done += 1
            watcher.progress(0, f"loading case {done} of {len(missing)}")

        loaded = cases.load_cases(missing, config, self.labels, tick=tick)
        self._held.update({entry.case_id: case for entry, case in zip(missing, loaded, strict=True)})
        return {entry.case_id: self._held[entry.case_id] for entry in entries}


def judge(
    config: Config,
    images: Images,
    part: Round,
    folder: Path,
    watcher: Watcher,
    *,
    learned: Config | None,
    note: Callable[[Config], Config],
) -> Judged:
    """Train on the training cases of a round and measure the others.

    folder: keeps checkpoint and trained network until the round is over; a second attempt goes on from there. learned:
    the configuration as an earlier attempt completed it; note: writes it down. Raises `TrainingError`.
    """
    kept = folder / "bundle"
    if not kept.exists():
        learning = Part(watcher, 0, LEARNING, "training")
        completed = learned or _completed(config, images, part, learning, note)
        problem = _learn(completed, images, part, folder, learning, plans=planned(config))
        if problem:
            return Judged(problem=problem)
    opened = bundle.read(kept)
    started = time.monotonic()
    judged = _measure(engine.load(opened), part, Part(watcher, LEARNING, 1 - LEARNING, "testing"))
    facts = dict(opened.manifest["training"])
    facts["seconds"] = round(facts["seconds"] + time.monotonic() - started, 1)
    unseen = facts.pop("unseen")
    return Judged(judged.measured, judged.failed, unseen, facts)


def _completed(
    config: Config, images: Images, part: Round, watcher: Watcher, note: Callable[[Config], Config]
) -> Config:
    """The configuration with what is learned from the round's training cases; itself where there is nothing."""
    made = cases.plan(part.training, config, len(images.labels), watcher) if planned(config) else config
    if preprocessing.unfitted(made["preprocessing"]) is not None:
        made = cases.fit_scales(part.training, made, watcher)
    return config if made is config else note(made)


def _learn(config: Config, images: Images, part: Round, folder: Path, watcher: Watcher, *, plans: bool) -> str:
    """Leave the trained network as a bundle; what hinders it, in words, or empty. plans: the round made its own plan,
    where the configuration has none."""
    names = images.names
    prepared = images.of(part.training, config, watcher)
    shown = {case: set(loaded.labels.unique().tolist()) - {0} for case, loaded in prepared.items()}
    unseen = [name for number, name in enumerate(names, start=1) if not any(number in of for of in shown.values())]
    if len(unseen) == len(names):
        return f"the training cases show no voxel of {', '.join(names)}"
    settings = config["training"]
    learn: Sequence[ReferenceLabel] = part.training
    validate: Sequence[ReferenceLabel] = []
    if settings["early_stopping"]:
        # The patients of the test side must not decide when training ends.
        learn, validate = _inner_split(part.training, shown, settings["seed"])
        watcher.log(f"early stopping looks at {len(validate)} of the {len(part.training)} training cases")
    if unseen:
        watcher.log(f"no training case shows {', '.join(unseen)}: it is not judged in this round")
    training = [prepared[entry.case_id] for entry in learn]
    validation = [prepared[entry.case_id] for entry in validate]
    for warning in check_fit(training, validation, patch=settings["patch"]):
        watcher.log(warning)
    made = members.train(config, names, training, validation, folder, watcher)
    trained = members.together(config, names, made, validation)
    manifest = services.manifest_of_config(
        config,
        list(images.labels),
        modality=config["data"]["modality"] or sorted({entry.case.image.modality for entry in part.training}),
        anisotropy=max(case.anisotropy for case in training),
    )
    manifest["training"] = _facts(config, trained, unseen, len(validate), plans)
    bundle.write(folder / "bundle", *services.as_bundle(config, manifest, trained, made))
    return ""


def _inner_split(
    entries: list[ReferenceLabel], shown: dict[int, set[int]], seed: int
) -> tuple[list[ReferenceLabel], list[ReferenceLabel]]:
    """(learn, validate) as `partitions.inner_split`; a structure never loses its last case to the validation.

    shown: case id → numbers of the structures that it shows.
    """
    _, validate = partitions.inner_split(entries, share=INNER_SHARE, seed=seed, kind=lambda entry: "")
    held = {partitions.unit_of(entry) for entry in validate}
    for number in sorted(set[int]().union(*shown.values())):
        holders = [partitions.unit_of(entry) for entry in entries if number in shown[entry.case_id]]
        if held.issuperset(holders):
            held.discard(holders[0])
    learn = [entry for entry in entries if partitions.unit_of(entry) not in held]
    return learn, [entry for entry in entries if partitions.unit_of(entry) in held]


def _facts(config: Config, trained: Trained, unseen: list[str], inner: int, plans: bool) -> dict[str, Any]:
    scales = [step["scale"] for step in config["preprocessing"] if step["name"] == "nyul"]
    learned: dict[str, Any] = {"scale": scales[0]} if scales else {}
    if plans:
        learned |= {"patch": config["training"]["patch"], "batch_size": config["training"]["batch_size"]}
        learned["spacing"] = next((s["spacing"] for s in config["preprocessing"] if s["name"] == "resample"), None)
    return {
        "epochs": trained.epochs,
        "steps": trained.steps,
        "seconds": trained.seconds,
        "unseen": unseen,
        "inner_validation": inner,
        "learned": learned,
    }


def _measure(model: engine.LoadedModel, part: Round, watcher: Watcher) -> Judged:
    """Each test case as an evaluation measures it; one that the network cannot be run on never stops the others."""
    manifest = model.bundle.manifest
    labels, limits = manifest["labels"], manifests.thresholds(manifest)
    judged = Judged()
    for number, entry in enumerate(part.test):
        watcher.check()
        watcher.progress(number / len(part.test), f"case {number + 1} of {len(part.test)}")
        try:
            engine.check_modality(manifest, entry.case.image.modality)
            volume = load_volume(entry.case.image)
            output = model.predict(volume, tick=watcher.check)
            truth = load_masks(entry.segmentation, volume, labels)  # type: ignore[arg-type]
        except (InferenceError, ImageError) as error:
            judged.failed.append({"case": entry.case.name, "cause": error.cause, "next_step": error.next_step})
            watcher.log(f"{entry.case.name}: {error.cause}")
            continue
        assert output.label_map is not None
        masks = {
            label["name"]: (wanted, output.label_map == label["number"])
            for label, wanted in zip(labels, truth, strict=True)
        }
        figures = summary.of_masks(
            entry.case.name,
            entry.case.cohort_patient.patient_id,
            masks,
            volume.spacing,
            scores=output.scores,
            limits=limits,
        )
        judged.measured.append((entry, figures))
    return judged


def forget(folder: Path) -> None:
    """Delete what a round kept on disk."""
    shutil.rmtree(folder, ignore_errors=True)
