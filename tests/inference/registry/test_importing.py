"""Models from elsewhere: what runs here computes what it computed there; what could run code is refused unopened."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from monai import transforms as monai
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from torch import nn

from inference.errors import BundleError
from inference.imaging import preprocessing
from inference.jobs.models import Job
from inference.registry import importing, services
from inference.registry.models import ModelVersion
from studies.dicom.volume import Volume
from tests.factories import ProjectFactory
from tests.inference.evaluation.test_detection_services import detector_version
from tests.inference.models_factory import ball_manifest

UNET = {
    "_target_": "UNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 2,
    "channels": [4, 8, 16],
    "strides": [2, 2],
    "num_res_units": 1,
    "norm": "batch",
}
TRANSFORMS = [
    {"_target_": "LoadImaged", "keys": "image"},
    {"_target_": "EnsureChannelFirstd", "keys": "image"},
    {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
    {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": -57, "a_max": 164, "b_min": 0, "b_max": 1,
     "clip": True},
    {"_target_": "EnsureTyped", "keys": "image"},
]  # fmt: skip


def monai_folder(folder: Path, **changes) -> nn.Module:
    """A bundle as MONAI's model zoo writes them; returns its network."""
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    metadata = {
        "name": "Spleen CT segmentation",
        "version": "0.5.3",
        "monai_version": "1.5.1",
        "task": "Spleen segmentation in CT",
        "intended_use": "An example",
        "network_data_format": {
            "inputs": {"image": {"modality": "CT", "num_channels": 1, "spatial_shape": [96, 96, 96]}},
            "outputs": {"pred": {"channel_def": {"0": "background", "1": "spleen"}}},
        },
    }
    inference = {
        "imports": ["$import glob"],
        "device": "$torch.device('cpu')",
        "spacing": [1.5, 1.5, 2.0],
        "network_def": UNET,
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": TRANSFORMS},
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [16, 24, 8], "overlap": 0.5},
        **changes,
    }
    torch.manual_seed(3)
    network = ConfigParser({"network": inference["network_def"]}).get_parsed_content("network")
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    (folder / "configs" / "inference.json").write_text(json.dumps(inference))
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    return network.eval()


def zipped(folder: Path) -> Path:
    archive = folder.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as out:
        for path in folder.rglob("*"):
            out.write(path, Path(folder.name) / path.relative_to(folder))
    return archive


