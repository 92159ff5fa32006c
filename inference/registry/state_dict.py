"""A state dictionary from a file that somebody trained elsewhere, without running what a pickle may hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.errors import BundleError

if TYPE_CHECKING:
    from torch import Tensor

# Keys below which training code puts the weights, and prefixes that wrappers put before each name.
NESTED = ("state_dict", "model", "model_state_dict", "network", "net")
PREFIXES = ("module.", "_orig_mod.")


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Name → tensor of a safetensors file or of a pickle that holds tensors and plain values only.

    Raises `BundleError`: a pickle that would run code, or a file without weights.
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    import torch

    try:
        # The restricted reader: tensors and plain containers, no class of anybody's own, no code.
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the file provokes
        raise BundleError(
            f"{path.name} is a pickle with more in it than tensors, or damaged ({type(error).__name__}). It was not "
            "opened, because a pickle can run any code.",
            "Where you trust the file, save its weights alone: torch.save(model.state_dict(), …) or "
            "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors').",
        ) from error
    return _weights(found, path)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise BundleError(
            f"{path.name} cannot be read as safetensors ({type(error).__name__}).",
            "The file is damaged or of another kind. Restore it, or convert the weights to safetensors.",
        ) from error


def _weights(found: Any, path: Path) -> dict[str, Tensor]:
    import torch

    while isinstance(found, Mapping) and not _only_tensors(found):
        inner = next((found[key] for key in NESTED if isinstance(found.get(key), Mapping)), None)
        if inner is None:
            break
        found = inner
    if not isinstance(found, Mapping) or not _only_tensors(found):
        raise BundleError(
            f"{path.name} holds no state dictionary (name → tensor), but {type(found).__name__}.",
            "Save the weights alone: torch.save(model.state_dict(), …).",
        )
    weights = {str(key): value for key, value in found.items() if isinstance(value, torch.Tensor)}
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in weights):
            weights = {key.removeprefix(prefix): value for key, value in weights.items()}
    return weights


def _only_tensors(found: Mapping[Any, Any]) -> bool:
    import torch

    return bool(found) and all(isinstance(value, torch.Tensor) for value in found.values())
