"""A small classifier of discs and bars as a version, with its answer on one radiograph."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from inference.networks import table
from inference.prediction import engine
from inference.prediction import services as prediction
from inference.prediction.models import Prediction
from inference.registry import bundle, services
from inference.registry.models import ModelVersion
from portal.accounts.models import Project
from tests.factories import ProjectFactory, ct_slice, store_datasets
from tests.inference.class_factory import CLASSES, SIZE, picture

NETWORK = {"name": "cnn", "dimensions": 2, "parameters": {"channels": [4, 8], "hidden": 8, "dropout": 0.0}}


def manifest(**changes: Any) -> bundle.Manifest:
    return bundle.check_manifest(
        {
            "format": bundle.FORMAT,
            "task": "classification",
            "inputs": [{"name": "image", "modality": [], "smallest": [1, 2, 2]}],
            "preprocessing": [{"name": "normalise", "method": "zscore"}, {"name": "resize", "to": [1, SIZE, SIZE]}],
            "network": NETWORK,
            "labels": [{"number": n, "name": name} for n, name in enumerate(CLASSES, start=1)],
            "output": {"activation": "softmax", "threshold": 0.5},
            "inference": {"window": [1, SIZE, SIZE], "overlap": 0.5, "mirror": []},
            **changes,
        }
    )


def classifier(project: Project, *, name: str = "shapes", **changes: Any) -> ModelVersion:
    """A registered version with random weights."""
    model = services.create_model(project=project, name=name, task="classification", by=None)
    torch.manual_seed(0)
    network = table.build("cnn", dimensions=2, in_channels=1, out_channels=2, parameters=NETWORK["parameters"])
    return services.register_version(model, manifest(**changes), network.state_dict(), by=None)


def radiograph(project: Project, seed: int = 0, kind: str = "disc"):
    dataset = ct_slice(0, rows=SIZE, columns=SIZE, PatientID=f"R{seed}", PatientName=f"Shape^{seed}")
    dataset.Modality, dataset.RescaleIntercept, dataset.PixelRepresentation = "CR", 0, 0
    del dataset.ImagePositionPatient, dataset.ImageOrientationPatient
    dataset.PixelData = picture(kind, seed).astype("<u2").tobytes()
    return store_datasets(project, [dataset])


@pytest.fixture(autouse=True)
def cold(monkeypatch):
    """Every test loads its models itself."""
    monkeypatch.setattr(engine, "warm", engine.WarmModels())


@pytest.fixture
def answer(media, run_job) -> Prediction:
    """What a classifier said about a radiograph."""
    project = ProjectFactory()
    image = radiograph(project)
    job = run_job(prediction.start(classifier(project), studies=[image.study], by=None))
    assert job.result["stored"] == 1, job.result
    return Prediction.objects.get()
