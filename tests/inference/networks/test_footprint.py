"""What a network takes in training, known without torch for any patch and batch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from inference.networks import memory, table
from inference.networks.footprint import Footprint, measure


def spec(name: str, dimensions: int) -> dict:
    return {"name": name, "dimensions": dimensions, "parameters": table.check(name, {})}


@pytest.mark.parametrize(
    ("name", "outputs", "published"),
    [("vgg16", 1000, 138_357_544), ("resnet50", 1000, 25_557_032), ("vit", 1000, 86_567_656)],
)
def test_weights_are_counted_as_published(name, outputs, published):
    """The numbers of the papers' networks for ImageNet, as model collections tell them; here pictures are grey, and
    the first convolution has a third of its weights for red, green and blue."""
    first = {"vgg16": 64 * 9, "resnet50": 64 * 49, "vit": 768 * 256}[name]
    assert measure(spec(name, 2), outputs=outputs, patch=[1, 224, 224]).weights == published - 2 * first


@pytest.mark.parametrize(
    ("name", "dimensions", "seen", "asked", "within"),
    [
        ("unet", 3, [64, 64, 64], [[32, 64, 64], [96, 96, 96], [128, 128, 96]], 0.001),
        ("segresnet", 3, [64, 64, 64], [[128, 128, 96]], 0.001),
        ("detector", 2, [1, 128, 128], [[1, 512, 384]], 0.001),
        ("resnet18", 2, [1, 224, 224], [[1, 128, 128], [1, 320, 320]], 0.001),
        ("densenet121", 2, [1, 224, 224], [[1, 320, 320]], 0.001),
        ("swin_unetr", 3, [64, 64, 64], [[96, 96, 96]], 0.15),  # its windows are filled up to their full size
    ],
)
def test_other_patches_and_batches_follow_from_two_sizes(name, dimensions, seen, asked, within):
    found = measure(spec(name, dimensions), outputs=3, patch=seen)
    found = Footprint.of_dict(json.loads(json.dumps(found.as_dict())))
    network = table.build(name, dimensions=dimensions, in_channels=1, out_channels=3, parameters={})
    for patch in asked:
        direct = memory.training_bytes(network, batch=3, in_channels=1, patch=patch[3 - dimensions :])
        assert found.covers(patch)
        assert found.training_bytes(batch=3, patch=patch) == pytest.approx(direct, rel=within)
    direct = memory.training_bytes(network, batch=5, in_channels=1, patch=seen[3 - dimensions :])
    assert found.training_bytes(batch=5, patch=seen) == direct


def test_a_network_of_fixed_size_says_nothing_about_others():
    found = measure(spec("vit", 2), outputs=2, patch=[1, 224, 224])
    assert found.covers([1, 224, 224])
    assert not found.covers([1, 448, 448])


def test_the_program_answers_with_what_the_network_says_of_a_wrong_patch():
    asked = {"network": spec("vit", 2), "outputs": 2, "patch": [1, 64, 64]}
    done = subprocess.run(
        [sys.executable, "-m", "inference.networks.footprint"],
        input=json.dumps(asked), capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    assert "197" in json.loads(done.stdout)["problem"]  # (224 / 16)² + 1 tokens are expected


def test_the_estimate_of_the_form_needs_no_torch():
    """Pages are served by processes that would hold its 200 MB each for ever."""
    code = "import sys, inference.networks.footprint, inference.networks.table; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