class Double(nn.Module):
    """Three channels whose order tells a turned axis and a lost channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 3, 3, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.conv(images)


@pytest.fixture(autouse=True)
def media(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path / "media"


@pytest.mark.django_db
def test_a_monai_bundle_computes_what_it_computes_in_monai(tmp_path):
    network = monai_folder(tmp_path / "spleen")
    with importing.opened(zipped(tmp_path / "spleen")) as candidate:
        version = importing.register(candidate, project=ProjectFactory(), by=None)
    manifest = version.manifest
    assert (version.model.name, version.number) == ("spleen-ct-segmentation", 1)
    assert manifest["labels"] == [{"number": 1, "name": "Spleen"}]
    assert manifest["inference"]["window"] == [8, 24, 16]  # z, y, x
    assert manifest["inputs"][0]["modality"] == ["CT"]

    # The same image by MONAI's own transforms and inferer, and by ours.
    random = np.random.default_rng(1)
    array = random.normal(50, 120, (10, 30, 20)).astype(np.float32)  # z, y, x; LPS, 1 mm
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])  # the same place in RAS
    image = MetaTensor(torch.from_numpy(array.transpose(2, 1, 0).copy())[None], affine=affine)
    steps = [monai.Orientationd(keys="image", axcodes="RAS"),
             monai.ScaleIntensityRanged("image", a_min=-57, a_max=164, b_min=0, b_max=1, clip=True)]  # fmt: skip
    prepared = monai.Compose(steps)({"image": image})["image"]
    from monai.inferers import SlidingWindowInferer

    with torch.inference_mode():
        there = SlidingWindowInferer((16, 24, 8), overlap=0.5, mode="gaussian", padding_mode="replicate")(
            prepared[None].as_tensor(), lambda window: torch.softmax(network(window), dim=1)
        )[0]
    there = torch.flip(there, (1, 2)).numpy().transpose(0, 3, 2, 1)  # RAS x, y, z to LPS z, y, x

    from inference.prediction import engine

    volume = Volume(array, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3))
    loaded = engine.load(services.open_bundle(version))
    ours = preprocessing.prepare(volume, manifest["preprocessing"])
    np.testing.assert_allclose(ours.array, prepared[0].numpy().transpose(2, 1, 0), atol=1e-5)
    output = loaded.predict(volume)
    assert output.scores["Spleen"] == pytest.approx(float(there[1].max()), abs=1e-4)
    assert (output.label_map == there.argmax(0)).mean() > 0.9995


@pytest.mark.parametrize(
    ("transform", "theirs"),
    [
        ({"_target_": "ScaleIntensityd", "minv": -1.0, "maxv": 1.0}, monai.ScaleIntensity(-1.0, 1.0)),
        ({"_target_": "NormalizeIntensityd", "nonzero": True}, monai.NormalizeIntensity(nonzero=True)),
        ({"_target_": "NormalizeIntensityd"}, monai.NormalizeIntensity()),
        (
            {"_target_": "ScaleIntensityRangePercentilesd", "lower": 1, "upper": 99, "b_min": 0, "b_max": 2,
             "clip": True},
            monai.ScaleIntensityRangePercentiles(1, 99, 0, 2, clip=True),
        ),
        (
            {"_target_": "ScaleIntensityRanged", "a_min": -10, "a_max": 90, "b_min": -1, "b_max": 1},
            monai.ScaleIntensityRange(-10, 90, -1, 1),
        ),
    ],
)  # fmt: skip
@pytest.mark.django_db
def test_each_transform_has_the_values_that_monai_gives(tmp_path, transform, theirs):
    monai_folder(tmp_path / "b", preprocessing={"_target_": "Compose", "transforms": [{**transform, "keys": "image"}]})
    with importing.opened(tmp_path / "b") as candidate:
        steps = candidate.manifest["preprocessing"]
    array = np.random.default_rng(2).normal(30, 60, (5, 6, 7)).astype(np.float32)
    array[0] = 0
    ours = preprocessing.prepare(Volume(array, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3)), steps)
    np.testing.assert_allclose(ours.array, theirs(array[None])[0], rtol=1e-4, atol=1e-4)


def torchscript(path: Path, network: nn.Module) -> None:
    torch.jit.script(network).save(str(path))


def exported(path: Path, network: nn.Module) -> None:
    torch.export.save(torch.export.export(network, (torch.zeros(1, 1, 12, 16, 20),)), path)


def onnx(path: Path, network: nn.Module) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript writes ONNX files for this test")
    torch.onnx.export(network, (torch.zeros(1, 1, 12, 16, 20),), path, dynamo=True, external_data=False)


@pytest.mark.parametrize(("suffix", "write"), [(".ts", torchscript), (".pt2", exported), (".onnx", onnx)])
@pytest.mark.django_db
def test_a_program_computes_what_the_network_computes(tmp_path, suffix, write):
    torch.manual_seed(4)
    network = Double().eval()
    path = tmp_path / f"model{suffix}"
    write(path, network)
    manifest = {key: value for key, value in ball_manifest(name="double").items() if key not in ("network", "format")}
    manifest["network"] = {"dimensions": 3}
    with importing.opened(path, manifest=manifest) as candidate:
        version = importing.register(candidate, project=ProjectFactory(), by=None)
    images = torch.rand(1, 1, 12, 16, 20)
    with torch.inference_mode():
        torch.testing.assert_close(
            services.open_bundle(version).network()(images), network(images), rtol=1e-4, atol=1e-5
        )


@pytest.mark.django_db
def test_weights_need_a_network_that_fits_them(tmp_path):
    from monai.networks.nets import UNet

    network = UNet(3, 1, 3, channels=(4, 8), strides=(2,))
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in network.state_dict().items()}}, tmp_path / "w.pt"
    )
    spec = {"name": "monai.UNet", "dimensions": 3, "parameters": {
        "spatial_dims": 3, "in_channels": 1, "out_channels": 3, "channels": [4, 8], "strides": [2]}}  # fmt: skip
    with importing.opened(tmp_path / "w.pt", manifest=ball_manifest(name="w", network=spec)) as candidate:
        assert importing.register(candidate, project=ProjectFactory(), by=None).number == 1
    spec["parameters"]["channels"] = [4, 16]
    with pytest.raises(BundleError, match="tensors differ"):
        importing.opened(tmp_path / "w.pt", manifest=ball_manifest(name="w", network=spec)).__enter__()
    with pytest.raises(BundleError, match="names no network"):
        importing.opened(tmp_path / "w.pt", manifest={**ball_manifest(name="w"), "network": {}}).__enter__()
    assert ModelVersion.objects.count() == 1


class Trap:
    """A pickle that leaves a file behind when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("where", ["state dictionary", "MONAI bundle", "torch.export archive"])
