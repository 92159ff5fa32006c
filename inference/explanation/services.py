"""Maps of what moved a classifier's answer, made by a job and kept beside the prediction that they explain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from inference.errors import ExplanationError
from inference.explanation.settings import Wanted, wanted
from inference.jobs.models import Job
from inference.jobs.services import submit
from inference.prediction import inputs, results
from inference.prediction import services as prediction_services
from inference.prediction.models import Prediction, PredictionMap
from inference.prediction.output import Map
from portal.accounts.models import User
from studies.dicom import parametric_map, segmentation
from studies.ingest.store import open_batch
from studies.models import ImportBatch, Series, Study
from studies.volumes import source_datasets

MAP_NUMBER = 2000  # SeriesNumber of maps, beside 1000 of segmentations
MOST_VOXELS = 400_000_000  # of all maps of a job together
QUANTITIES = {
    "grad_cam": parametric_map.GRADIENT_WEIGHTED_CLASS_ACTIVATION,
    "occlusion": parametric_map.SALIENCY,
}
# What such maps cannot show, wherever they are offered.
CAUTION = (
    "A map shows which parts of the image moved this answer, not why, and not that the answer is right; "
    "a wrong answer can have a convincing map."
)


def start(
    prediction: Prediction,
    *,
    method: str,
    labels: Sequence[str] = (),
    patch: int | None = None,
    stride: int | None = None,
    baseline: str | float = "mean",
    by: User | None,
) -> Job:
    """Queue the maps of a prediction: for the labels that are named, or for the likeliest one.

    patch, stride, baseline: see `settings.wanted`. Raises `ExplanationError`.
    """
    from inference.explanation.tasks import explain  # the task module imports this one

    asked = _wanted(prediction, method=method, labels=labels, patch=patch, stride=stride, baseline=baseline)
    return submit(
        explain,
        project=prediction.version.model.project,
        title=f"Explain {prediction.version} on study {prediction.study_id}",
        parameters={
            "prediction": prediction.pk,
            "method": asked.method,
            "labels": list(asked.labels),
            "patch": patch,
            "stride": stride,
            "baseline": baseline,
        },
        by=by,
    )


def explain(
    prediction: Prediction,
    parameters: dict[str, Any],
    *,
    by: User | None,
    tick: Callable[[float], None],
    transact: Callable[[], AbstractContextManager[Any]],
) -> list[PredictionMap]:
    """Make and store the maps, all or none. Raises `InferenceError` and `ImageError`."""
    from inference.explanation import explainer  # torch takes seconds to load; pages do without

    asked = _wanted(prediction, **{name: parameters[name] for name in _SETTINGS})
    version = prediction.version
    model = prediction_services.warm_model(version)
    loaded = inputs.load(version.manifest, _series(prediction))
    volume = loaded.volume
    if volume.array.size * len(asked.labels) > MOST_VOXELS:
        raise ExplanationError(
            f"{len(asked.labels)} maps of {volume.array.size:,} voxels are more than is kept at once.",
            "Choose fewer labels.",
        )
    sources = source_datasets(prediction.image)
    made = [
        (found, _dataset(prediction, found, asked, sources))
        for found in explainer.explain(model, volume, asked, others=loaded.others, tick=tick)
    ]
    with transact():
        if not Study.objects.select_for_update(no_key=True).filter(pk=prediction.study_id).exists():
            raise ExplanationError(*results.DELETED)
        if not Prediction.objects.filter(pk=prediction.pk).exists():
            raise ExplanationError("The result was deleted meanwhile.", "Run the model again.")
        batch = open_batch(version.model.project, ImportBatch.Source.MODEL, by)
        return [results.store_map(prediction, found, dataset, batch=batch, by=by) for found, dataset in made]


_SETTINGS = ("method", "labels", "patch", "stride", "baseline")


def _series(prediction: Prediction) -> list[Series]:
    """What the model saw, in the order of its inputs. Raises `ExplanationError`."""
    chosen = [entry["series"] for entry in prediction.inputs] or [prediction.image_id]
    found = Series.objects.in_bulk(chosen)
    if len(found) < len(chosen):
        raise ExplanationError("A series that the model saw is not there any more.", "Run the model again.")
    return [found[number] for number in chosen]


def _wanted(prediction: Prediction, *, labels: Sequence[str], **settings: Any) -> Wanted:
    manifest = prediction.version.manifest
    named = list(labels)
    if not named and prediction.scores:
        named = [max(prediction.scores, key=lambda name: prediction.scores[name])]
    elif not named:
        named = [label["name"] for label in manifest["labels"]][:1]
    return wanted(manifest, labels=named, **settings)


def _dataset(prediction: Prediction, found: Map, asked: Wanted, sources: list[Dataset]) -> Dataset:
    version = prediction.version
    values = found.volume.array
    largest = max(float(np.abs(values).max()), 1e-6)
    title = PredictionMap.Kind(found.kind).label
    return parametric_map.write(
        sources,
        found.volume,
        quantity=QUANTITIES[found.kind],
        unit=Code(found.unit, "UCUM", results.UNIT_NAMES.get(found.unit, found.unit)),
        label=f"{title} of {found.label}",
        algorithm=segmentation.Algorithm(version.model.name, str(version.number)),
        limits=(0.0 if found.kind == "grad_cam" else -largest, largest),
        derivation=asked.words(),
        series_number=MAP_NUMBER + version.number,
    )
