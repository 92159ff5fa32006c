"""Images and bundles that cannot be run: each has a cause and a next step, and what comes after it goes on."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch import nn

from inference.prediction import engine, services
from inference.prediction.models import Prediction
from inference.registry import services as registry
from inference.registry.models import ModelVersion
from studies.cohorts import services as cohorts
from tests.factories import ProjectFactory, ct_slice, make_ct_series, store_datasets
from tests.inference.models_factory import SHAPE, ball_map, ball_series, mr_series, program_version, threshold_version

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("media")]


@pytest.fixture(autouse=True)
def cold(monkeypatch):
    monkeypatch.setattr(engine, "warm", engine.WarmModels())


def coloured(project):
    dataset = ct_slice(0, PatientID="C1", PhotometricInterpretation="RGB", SamplesPerPixel=3, PlanarConfiguration=0,
                       BitsAllocated=8, BitsStored=8, HighBit=7, PixelRepresentation=0)  # fmt: skip
    dataset.PixelData = bytes(32 * 40 * 3)
    return store_datasets(project, [dataset])


def test_every_bad_case_says_why_and_the_next_one_is_run(run_job):
    project = ProjectFactory()
    entry = {"name": "image", "modality": ["CT"], "smallest": [6, 8, 10], "anisotropy": 6.0}
    version = threshold_version(project, inputs=[entry])
    good = [ball_series(project, seed, ball_map(seed)) for seed in (1, 2)]
    bad = {
        "The image is MR, the model works on CT.": mr_series(project, np.ones(SHAPE), "T2", shared={"PatientID": "M1"}),
        "in colour": coloured(project),
        "too few slices": make_ct_series(project, 3, PatientID="S1"),
        "times as long as wide": ball_series(project, 3, ball_map(3), PixelSpacing=[0.2, 0.2]),
    }
    cohort = cohorts.create(project=project, name="Mixed", by=None)
    cohorts.add_studies(cohort, [series.study for series in (good[0], *bad.values(), good[1])])
    job = run_job(services.start(version, cohort=cohort, by=None))
    assert job.state == "succeeded", job.cause
    outcomes = job.result["cases"]
    assert [case["state"] for case in outcomes] == ["stored", *["failed"] * len(bad), "stored"]
    for words, outcome in zip(bad, outcomes[1:-1], strict=True):
        assert words in outcome["cause"]
        assert outcome["next_step"]


class Picky(nn.Module):
    """Fails on bright images only, as a network does that cannot take an image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if float(x.mean()) > 1000.0:
            x = x.reshape(1, 7, 7)
        return torch.cat([x, x, x], dim=1)


def test_a_network_that_fails_on_one_image_is_asked_about_the_next(run_job):
    project = ProjectFactory()
    bright = ball_series(project, 1, ball_map(1), RescaleIntercept=2000)
    usual = ball_series(project, 2, ball_map(2))
    version = program_version(project, Picky())
    job = run_job(services.start(version, studies=[bright.study, usual.study], by=None))
    assert job.state == "succeeded", job.cause
    first, second = job.result["cases"]
    assert "cannot work on this image" in first["cause"]
    assert first["next_step"]
    assert second["state"] == "stored"


def corrupt(version: ModelVersion) -> None:
    """Half of the weights are lost; the digest tells."""
    file = registry.folder_of(version.bundle) / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:100])


def pickled(version: ModelVersion) -> None:
    (registry.folder_of(version.bundle) / "extra.pkl").write_bytes(pickle.dumps({"a": 1}))


def other_architecture(version: ModelVersion) -> None:
    """Whoever put other weights there corrected the digest, too."""
    from safetensors.torch import save_file

    from inference.registry import bundle

    folder = registry.folder_of(version.bundle)
    save_file({"conv.weight": torch.zeros(3, 1, 3, 3, 3)}, folder / "weights.safetensors")
    ModelVersion.objects.filter(pk=version.pk).update(digest=bundle.digest_of(folder))


def unreadable(version: ModelVersion) -> None:
    from inference.registry import bundle

    folder = registry.folder_of(version.bundle)
    (folder / "weights.safetensors").write_bytes(b"no tensors at all")
    ModelVersion.objects.filter(pk=version.pk).update(digest=bundle.digest_of(folder))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (corrupt, "digest differs"),
        (pickled, "may be a pickle"),
        (other_architecture, "do not fit the network 'unet'"),
        (unreadable, "cannot be read as safetensors"),
    ],
)
def test_a_spoilt_bundle_fails_its_job_in_words_and_the_next_job_runs(run_job, spoil, words):
    project = ProjectFactory()
    image = ball_series(project, 1, ball_map(1))
    version, healthy = threshold_version(project, name="spoilt"), threshold_version(project, name="healthy")
    spoil(version)
    version.refresh_from_db()
    failed = run_job(services.start(version, studies=[image.study], by=None))
    assert (failed.state, failed.error_class) == ("failed", "BundleError")
    assert words in failed.cause
    assert failed.next_step
    following = run_job(services.start(healthy, studies=[image.study], by=None))
    assert following.state == "succeeded"
    assert Prediction.objects.get().version == healthy
