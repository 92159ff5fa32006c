"""The folder of a model version: `manifest.json` and the weights.

The manifest says all that running the model needs: task, inputs, preprocessing, network, labels, output and sliding
window, and where the model came from. `docs/bundle.md` describes every key. Weights of a named network are safetensors;
a network may also come as a program with its weights (`programs`). A pickle is refused: it executes code when opened.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.errors import BundleError, NetworkError, PreprocessingError
from inference.imaging import preprocessing
from inference.networks import table
from inference.registry import programs
from inference.registry.state_dict import read_safetensors

if TYPE_CHECKING:  # torch takes seconds to load; pages that read a manifest do without
    from torch import Tensor, nn

FORMAT = "readroom-bundle/1"
MANIFEST, WEIGHTS = "manifest.json", "weights.safetensors"
PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".npy", ".joblib")
TASKS = ("segmentation", "classification")
AXES = ("zyx", "xyz")  # the order of the spatial axes of what the network sees

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Bundle:
    folder: Path
    manifest: Manifest
    digest: str

    @property
    def labels(self) -> list[dict[str, Any]]:
        return self.manifest["labels"]

    def network(self) -> nn.Module:
        """The network with its weights, on the CPU, in evaluation mode. Raises `BundleError`."""
        spec = self.manifest["network"]
        if spec["name"] in programs.FILES:
            return programs.load(spec["name"], self.folder / weights_file(self.manifest))
        module = table.build(
            spec["name"],
            dimensions=spec["dimensions"],
            in_channels=len(self.manifest["inputs"]),
            out_channels=len(self.labels) + (self.manifest["task"] == "segmentation"),  # with the background
            parameters=spec["parameters"],
        )
        weights = read_safetensors(self.folder / WEIGHTS)
        expected = {key: tuple(value.shape) for key, value in module.state_dict().items()}
        found = {key: tuple(value.shape) for key, value in weights.items()}
        if expected != found:
            different = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
            raise BundleError(
                f"The weights do not fit the network {spec['name']!r}: {len(different)} tensors differ, "
                f"first {different[0]!r} (network {expected.get(different[0])}, file {found.get(different[0])}).",
                "Register the weights with the configuration that they were trained with.",
            )
        module.load_state_dict(weights)
        return module.eval()


def weights_file(manifest: Manifest) -> str:
    """The name of the file with the weights."""
    return programs.FILES.get(manifest["network"]["name"], WEIGHTS)


def write(folder: Path, manifest: Manifest, weights: Mapping[str, Tensor] | Path) -> Bundle:
    """Write a new bundle in one step: the folder appears complete and synced, or not at all.

    weights: the state dictionary, or the file of a program, which is copied. Raises `BundleError` where the manifest is
    wrong or the folder is there already.
    """
    from safetensors.torch import save_file

    checked = check_manifest(manifest)
    if folder.exists():
        raise BundleError(f"The folder {folder.name} exists already.", "A version is never overwritten: make the next.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder.parent))
    try:
        (made / MANIFEST).write_text(json.dumps(checked, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        file = made / weights_file(checked)
        if isinstance(weights, Path):
            shutil.copyfile(weights, file)
        else:
            save_file({key: value.detach().cpu().contiguous() for key, value in weights.items()}, file)
        for path in (made / MANIFEST, file):
            _sync(path)
        made.chmod(0o755)
        made.rename(folder)
        _sync(folder.parent)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return read(folder)


def read(folder: Path, *, digest: str = "") -> Bundle:
    """Open a bundle. Raises `BundleError` where it is incomplete, holds a pickle, or differs from `digest`."""
    if not folder.is_dir():
        raise BundleError("The model's folder is not there.", "Restore it from the backup of the data folder.")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        if path.suffix.lower() in PICKLES:
            raise BundleError(
                f"{path.name} may be a pickle, which can run any code when it is opened.",
                "Convert the weights: safetensors.torch.save_file(state_dict, 'weights.safetensors').",
            )
    if not (folder / MANIFEST).is_file():
        raise _lacks(MANIFEST)
    try:
        manifest = check_manifest(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    except (ValueError, UnicodeDecodeError) as error:
        raise BundleError(f"{MANIFEST} is not JSON: {error}.", "Export the model again.") from error
    if not (folder / weights_file(manifest)).is_file():
        raise _lacks(weights_file(manifest))
    found = digest_of(folder)
    if digest and found != digest:
        raise BundleError(
            "The model's files are not the ones that were registered (their digest differs).",
            "Restore them from the backup, or register what is there now as a new version.",
        )
    return Bundle(folder, manifest, found)


def _lacks(name: str) -> BundleError:
    return BundleError(f"The bundle has no {name}.", "Export the model again; docs/bundle.md lists the files.")


def digest_of(folder: Path) -> str:
    """SHA-256 over the names and contents of all files, in the order of their names."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return total.hexdigest()


def check_manifest(manifest: Any) -> Manifest:
    """The manifest with preprocessing and network parameters written out. Raises `BundleError`."""
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BundleError(f"The manifest's format is not {FORMAT!r}.", "See docs/bundle.md.")
    for key, kind in (("task", str), ("inputs", list), ("labels", list), ("network", dict), ("inference", dict)):
        if not isinstance(manifest.get(key), kind) or not manifest[key]:
            raise BundleError(f"The manifest lacks {key!r}.", "See docs/bundle.md.")
    if manifest["task"] not in TASKS:
        raise BundleError(f"The task {manifest['task']!r} is not supported.", f"Supported: {', '.join(TASKS)}.")
    numbers = [label.get("number") for label in manifest["labels"]]
    if numbers != list(range(1, len(numbers) + 1)) or not all(label.get("name") for label in manifest["labels"]):
        raise BundleError("Labels must have the numbers 1, 2, … in order, and a name.", "See docs/bundle.md.")
    window = manifest["inference"].get("window")
    if not isinstance(window, list) or not all(isinstance(n, int) and n > 0 for n in window):
        raise BundleError("inference.window must be whole numbers of voxels (z, y, x).", "See docs/bundle.md.")
    if manifest["inference"].get("axes", "zyx") not in AXES:
        raise BundleError("inference.axes must be zyx or xyz.", "See docs/bundle.md.")
    network = manifest["network"]
    try:
        steps = preprocessing.check(manifest.get("preprocessing", []))
        if preprocessing.unfitted(steps) is not None:
            raise PreprocessingError("A step nyul has no scale.", "Write the scale of the training images into it.")
        is_program = network.get("name") in programs.FILES
        parameters = {} if is_program else table.check(network.get("name"), network.get("parameters", {}))
    except (PreprocessingError, NetworkError) as error:
        raise BundleError(f"The manifest is wrong. {error.cause}", error.next_step) from error
    return {
        **manifest,
        "preprocessing": steps,
        "network": {**network, "dimensions": network.get("dimensions", 3), "parameters": parameters},
    }


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
