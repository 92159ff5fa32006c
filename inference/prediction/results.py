"""An output as DICOM objects in the archive and as a prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.db import transaction
from pydicom.dataset import Dataset

from inference.errors import PredictionError
from inference.jobs.models import Job
from inference.prediction.models import Prediction, PredictionMap
from inference.prediction.output import Map, Output
from inference.registry.models import ModelVersion
from portal.accounts.models import User
from studies.dicom import segmentation
from studies.dicom.volume import Volume
from studies.ingest.store import store_dataset
from studies.models import ImportBatch, Origin, Series, Study
from studies.volumes import source_datasets

SEGMENTATION_NUMBER = 1000  # SeriesNumber of what version 0 of a model would make

DELETED = ("The study was deleted while the model ran on it.", "Nothing was stored. Import it again to run it.")


@dataclass(frozen=True)
class Objects:
    """An output as DICOM, not stored yet."""

    segmentation: Dataset | None = None
    report: Dataset | None = None
    maps: Sequence[tuple[Map, Dataset]] = ()


def write(version: ModelVersion, image: Series, output: Output, labels: list[dict[str, Any]]) -> Objects:
    """The objects of an output, all on the grid of `image`. Raises `ImageError`."""
    algorithm = segmentation.Algorithm(version.model.name, str(version.number))
    sources = source_datasets(image)
    made = None
    if output.label_map is not None:
        made = segmentation.write(
            sources,
            output.label_map,
            labels,
            algorithm=algorithm,
            series_description=str(version),
            series_number=SEGMENTATION_NUMBER + version.number,
        )
    return Objects(segmentation=made)


def store(
    version: ModelVersion,
    image: Series,
    output: Output,
    objects: Objects,
    volume: Volume,
    *,
    seconds: float,
    job: Job | None,
    batch: ImportBatch,
    by: User | None,
    inputs: Sequence[dict[str, Any]] = (),
) -> Prediction:
    """The prediction with its objects, all or nothing. volume: the image, for the places of findings.

    Raises `PredictionError` where the study is gone or the archive refuses an object, and `IntegrityError` where this
    version has a prediction of the image already.
    """
    with transaction.atomic():
        # Whoever deletes the study now has to wait. One that is gone already must not be made anew by a result.
        if not Study.objects.select_for_update(no_key=True).filter(pk=image.study_id).exists():
            raise PredictionError(*DELETED)
        made = {
            name: _keep(dataset, what, version, batch=batch, by=by) if dataset is not None else None
            for name, what, dataset in (
                ("segmentation", "segmentation", objects.segmentation),
                ("report", "report", objects.report),
            )
        }
        prediction = Prediction.objects.create(
            version=version,
            study_id=image.study_id,
            image=image,
            job=job,
            scores=output.scores,
            measurements={name: {"volume_ml": round(amount, 4)} for name, amount in output.volumes_ml.items()},
            values={name: dict(value) for name, value in output.values.items()},
            findings=[finding.as_dict(volume) for finding in output.findings],
            uncertainty=dict(output.uncertainty),
            inputs=list(inputs),
            seconds=round(seconds, 3),
            **made,
        )
        for found, dataset in objects.maps:
            store_map(prediction, found, dataset, batch=batch, by=by)
    return prediction


def store_map(
    prediction: Prediction, found: Map, dataset: Dataset, *, batch: ImportBatch, by: User | None
) -> PredictionMap:
    """One more map of a prediction, as a series of its study. Raises `PredictionError`."""
    with transaction.atomic():
        series = _keep(dataset, "map", prediction.version, batch=batch, by=by)
        return PredictionMap.objects.create(prediction=prediction, series=series, kind=found.kind, label=found.label)


def _keep(dataset: Dataset, what: str, version: ModelVersion, *, batch: ImportBatch, by: User | None) -> Series:
    stored = store_dataset(dataset, batch=batch, origin=Origin.MODEL, created_by=by, provenance=str(version))
    if stored.instance is None:
        raise PredictionError(
            f"The archive refused the {what}: {stored.reason}", "Correct the study's headers and import it again."
        )
    return stored.instance.series