def test_a_pickle_that_runs_code_is_refused_unopened(tmp_path, where):
    sprung = tmp_path / "sprung"
    manifest = ball_manifest(name="x")
    if where == "state dictionary":
        source = tmp_path / "weights.pt"
        torch.save({"a": Trap(sprung)}, source)
    elif where == "MONAI bundle":
        source, manifest = tmp_path / "b", None
        monai_folder(source)
        torch.save({"a": Trap(sprung)}, source / "models" / "model.pt")
    else:
        source, clean = tmp_path / "model.pt2", tmp_path / "clean.pt2"
        exported(clean, Double())
        with zipfile.ZipFile(clean) as old, zipfile.ZipFile(source, "w") as new:
            for entry in old.infolist():
                data = old.read(entry)
                new.writestr(
                    entry, pickle.dumps(Trap(sprung)) if entry.filename.endswith("sample_inputs/model.pt") else data
                )
    with pytest.raises(BundleError, match="pickle"):
        importing.opened(source, manifest=manifest).__enter__()
    assert not sprung.exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"preprocessing": {"transforms": [{"_target_": "RandFlipd"}]}}, "RandFlipd, has no counterpart"),
        ({"inferer": {"roi_size": "$[96] * 3"}}, "expressions of a bundle are never run"),
        ({"inferer": {"roi_size": "@nowhere"}}, "refers to 'nowhere'"),
        ({"inferer": {"roi_size": [16, 0, 8]}}, "two or three whole numbers"),
    ],
)
def test_what_a_monai_bundle_does_not_write_out_is_named(tmp_path, changes, words):
    monai_folder(tmp_path / "b", **changes)
    with pytest.raises(BundleError, match=words.replace("(", r"\(")):
        importing.opened(tmp_path / "b").__enter__()


def test_a_network_that_answers_otherwise_than_the_manifest_says_is_refused(tmp_path):
    torchscript(tmp_path / "m.ts", Double())
    labels = [{"number": 1, "name": "Ball"}]
    with pytest.raises(BundleError, match="1×3×12×16×20; the manifest says 1×2×12×16×20"):
        importing.opened(tmp_path / "m.ts", manifest=ball_manifest(name="m", labels=labels)).__enter__()


@pytest.mark.django_db
@pytest.mark.usefixtures("media")
def test_a_detector_goes_to_another_portal_as_the_bundle_that_it_is(tmp_path):
    version = detector_version(ProjectFactory())
    kept = services.open_bundle(version)
    with importing.opened(kept.folder, name="balls") as candidate:
        there = importing.register(candidate, project=ProjectFactory(), by=None)
    assert there.manifest["labels"] == version.manifest["labels"]
    images = torch.rand(1, 1, 16, 16, 32)
    with torch.inference_mode():
        both = [services.open_bundle(one).network()(images) for one in (version, there)]
    assert all(torch.equal(one, other) for one, other in zip(*both, strict=True))
    # A network without boxes is no detector.
    torchscript(tmp_path / "m.ts", Double())
    manifest = ball_manifest(name="m", task="detection", output={}, inference={"window": [16, 16, 32]})
    with pytest.raises(BundleError, match=r"1×3×16×16×32; of a detector .* must be 1×9×4×4×8, 1×9×2×2×4, 1×9×1×1×2"):
        importing.opened(tmp_path / "m.ts", manifest=manifest).__enter__()


def test_an_archive_that_leads_outside_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("../outside.txt", "x")
    with pytest.raises(BundleError, match="leads outside"):
        importing.opened(tmp_path / "b.zip").__enter__()
    assert not (tmp_path / "outside.txt").exists()


