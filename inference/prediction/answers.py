"""What a model said about an image, as rows for people."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from inference.prediction.models import Prediction
from inference.prediction.results import decided
from inference.registry import manifest as manifests

MEASURES = {
    "entropy": "Entropy",
    "mutual_information": "Mutual information",
    "variance": "Variance",
    "standard_deviation": "Standard deviation",
}
CAUTION = "One case, no interval: how far such answers can be trusted is on the evaluation page of the version."


@dataclass(frozen=True)
class Structure:
    name: str
    volume_ml: float | None
    score: float | None
    threshold: float
    found: bool


@dataclass(frozen=True)
class Judgement:
    name: str
    score: float
    decided: bool
    threshold: float | None  # None: the likeliest counts


@dataclass(frozen=True)
class Box:
    """slices count from 1, from the lowest position along the normal of the slices."""

    label: str
    score: float
    first: int
    last: int
    size: list[float]
    centre: list[float]


@dataclass(frozen=True)
class Answer:
    """The part that the model's task fills has rows; words say the most important one."""

    words: str
    status: str
    structures: list[Structure] = field(default_factory=list)
    judgements: list[Judgement] = field(default_factory=list)
    values: list[dict[str, Any]] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    uncertainty: dict[str, Any] = field(default_factory=dict)


def of(prediction: Prediction) -> Answer:
    """prediction: with its version and model."""
    manifest = prediction.version.manifest
    task = prediction.version.model.task
    uncertainty = dict(prediction.uncertainty)
    if uncertainty:
        uncertainty["name"] = MEASURES.get(str(uncertainty.get("measure")), str(uncertainty.get("measure")))
    if task == "regression":
        values = [{"name": name, **value} for name, value in prediction.values.items()]
        words = ", ".join(f"{value['name']} {value['value']:.3g} {_unit(value['unit'])}".strip() for value in values)
        return Answer(words or "No value", "info", values=values, uncertainty=uncertainty)
    if task == "detection":
        boxes = [_box(found) for found in prediction.findings]
        best = f", likeliest {boxes[0].label} {boxes[0].score:.2f}" if boxes else ""
        words = f"{len(boxes)} finding{'' if len(boxes) == 1 else 's'}{best}" if boxes else "Nothing found"
        return Answer(words, "info" if boxes else "ok", boxes=boxes, uncertainty=uncertainty)
    limits = manifests.thresholds(manifest)
    if task == "classification":
        chosen = decided(prediction.scores, manifest) if prediction.scores else {}
        several = manifest.get("output", {}).get("activation") == "sigmoid"
        judgements = [
            Judgement(name, score, chosen[name], limits[name] if several else None)
            for name, score in sorted(prediction.scores.items(), key=lambda item: -item[1])
        ]
        there = [f"{one.name} {one.score:.2f}" for one in judgements if one.decided]
        words = ", ".join(there) or "No label above its threshold"
        return Answer(words, "info", judgements=judgements, uncertainty=uncertainty)
    structures = []
    for name in dict.fromkeys([*prediction.measurements, *prediction.scores]):
        volume = prediction.measurements.get(name, {}).get("volume_ml")
        structures.append(Structure(name, volume, prediction.scores.get(name), limits.get(name, 0.5), bool(volume)))
    seen = [one.name for one in structures if one.found]
    plain = "Segmented" if prediction.segmentation_id and not structures else "Nothing found"
    words = ", ".join(seen) or plain
    return Answer(words, "ok", structures=structures, uncertainty=uncertainty)


def _box(found: dict[str, Any]) -> Box:
    first, last = found["slices"]
    return Box(found["label"], found["score"], first + 1, last + 1, found["size_mm"], found["centre"])


def _unit(unit: str) -> str:
    return "" if unit == "1" else unit
