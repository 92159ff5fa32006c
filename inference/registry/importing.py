"""Models that were trained elsewhere, into the registry: MONAI bundles, our own bundles, single files with a manifest.

A version is registered only after its network took an image of the window's size and gave what the manifest says.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
import uuid
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from django.conf import settings
from django.db import transaction

from inference.errors import BundleError
from inference.jobs.models import Job
from inference.jobs.services import submit
from inference.registry import bundle, monai_bundle, programs, services
from inference.registry import manifest as manifests
from inference.registry.models import ModelVersion
from inference.registry.state_dict import read_state_dict
from portal.accounts.models import Project, User

if TYPE_CHECKING:
    from torch import nn

MAX_ENTRIES, MAX_UNPACKED = 2_000, 16 << 30
SUFFIXES = (".zip", ".ts", ".pt2", ".onnx", ".safetensors", ".pt", ".pth")
_MEANING = {"segmentation": "batch, labels after the background where they exclude each other, space"}
_PROGRAMS = {".ts": "torchscript", ".pt2": "exported", ".onnx": "onnx"}


def start(file: IO[bytes], file_name: str, *, project: Project, name: str, manifest: str, by: User | None) -> Job:
    """Keep an uploaded file and queue its import. `manifest`: JSON text, "" where the file holds a bundle.

    Raises `BundleError`.
    """
    from inference.registry.tasks import import_model  # the task module imports this one

    suffix = Path(file_name).suffix.lower()
    if suffix not in SUFFIXES:
        raise BundleError(
            f"A file that ends with {suffix or 'nothing'} is no model that can be imported.",
            f"Give one of: {', '.join(SUFFIXES)}. A bundle is a folder: send it as a zip archive.",
        )
    content = read_manifest(manifest)
    if content is None and suffix != ".zip":
        raise BundleError("A single file says nothing about its inputs and outputs.", "Give its manifest as well.")
    token = uuid.uuid4().hex
    target = waiting(token + suffix)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as out:
        shutil.copyfileobj(file, out, 1 << 20)
        out.flush()
        os.fsync(out.fileno())
    return submit(
        import_model,
        project=project,
        title="Import a model",
        parameters={"file": target.name, "name": name, "manifest": content},
        by=by,
    )


def waiting(name: str) -> Path:
    """Where an uploaded model waits for its import."""
    return Path(settings.MEDIA_ROOT) / "incoming" / "models" / Path(name).name


def read_manifest(text: str) -> dict[str, Any] | None:
    """The manifest that somebody gave as JSON; None where there is none. Raises `BundleError`."""
    if not text.strip():
        return None
    try:
        found = json.loads(text)
    except ValueError as error:
        raise BundleError(f"The manifest is not JSON: {error}.", "docs/bundle.md has an example.") from error
    if not isinstance(found, dict):
        raise BundleError("The manifest is no JSON object.", "docs/bundle.md has an example.")
    return found


@dataclass(frozen=True)
class Candidate:
    """A model that was read and tried out: what registering it needs."""

    manifest: bundle.Manifest
    weights: bundle.Weights
    answer: str  # shape of what the network gave


@contextmanager
def opened(source: Path, *, name: str = "", manifest: Mapping[str, Any] | None = None) -> Iterator[Candidate]:
    """Read a folder, zip archive or file and try its network out; what was unpacked is gone afterwards.

    name: of the model, the manifest's own where "". manifest: what a single file does not say, or what to change of a
    bundle's. Raises `InferenceError` with cause and next step.
    """
    with tempfile.TemporaryDirectory(prefix="model-", dir=_scratch()) as scratch:
        if source.is_dir():
            found, weights = _folder(source, manifest)
        elif source.suffix.lower() == ".zip":
            unpack(source, Path(scratch) / "unpacked")
            found, weights = _folder(_root(Path(scratch) / "unpacked"), manifest)
        else:
            found, weights = _file(source, manifest)
        made = {**found, "format": bundle.FORMAT, "name": _slug(name or str(found.get("name", "")))}
        written = bundle.write(Path(scratch) / "bundle", made, weights)
        yield Candidate(written.manifest, weights, try_out(written))


def register(candidate: Candidate, *, project: Project, by: User | None) -> ModelVersion:
    """The candidate as the next version of its model. Raises `StageError` where that model has another task."""
    manifest = candidate.manifest
    with transaction.atomic():
        model = services.create_model(
            project=project,
            name=manifest["name"],
            task=manifest["task"],
            by=by,
            description=str(manifest.get("description", "")),
        )
        return services.register_version(model, manifest, candidate.weights, by=by)


def try_out(written: bundle.Bundle) -> str:
    """Run each network on zeros of the window's size; the shape of its answer. Raises `BundleError`."""
    answers = {_try(written.manifest, network) for network in written.networks()}
    return ", ".join(sorted(answers))


