"""The memory of a run that was never made, told in the training form."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from inference.jobs.models import Job
from inference.networks import memory, table
from inference.training import config as schema
from inference.training import estimates
from inference.training.module import Clock, SegmentationModule
from inference.training.tasks import measure_network
from portal.accounts.models import Role
from portal.runtime import liveness
from portal.workbench.training_form import initial_of
from tests.factories import ProjectFactory, member
from tests.inference.class_factory import CONFIG as SHAPES
from tests.inference.class_factory import shape_cohort
from tests.inference.models_factory import LABELS, ball_cohort
from tests.jobs import execute

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("media")]

BALLS = """
name = "balls"
[network]
name = "unet"
channels = [4, 8]
strides = [2]
[training]
patch = [8, 16, 24]
batch_size = 2
"""
CARD = {"name": "NVIDIA RTX A5000", "memory_used": 1 << 30, "memory_total": 24 << 30, "busy": 37}


def checked(client, config: schema.Config, **more) -> str:
    data = {name: value for name, value in initial_of(config).items() if value is not None} | more
    page = html.unescape(client.post("/training/check/", data).content.decode())
    return re.sub(r"\s+", " ", page.replace("\xa0", " "))


@contextmanager
def worker(name: str, free: int, total: int, *cards: dict) -> Iterator[None]:
    told = {"queues": ["train"], "concurrency": 1, "machine": name, "cores": 2, "memory": 1, "memory_free": free,
            "memory_total": total, "devices": list(cards)}  # fmt: skip
    liveness.give_sign(f"train@{name}", ["train"], told)
    try:
        yield
    finally:
        liveness.withdraw(f"train@{name}", ["train"])


def test_the_form_says_before_any_run_what_the_run_itself_would_find(browser, project):
    cohort, reference = ball_cohort(project, 6)
    client = browser(Role.ENGINEER)
    config = schema.parse(BALLS)
    page = client.get(f"/training/new/?cohort={cohort.pk}&reference={reference.pk}").content.decode()
    assert 'hx-trigger="load delay:50ms"' in page
    assert not Job.objects.exists(), "to look at the form starts nothing"
    first = checked(client, config, cohort=cohort.pk)
    assert "being estimated" in first
    assert 'hx-trigger="load delay:1500ms"' in first
    job = Job.objects.get()
    assert (job.queue, job.title) == ("default", "Estimate the memory of Residual U-Net")
    assert "being estimated" in checked(client, config, cohort=cohort.pk)
    assert Job.objects.count() == 1
    execute(job, measure_network.body)
    found = estimates.of(project, config, reference, by=None)
    network = SegmentationModule(config, [label["name"] for label in LABELS], Clock(1, 0)).network
    assert found.needed == memory.training_bytes(network, batch=2, in_channels=1, patch=[8, 16, 24])
    told = checked(client, config, cohort=cohort.pk)
    assert "about" in told.split("<dt>Memory</dt>")[1]
    assert "no train worker is running" in told
    assert "hx-trigger" not in told

    # Other patches and batches need no other job, and a batch is no larger than the cases allow.
    larger = schema.parse(BALLS.replace("[8, 16, 24]", "[32, 64, 64]").replace("batch_size = 2", "batch_size = 64"))
    assert "activations of a batch of 3" in checked(client, larger, cohort=cohort.pk)
    expected = memory.training_bytes(network, batch=3, in_channels=1, patch=[32, 64, 64])
    again = estimates.of(project, larger, reference, by=None)
    assert again.needed == pytest.approx(expected, rel=0.001)
    assert Job.objects.count() == 1

    other = ProjectFactory()
    _, elsewhere = ball_cohort(other, 4, name="Elsewhere")
    assert estimates.of(other, config, elsewhere, by=None).pending, "what another project asked is not read"


def test_it_is_held_against_the_smallest_train_worker(browser, project):
    cohort, reference = ball_cohort(project, 6)
    client = browser(Role.ENGINEER)
    config = schema.parse(BALLS)
    user = member(project, Role.ENGINEER)
    estimates.of(project, config, reference, by=user)
    execute(Job.objects.get(), measure_network.body)
    needed = estimates.of(project, config, reference, by=None).needed
    assert needed is not None
    with worker("small-box", needed + 1, needed + 1):
        page = checked(client, config, cohort=cohort.pk)
        assert "small-box has" in page
        assert "fit" not in page.split("<dt>Memory</dt>")[1]
    with worker("small-box", needed // 2, needed + 1):
        assert "It does not fit beside what runs now" in checked(client, config, cohort=cohort.pk)
    with worker("small-box", needed // 2, needed - 1):
        assert "It will not fit into memory" in checked(client, config, cohort=cohort.pk)
    with worker("gpu-box", needed // 2, needed - 1, CARD):
        page = checked(client, config, cohort=cohort.pk)
        assert "NVIDIA RTX A5000 has 24.0 GB, 23.0 GB free now" in page
        assert "It will not fit" not in page
        with worker("idle-box", 1, 1, {**CARD, "name": "Tesla T4", "memory_used": 0, "memory_total": 16 << 30}):
            assert "Tesla T4, has 16.0 GB, 16.0 GB free now" in checked(client, config, cohort=cohort.pk)
        with worker("small-box", needed, needed):
            assert "the smallest of 2 train workers, small-box, has" in checked(client, config, cohort=cohort.pk)


def test_what_cannot_be_known_is_said_with_the_reason(browser, project):
    balls, _ = ball_cohort(project, 6)
    shapes, reference = shape_cohort(project, 8)
    client = browser(Role.ENGINEER)
    plans = schema.check({"name": "balls", "network": {"name": "nnunet"}})
    assert estimates.PLANS in checked(client, plans, cohort=balls.pk)
    packaged = {"name": table.PACKAGED, "dimensions": 2}
    settings = {**SHAPES["training"], "strategy": "frozen", "weights": "imagenet"}
    frozen = schema.check({**SHAPES, "network": packaged, "training": settings})
    assert estimates.FROZEN in checked(client, frozen, cohort=shapes.pk)
    assert not Job.objects.exists()
    settings = {**SHAPES["training"], "patch": [1, 64, 64]}
    wrong = schema.check({**SHAPES, "network": {"name": "vit", "dimensions": 2}, "training": settings})
    assert "being estimated" in checked(client, wrong, cohort=shapes.pk)
    execute(Job.objects.get(), measure_network.body)
    assert "The network does not take this patch" in checked(client, wrong, cohort=shapes.pk)
    assert Job.objects.count() == 1
    right = schema.check({**wrong, "training": {**wrong["training"], "patch": [1, 224, 224]}})
    assert estimates.of(project, right, reference, by=member(project, Role.ENGINEER)).pending
    assert Job.objects.count() == 2
