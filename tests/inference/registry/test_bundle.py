"""Bundles on disk: complete or absent, checked on opening, never a pickle."""

from __future__ import annotations

import json
import pickle

import pytest
import torch

from inference.errors import BundleError
from inference.networks import table
from inference.registry import bundle

PARAMETERS = {"channels": [4, 8], "strides": [2], "residual_units": 1}


def manifest(**changes) -> dict:
    return {
        "format": bundle.FORMAT,
        "task": "segmentation",
        "inputs": [{"name": "image", "modality": ["MR"]}],
        "preprocessing": [{"name": "normalise"}],
        "network": {"name": "unet", "dimensions": 3, "parameters": PARAMETERS},
        "labels": [{"number": 1, "name": "Ball"}],
        "output": {"activation": "softmax", "threshold": 0.5},
        "inference": {"window": [8, 8, 8], "overlap": 0.5, "mirror": []},
        **changes,
    }


def network(parameters=PARAMETERS):
    torch.manual_seed(0)
    return table.build("unet", dimensions=3, in_channels=1, out_channels=2, parameters=parameters)


def test_what_is_written_comes_back_and_computes_the_same(tmp_path):
    original = network().eval()
    written = bundle.write(tmp_path / "m" / "1", manifest(), original.state_dict())
    assert sorted(p.name for p in (tmp_path / "m" / "1").iterdir()) == ["manifest.json", "weights.safetensors"]
    opened = bundle.read(tmp_path / "m" / "1", digest=written.digest)
    image = torch.randn(1, 1, 8, 8, 8)
    with torch.no_grad():
        assert torch.equal(opened.network()(image), original(image))
    assert opened.manifest["preprocessing"] == [
        {"name": "normalise", "method": "zscore", "region": "all", "zeros": "change"}
    ]


def test_a_version_is_never_overwritten(tmp_path):
    bundle.write(tmp_path / "1", manifest(), network().state_dict())
    with pytest.raises(BundleError, match="exists already"):
        bundle.write(tmp_path / "1", manifest(), network().state_dict())


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(BundleError):
        bundle.write(tmp_path / "1", manifest(task="telepathy"), network().state_dict())
    with pytest.raises(AttributeError):
        bundle.write(tmp_path / "1", manifest(), {"a": "not a tensor"})  # type: ignore[dict-item]
    assert list(tmp_path.iterdir()) == []


def test_a_changed_file_is_noticed(tmp_path):
    written = bundle.write(tmp_path / "1", manifest(), network().state_dict())
    path = tmp_path / "1" / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match="digest differs"):
        bundle.read(tmp_path / "1", digest=written.digest)


@pytest.mark.parametrize("name", ["weights.pt", "model.pkl", "last.ckpt", "extra.npy"])
def test_pickles_are_refused_with_the_way_out(tmp_path, name):
    bundle.write(tmp_path / "1", manifest(), network().state_dict())
    (tmp_path / "1" / name).write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(BundleError, match="can run any code") as caught:
        bundle.read(tmp_path / "1")
    assert "safetensors" in caught.value.next_step


def test_a_pickle_that_is_called_safetensors_is_not_opened(tmp_path):
    written = bundle.write(tmp_path / "1", manifest(), network().state_dict())
    marker = tmp_path / "ran"

    class Trap:
        def __reduce__(self):
            return (marker.touch, ())

    (tmp_path / "1" / "weights.safetensors").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(BundleError, match="safetensors"):
        bundle.read(tmp_path / "1").network()
    assert not marker.exists()
    assert written.labels[0]["name"] == "Ball"


def test_weights_of_another_architecture_are_named(tmp_path):
    other = network({"channels": [4, 16], "strides": [2], "residual_units": 1})
    bundle.write(tmp_path / "1", manifest(), other.state_dict())
    with pytest.raises(BundleError, match="do not fit the network 'unet'"):
        bundle.read(tmp_path / "1").network()


@pytest.mark.parametrize("name", ["manifest.json", "weights.safetensors"])
def test_a_missing_file_is_named(tmp_path, name):
    bundle.write(tmp_path / "1", manifest(), network().state_dict())
    (tmp_path / "1" / name).unlink()
    with pytest.raises(BundleError, match=f"no {name}"):
        bundle.read(tmp_path / "1")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "other"}, "format"),
        ({"labels": []}, "lacks 'labels'"),
        ({"labels": [{"number": 2, "name": "Ball"}]}, "numbers 1, 2"),
        ({"inference": {"window": "large"}}, "inference.window"),
        ({"network": {"name": "telepathy"}}, "no network 'telepathy'"),
        ({"preprocessing": [{"name": "blur"}]}, "no step 'blur'"),
    ],
)
def test_wrong_manifests(tmp_path, changes, words):
    with pytest.raises(BundleError, match=words):
        bundle.check_manifest(manifest(**changes))
    bundle.write(tmp_path / "1", manifest(), network().state_dict())
    (tmp_path / "1" / "manifest.json").write_text(json.dumps(manifest(**changes)))
    with pytest.raises(BundleError, match=words):
        bundle.read(tmp_path / "1")