def _try(manifest: bundle.Manifest, network: nn.Module) -> str:
    import torch

    from inference.networks.sliding_window import turn

    settings = manifest["inference"]
    window, flat = settings["window"], manifest["network"]["dimensions"] == 2
    space = window[1:] if flat else window
    images = torch.zeros(1, manifests.channels(manifest), *space)
    turned = settings.get("axes") == "xyz"
    try:
        with torch.inference_mode():
            found = network(turn(images) if turned else images)
    except Exception as error:  # whatever foreign code raises; its text may be long and names tensors, not patients
        raise BundleError(
            f"The network does not take an image of {_times(space)} voxels ({'y, x' if flat else 'z, y, x'}) in "
            f"{images.shape[1]} channel{'s' if images.shape[1] > 1 else ''}: "
            f"{type(error).__name__}: {str(error).splitlines()[0][:300] if str(error) else ''}",
            "Correct inference.window, inference.slices, inference.axes or the number of inputs in the manifest.",
        ) from error
    if manifest["task"] == "detection":
        return _maps(manifest, found, space)
    if isinstance(found, tuple | list) and found:
        found = found[0]
    if not isinstance(found, torch.Tensor):
        raise BundleError(f"The network answers with {type(found).__name__}, not with a tensor.", "Export it anew.")
    count = manifests.outputs(manifest)
    expected = (1, count, *(space[::-1] if turned else space)) if manifest["task"] == "segmentation" else (1, count)
    if tuple(found.shape) != expected:
        raise BundleError(
            f"The network answers with the shape {_times(found.shape)}; the manifest says {_times(expected)} "
            f"({_MEANING.get(manifest['task'], 'batch, labels')}).",
            "Correct the labels, output.activation, or the output of the network.",
        )
    return _times(found.shape)


def _maps(manifest: bundle.Manifest, found: Any, space: Sequence[int]) -> str:
    """The shapes of a detector's maps. Raises `BundleError` unless they are those of `networks.detector`."""
    from inference.networks.detector import STRIDES

    answers = found if isinstance(found, tuple | list) else [found]
    shapes = [tuple(getattr(answer, "shape", ())) for answer in answers]
    count = manifests.outputs(manifest) + 2 * len(space) + 1
    expected = [(1, count, *(size // stride for size in space)) for stride in STRIDES]
    if shapes != expected:
        said, wanted = (", ".join(_times(shape) for shape in some) for some in (shapes, expected))
        raise BundleError(
            f"The network answers with the shapes {said or 'of nothing'}; of a detector with these labels and window "
            f"they must be {wanted} (batch; labels, two distances an axis, centrality; space by "
            f"{', '.join(map(str, STRIDES))}).",
            "Correct the labels or inference.window, or the output of the network.",
        )
    return ", ".join(_times(shape) for shape in shapes)


def _folder(folder: Path, manifest: Mapping[str, Any] | None) -> tuple[dict[str, Any], bundle.Weights]:
    if (folder / bundle.MANIFEST).is_file():
        found = bundle.read(folder)
        files = [folder / name for name in bundle.weights_files(found.manifest)]
        return {**found.manifest, **(manifest or {})}, files
    if monai_bundle.is_bundle(folder):
        made, weights = monai_bundle.read(folder)
        return {**made, **(manifest or {})}, weights
    raise BundleError(
        f"The folder holds neither {bundle.MANIFEST} nor configs/metadata.json.",
        "Give a bundle of this portal or of MONAI, or a single file with a manifest.",
    )


def _file(path: Path, manifest: Mapping[str, Any] | None) -> tuple[dict[str, Any], bundle.Weights]:
    if not path.is_file():
        raise BundleError(f"There is no file or folder {path.name}.", "Check the path.")
    if manifest is None:
        raise BundleError("A single file says nothing about its inputs and outputs.", "Give its manifest as well.")
    made = dict(manifest)
    kind = _PROGRAMS.get(path.suffix.lower()) or ("torchscript" if _is_torchscript(path) else "")
    if kind:
        made["network"] = {"dimensions": 3, **made.get("network", {}), "name": kind}
        return made, path
    network = made.get("network") or {}
    if not network.get("name") or network["name"] in programs.FILES:
        raise BundleError(
            "The file holds weights alone, and the manifest names no network for them.",
            "Give network.name and network.parameters: a network of this portal, or monai.<class>.",
        )
    return made, read_state_dict(path)


def _is_torchscript(path: Path) -> bool:
    """TorchScript under the name of a pickle: an archive with a constants.pkl beside its code."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip archive of a model. Raises `BundleError` where it is too large or leads outside the folder."""
    try:
        with zipfile.ZipFile(archive) as packed:
            entries = packed.infolist()
            if len(entries) > MAX_ENTRIES:
                raise BundleError(f"The archive has {len(entries)} entries, more than a model has.", "Send the bundle.")
            left = MAX_UNPACKED
            for entry in entries:
                target = folder / entry.filename
                if stat.S_ISLNK(entry.external_attr >> 16) or not target.resolve().is_relative_to(folder.resolve()):
                    raise BundleError("The archive holds a link or a path that leads outside it.", "Pack it anew.")
                if entry.is_dir():
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                with packed.open(entry) as source, target.open("wb") as out:
                    while piece := source.read(1 << 20):
                        left -= len(piece)
                        if left < 0:
                            raise BundleError("The archive unpacks to more than 16 GB.", "Send the bundle alone.")
                        out.write(piece)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise BundleError(f"The archive cannot be unpacked ({type(error).__name__}).", "Pack it anew.") from error


def _root(folder: Path) -> Path:
    """The bundle in an unpacked archive: the folder itself, or the only one in it."""
    inside = [path for path in folder.iterdir() if not path.name.startswith(("__MACOSX", "."))]
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def _scratch() -> Path:
    folder = Path(settings.MEDIA_ROOT) / "incoming"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _slug(name: str) -> str:
    from django.utils.text import slugify

    found = slugify(name)[:80]
    if not found:
        raise BundleError("The model has no name.", "Give it one.")
    return found


def _times(sizes: Any) -> str:
    return "×".join(str(n) for n in sizes)
