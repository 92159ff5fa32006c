"""Runs where memory or disk run out: limits that the kernel itself keeps, and a full file system."""

from __future__ import annotations

import contextlib
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from inference.errors import TrainingError
from inference.prediction import engine, services
from inference.prediction.models import Prediction
from inference.training.fit import CHECKPOINT, fit
from studies.models import Origin, Series
from tests.factories import ProjectFactory
from tests.inference.models_factory import ball_cohort, ball_map, ball_series, threshold_version
from tests.inference.training.test_fit import NAMES, Watch, data, settings

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("media")]
Squeeze = Callable[[Path], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def limited(what: int, soft: int) -> Iterator[None]:
    before = resource.getrlimit(what)
    resource.setrlimit(what, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(what, before)


@pytest.fixture(autouse=True)
def cold(monkeypatch):
    monkeypatch.setattr(engine, "warm", engine.WarmModels())


def test_an_image_that_would_take_more_memory_than_there_is_is_refused_before(run_job):
    """The window is what a wrong bundle asks for: 2048 voxels each way, 69 GB for one array of probabilities alone."""
    project = ProjectFactory()
    version = threshold_version(project, inference={"window": [2048, 2048, 2048], "overlap": 0.5, "mirror": []})
    job = run_job(services.start(version, studies=[ball_series(project, 1, ball_map(1)).study], by=None))
    [case] = job.result["cases"]
    assert case["state"] == "failed"
    told = case["cause"].split("about ")[1].split(" GB")[0]
    assert float(told) > 2 * 3 * 8 * 4  # two arrays of three classes of 8 G voxels, float32
    assert "this machine has" in case["cause"]
    assert "inference.window" in case["next_step"]


def test_an_image_on_which_memory_runs_out_does_not_stop_the_others(run_job):
    """The limit of the address space lets the small window through and the large one not."""
    project = ProjectFactory()
    cohort, _ = ball_cohort(project, 1, freeze=False)
    small = threshold_version(project, name="small")
    large = threshold_version(
        project, name="large", inference={"window": [16, 1024, 1024], "overlap": 0.5, "mirror": []}
    )
    run_job(services.start(small, studies=[ball_series(project, 9, ball_map(9)).study], by=None))  # torch is there now
    services.warm_model(large)
    with limited(resource.RLIMIT_AS, psutil.Process().memory_info().vms + (160 << 20)):
        job = run_job(services.start(large, cohort=cohort, by=None))
        again = run_job(services.start(small, cohort=cohort, by=None))
    [case] = job.result["cases"]
    assert (job.state, case["state"], case["cause"]) == (
        "succeeded",
        "failed",
        "The machine ran out of memory on this image.",
    )
    assert "smaller patch" in case["next_step"]
    assert again.result["stored"] == 1


@contextlib.contextmanager
def full_file_system(folder: Path) -> Iterator[None]:
    """Nothing can be added to the folder: a small file system of its own, which is full."""
    kept = [(path.relative_to(folder), path.read_bytes()) for path in folder.rglob("*") if path.is_file()]
    size = sum(len(content) // 4096 + 2 for _, content in kept) * 4096 + (64 << 10)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no small file system can be mounted here: that takes root")
    try:
        for path, content in kept:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        with contextlib.suppress(OSError), (folder / "filling").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def small_files(folder: Path) -> Iterator[None]:
    """This process may write no file of more than 2 KB, as under a quota; that works for every user."""
    with limited(resource.RLIMIT_FSIZE, 2048):
        yield


@pytest.fixture(params=[full_file_system, small_files], ids=["full file system", "largest file"])
def no_space(request) -> Squeeze:
    return request.param


def test_a_result_that_cannot_be_written_fails_the_job_by_name_and_leaves_nothing(run_job, media, no_space):
    project = ProjectFactory()
    cohort, _ = ball_cohort(project, 1, freeze=False)
    version = threshold_version(project)
    services.warm_model(version)
    with no_space(media):
        job = run_job(services.start(version, cohort=cohort, by=None))
    assert (job.state, job.cause) == ("failed", "The disk is full.")
    assert "Free space" in job.next_step
    assert not Prediction.objects.exists()
    assert not Series.objects.filter(origin=Origin.MODEL).exists()
    again = run_job(services.start(version, cohort=cohort, by=None))
    assert again.result["stored"] == 1


def test_a_checkpoint_that_cannot_be_written_fails_the_training_by_name_and_keeps_the_one_before(tmp_path, no_space):
    config = settings(epochs=4)
    with pytest.raises(InterruptedError):
        fit(config, NAMES, data(config), tmp_path, Watch(stop_at=9))  # within the second epoch
    before = (tmp_path / CHECKPOINT).read_bytes()
    with no_space(tmp_path), pytest.raises(TrainingError, match=r"checkpoint of epoch 2 could not be written") as error:
        fit(config, NAMES, data(config), tmp_path, Watch())
    assert "Free space" in error.value.next_step
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    assert fit(config, NAMES, data(config), tmp_path, Watch()).epochs == 4