BRATS = [
    {"_target_": "LoadImaged", "keys": "image"},
    {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True, "channel_wise": True},
]
SIGMOID = {
    "_target_": "Compose",
    "transforms": [
        {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
        {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image"},
        {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.4},
        {"_target_": "SaveImaged", "keys": "pred", "output_dir": "$@output_dir"},
    ],
}


def several_channels(folder: Path, **changes) -> nn.Module:
    """A bundle of several sequences and overlapping structures, as the zoo's one for brain tumours."""
    network = monai_folder(
        folder,
        network_def={**UNET, "in_channels": 2, "out_channels": 3},
        preprocessing={"_target_": "Compose", "transforms": BRATS},
        **{"postprocessing": SIGMOID, **changes},
    )
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    metadata["network_data_format"] = {
        "inputs": {"image": {"modality": "MR", "num_channels": 2, "channel_def": {"0": "T1c", "1": "FLAIR"}}},
        "outputs": {"pred": {"channel_def": {"0": "Tumor core", "1": "Whole tumor", "2": "Enhancing tumor"}}},
    }
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    return network


@pytest.mark.django_db
def test_a_monai_bundle_of_several_sequences_and_overlapping_structures_computes_the_same(tmp_path):
    network = several_channels(tmp_path / "brats")
    with importing.opened(tmp_path / "brats") as candidate:
        version = importing.register(candidate, project=ProjectFactory(), by=None)
    manifest = version.manifest
    assert [entry["name"] for entry in manifest["inputs"]] == ["T1c", "FLAIR"]
    assert manifest["output"] == {"activation": "sigmoid", "threshold": 0.4}

    random = np.random.default_rng(5)
    arrays = [random.normal(100, 30, (8, 24, 16)).astype(np.float32) for _ in range(2)]  # z, y, x
    for array in arrays:
        array[:2] = 0
    stacked = torch.from_numpy(np.stack([array.transpose(2, 1, 0) for array in arrays]))
    prepared = monai.NormalizeIntensity(nonzero=True, channel_wise=True)(stacked)
    with torch.inference_mode():
        there = torch.sigmoid(network(prepared[None]))[0].numpy().transpose(0, 3, 2, 1)  # the image is one window

    from inference.prediction import engine

    first, second = (Volume(array) for array in arrays)
    output = engine.load(services.open_bundle(version)).predict(first, others=[second])
    assert output.scores["Whole tumor"] == pytest.approx(float(there[1].max()), abs=1e-4)
    assert (output.masks == (there >= 0.4)).mean() > 0.9995


def test_statistics_over_all_channels_have_no_counterpart(tmp_path):
    several_channels(tmp_path / "b")
    config = json.loads((tmp_path / "b" / "configs" / "inference.json").read_text())
    config["preprocessing"]["transforms"][1].pop("channel_wise")
    (tmp_path / "b" / "configs" / "inference.json").write_text(json.dumps(config))
    with pytest.raises(BundleError, match="looks at all 2 channels together"):
        importing.opened(tmp_path / "b").__enter__()


def test_channels_without_background_need_a_sigmoid(tmp_path):
    several_channels(tmp_path / "b", postprocessing={"_target_": "Compose", "transforms": []})
    with pytest.raises(BundleError, match="not the background, and the post-processing is no sigmoid"):
        importing.opened(tmp_path / "b").__enter__()


class Pooled(nn.Module):
    """A classifier in 2-D whose classes are told apart by where the brightness lies."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.stack([images[:, 0, :4].mean(dim=(1, 2)), images[:, 0, 4:].mean(dim=(1, 2))], dim=1)


def test_a_program_that_gives_labels_of_a_picture_is_taken(tmp_path):
    torchscript(tmp_path / "m.ts", Pooled())
    manifest = ball_manifest(
        name="labels",
        task="classification",
        network={"dimensions": 2},
        output={"activation": "sigmoid", "threshold": 0.6},
        inference={"window": [1, 8, 8]},
    )
    with importing.opened(tmp_path / "m.ts", manifest=manifest) as candidate:
        assert candidate.answer == "1×2"


@pytest.mark.django_db(transaction=True)
def test_an_upload_becomes_a_version_by_a_job_once(tmp_path, celery_worker_process, settings):
    from inference.jobs.waiting import wait

    settings.MEDIA_ROOT = os.environ.get("MEDIA_ROOT") or settings.DATA / "media"  # the worker's
    monai_folder(tmp_path / "spleen")
    project = ProjectFactory()
    with zipped(tmp_path / "spleen").open("rb") as file:
        job = importing.start(file, "spleen.zip", project=project, name="", manifest="", by=None)
    job = wait(job)
    assert (job.state, job.cause) == (Job.State.SUCCEEDED, "")
    version = ModelVersion.objects.get(pk=job.result["version"])
    assert version.model.project == project
    assert services.open_bundle(version).network() is not None
    assert not importing.waiting(job.parameters["file"]).exists()
