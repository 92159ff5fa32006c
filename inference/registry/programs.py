"""Networks that come as a program with its weights: TorchScript, torch.export, ONNX.

A program is opened without running code of whoever made it. TorchScript and ONNX describe nothing but operations on
tensors. A torch.export archive may hold pickles, so each is looked at before the archive is opened.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.errors import BundleError

if TYPE_CHECKING:
    from torch import nn

FILES = {"torchscript": "model.ts", "exported": "model.pt2", "onnx": "model.onnx"}
TITLES = {"torchscript": "TorchScript", "exported": "torch.export archive", "onnx": "ONNX model"}


def load(name: str, path: Path) -> nn.Module:
    """The program as a module on the CPU: [batch, channel, …] in, logits out. Raises `BundleError`."""
    try:
        if name == "torchscript":
            return _torchscript(path)
        if name == "exported":
            return _exported(path)
        return _onnx(path)
    except BundleError:
        raise
    except Exception as error:  # each of these readers has errors of its own, and bare ones of what lies below
        raise BundleError(
            f"{path.name} cannot be opened as {TITLES[name]} ({type(error).__name__}).",
            "The file is damaged, of another kind, or needs operators that are not installed here. Export it again.",
        ) from error


def _torchscript(path: Path) -> nn.Module:
    import torch

    return torch.jit.load(str(path), map_location="cpu").eval()


def _exported(path: Path) -> nn.Module:
    import torch

    check_archive(path)
    return torch.export.load(path).module()


def _onnx(path: Path) -> nn.Module:
    import onnxruntime
    import torch

    class OnnxNetwork(torch.nn.Module):
        """An ONNX model with one input and its first output; runs where ONNX Runtime has a provider."""

        def __init__(self) -> None:
            super().__init__()
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = len(os.sched_getaffinity(0))
            offered = onnxruntime.get_available_providers()
            wanted = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in offered]
            self.session = onnxruntime.InferenceSession(str(path), options, providers=wanted)
            inputs = self.session.get_inputs()
            if len(inputs) != 1:
                raise BundleError(
                    f"The ONNX model has {len(inputs)} inputs ({', '.join(one.name for one in inputs)}).",
                    "Export it with one input [batch, channel, …] that holds every channel.",
                )
            self.input, self.output = inputs[0].name, self.session.get_outputs()[0].name

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            array = images.detach().cpu().contiguous().numpy()
            (found,) = self.session.run([self.output], {self.input: array})
            return torch.from_numpy(found).to(images.device)

    return OnnxNetwork()


def check_archive(path: Path) -> None:
    """Raise `BundleError` where opening a torch.export archive could run code: a pickle with more than tensors in it,
    an object of a custom class, or compiled code."""
    import torch

    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            name = entry.filename
            if name.endswith((".so", ".dll", ".cubin")) or "/aotinductor/" in name:
                raise BundleError(
                    f"The archive holds compiled code ({name.rsplit('/', 1)[-1]}).",
                    "Export the program with torch.export.save alone, without AOTInductor.",
                )
            if name.endswith("constants_config.json"):
                _check_constants(json.loads(archive.read(name)))
            with archive.open(entry) as file:
                head = file.read(2)
            if head[:1] == b"\x80":
                raise _unsafe(name)
            if head == b"PK":
                try:
                    torch.load(io.BytesIO(archive.read(name)), map_location="cpu", weights_only=True)
                except Exception as error:
                    raise _unsafe(name) from error


def _check_constants(config: dict[str, Any]) -> None:
    for name, constant in config.get("config", {}).items():
        if "tensor" not in str(constant.get("path_name", "")):
            raise BundleError(
                f"The archive holds an object of a class of its own as constant {name!r}.",
                "Export a program whose constants are tensors.",
            )


def _unsafe(name: str) -> BundleError:
    return BundleError(
        f"The archive holds a pickle ({name.rsplit('/', 1)[-1]}) that is more than tensors and could run any code.",
        "Export the program again with example inputs that are tensors alone.",
    )
