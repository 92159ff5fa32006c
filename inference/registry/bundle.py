"""The folder of a model version: `manifest.json` and the weights.

The manifest says all that running the model needs: task, inputs, preprocessing, network, labels, output and sliding
window, and where the model came from. `docs/bundle.md` describes every key. Weights of a named network are safetensors;
a network may also come as a program with its weights (`programs`), and an ensemble has a file for each member. A
pickle is refused: it executes code when opened.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.errors import BundleError
from inference.networks import table
from inference.registry import manifest as manifests
from inference.registry import programs
from inference.registry.manifest import FORMAT, Manifest
from inference.registry.manifest import check as check_manifest
from inference.registry.state_dict import read_safetensors

if TYPE_CHECKING:  # torch takes seconds to load; pages that read a manifest do without
    from torch import Tensor, nn

__all__ = ["FORMAT", "Bundle", "Manifest", "Weights", "check_manifest", "digest_of", "read", "weights_files", "write"]

MANIFEST, WEIGHTS = "manifest.json", "weights.safetensors"
PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".npy", ".joblib")


@dataclass(frozen=True)
class Bundle:
    folder: Path
    manifest: Manifest
    digest: str

    @property
    def labels(self) -> list[dict[str, Any]]:
        return self.manifest["labels"]

    @property
    def specs(self) -> list[dict[str, Any]]:
        """`network` of the manifest, or that of each member of an ensemble."""
        return manifests.networks(self.manifest)

    def network(self) -> nn.Module:
        """The network with its weights, or the first member's. Raises `BundleError`."""
        return self._network(0)

    def networks(self) -> list[nn.Module]:
        """Every network with its weights, on the CPU, in evaluation mode. Raises `BundleError`."""
        return [self._network(number) for number in range(len(self.specs))]

    def _network(self, number: int) -> nn.Module:
        spec = self.specs[number]
        file = self.folder / weights_files(self.manifest)[number]
        if spec["name"] in programs.FILES:
            return programs.load(spec["name"], file)
        module = table.build(
            spec["name"],
            dimensions=spec["dimensions"],
            in_channels=manifests.channels(self.manifest),
            out_channels=manifests.outputs(self.manifest),
            parameters=spec["parameters"],
        )
        weights = read_safetensors(file)
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


def weights_files(manifest: Manifest) -> list[str]:
    """The names of the files with the weights: one, or one for each member of an ensemble."""
    names = [programs.FILES.get(spec["name"], WEIGHTS) for spec in manifests.networks(manifest)]
    if not manifest.get("members"):
        return names
    return [f"member-{number}{Path(name).suffix}" for number, name in enumerate(names, start=1)]


StateDict = Mapping[str, "Tensor"]
Weights = StateDict | Path | Sequence[StateDict | Path]


def write(folder: Path, manifest: Manifest, weights: Weights) -> Bundle:
    """Write a new bundle in one step: the folder appears complete and synced, or not at all.

    weights: the state dictionary, or the file of a program, which is copied, or one of them for each member of an
    ensemble. Raises `BundleError` where the manifest is wrong or the folder is there already.
    """
    from safetensors.torch import save_file

    checked = check_manifest(manifest)
    if folder.exists():
        raise BundleError(f"The folder {folder.name} exists already.", "A version is never overwritten: make the next.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder.parent))
    try:
        (made / MANIFEST).write_text(json.dumps(checked, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        files = [made / name for name in weights_files(checked)]
        sources = [weights] if isinstance(weights, Mapping | Path) else weights
        for source, file in zip(sources, files, strict=True):
            if isinstance(source, Path):
                shutil.copyfile(source, file)
            else:
                save_file({key: value.detach().cpu().contiguous() for key, value in source.items()}, file)
        for path in (made / MANIFEST, *files):
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
    for name in weights_files(manifest):
        if not (folder / name).is_file():
            raise _lacks(name)
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


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
