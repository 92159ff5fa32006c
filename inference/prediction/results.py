"""An output as DICOM objects in the archive and as a prediction."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import transaction
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from inference.errors import PredictionError
from inference.jobs.models import Job
from inference.prediction.models import Prediction, PredictionMap
from inference.prediction.output import Map, Output
from inference.registry import manifest as manifests
from inference.registry.manifest import Manifest
from inference.registry.models import ModelVersion
from portal.accounts.audit import trail
from portal.accounts.models import User
from studies import removal
from studies.dicom import parametric_map, segmentation, structured_report
from studies.dicom.volume import Volume
from studies.ingest.outcome import NO_SPACE
from studies.ingest.store import store_dataset
from studies.models import ImportBatch, Origin, Series, Study
from studies.volumes import source_datasets

# SeriesNumbers of what version 0 of a model would make
SEGMENTATION_NUMBER, REPORT_NUMBER, MAP_NUMBER = 1000, 3000, 5000
UNIT_NAMES = {"1": "no units", "bit": "bit"}

DELETED = ("The study was deleted while the model ran on it.", "Nothing was stored. Import it again to run it.")


@dataclass(frozen=True)
class Objects:
    """An output as DICOM, not stored yet."""

    segmentation: Dataset | None = None
    report: Dataset | None = None
    maps: Sequence[tuple[Map, Dataset]] = ()


def write(
    version: ModelVersion,
    image: Series,
    output: Output,
    manifest: Manifest,
    *,
    headers: list[Dataset] | None = None,
) -> Objects:
    """The objects of an output, all on the grid of `image`: what was segmented as SEG, what was found, judged or
    measured as SR, what is known of every voxel as parametric maps.

    headers: of the image, where they were read already. Raises `ImageError`.
    """
    algorithm = segmentation.Algorithm(version.model.name, str(version.number))
    sources = source_datasets(image) if headers is None else headers
    labels = manifest["labels"]
    areas = output.masks if output.masks is not None else output.label_map
    made = None
    if areas is not None:
        made = segmentation.write(
            sources,
            areas,
            labels,
            algorithm=algorithm,
            series_description=str(version),
            series_number=SEGMENTATION_NUMBER + version.number,
        )
    return Objects(
        segmentation=made,
        report=_report(version, output, manifest, sources, algorithm),
        maps=[(found, _map(version, found, output, sources, algorithm, n)) for n, found in enumerate(output.maps)],
    )


def _report(
    version: ModelVersion,
    output: Output,
    manifest: Manifest,
    sources: list[Dataset],
    algorithm: segmentation.Algorithm,
) -> Dataset | None:
    """What a classifier, a regression or a detector says; a segmentation says it all by itself."""
    task = manifest["task"]
    if task == "segmentation":
        return None
    present: dict[str, bool] = {}
    if task == "classification":
        present = decided(output.scores, manifest)
    elif task == "detection":
        limits = manifests.thresholds(manifest)
        present = {name: output.scores.get(name, 0.0) >= limit for name, limit in limits.items()}
    return structured_report.write(
        sources,
        findings=[structured_report.Finding(one.label, one.score, one.corners) for one in output.findings],
        scores=output.scores if task == "classification" else {},
        present=present,
        values=[
            structured_report.Value(name, value["value"], value.get("unit", "1"))
            for name, value in output.values.items()
        ],
        labels=manifest["labels"],
        algorithm=algorithm,
        series_description=f"{version} report",
        series_number=REPORT_NUMBER + version.number,
    )


def decided(scores: Mapping[str, float], manifest: Manifest) -> dict[str, bool]:
    """What a classifier decides: the likeliest of classes that exclude each other, every label above its threshold."""
    if manifest.get("output", {}).get("activation") == "sigmoid":
        thresholds = manifests.thresholds(manifest)
        return {name: score >= thresholds[name] for name, score in scores.items()}
    likeliest = max(scores, key=lambda name: scores[name])
    return {name: name == likeliest for name in scores}


def _map(
    version: ModelVersion,
    found: Map,
    output: Output,
    sources: list[Dataset],
    algorithm: segmentation.Algorithm,
    place: int,
) -> Dataset:
    measured = found.quantity.replace("_", " ")
    name = f"{measured.capitalize()} of {found.label}" if found.label else measured.capitalize()
    probability = found.kind == PredictionMap.Kind.PROBABILITY
    limits = (0.0, 1.0) if probability else (0.0, max(1e-6, float(found.volume.array.max())))
    how = output.uncertainty.get("method", "")
    return parametric_map.write(
        sources,
        found.volume,
        quantity=parametric_map.PROBABILITY if probability else parametric_map.UNCERTAINTY,
        unit=Code(found.unit, "UCUM", UNIT_NAMES.get(found.unit, found.unit)),
        label=name,
        algorithm=algorithm,
        limits=limits,
        derivation=f"{measured}: {how}" if how and not probability else measured,
        series_description=f"{version} {name}",
        series_number=MAP_NUMBER + 20 * version.number + place,
    )


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
    if stored.code == NO_SPACE:  # no fault of this study: the next one would fail as well
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if stored.instance is None:
        raise PredictionError(
            f"The archive refused the {what}: {stored.reason}", "Correct the study's headers and import it again."
        )
    return stored.instance.series


def series_of(prediction: Prediction) -> list[Series]:
    """The series that hold a result: segmentation, report, maps."""
    found = [prediction.segmentation, prediction.report]
    found += [one.series for one in prediction.maps.select_related("series")]
    return [series for series in found if series is not None]


def withdraw(prediction: Prediction, *, by: User | None) -> None:
    """Delete a result that no longer holds, with its objects, all or nothing.

    Raises `RemovalError` where something rests on one of them.
    """
    with transaction.atomic():
        series = series_of(prediction)
        trail.record(
            "prediction.delete",
            prediction,
            project=prediction.study.project_id,
            patient=prediction.study.patient_id,
            user=by,
        )
        prediction.delete()
        for one in series:
            removal.delete_result(one)
