"""Networks by name: what a configuration or a manifest calls `unet` becomes a `torch.nn.Module`.

A network takes [batch, channel, (z,) y, x] and returns logits of the same spatial shape. Every entry says what
parameters it takes and by what the spatial size must be divisible.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inference.errors import NetworkError

if TYPE_CHECKING:  # torch and MONAI take seconds to load; forms and checks need neither
    from torch import nn

Parameters = dict[str, Any]


@dataclass(frozen=True)
class Network:
    """One row of the table. `divisor` gives the number that every spatial size must be a multiple of."""

    build: Callable[[int, int, int, Parameters], nn.Module]
    defaults: Parameters
    divisor: Callable[[Parameters], int]
    check: Callable[[Parameters], str | None]
    title: str
    norms: tuple[str, ...]


def _norm(name: str, channels: int) -> Any:
    if name == "group":
        return ("group", {"num_groups": math.gcd(8, channels), "affine": True})
    return (name, {"affine": True})


def _unet(dimensions: int, inputs: int, outputs: int, p: Parameters) -> nn.Module:
    from monai.networks.nets import UNet

    return UNet(
        spatial_dims=dimensions,
        in_channels=inputs,
        out_channels=outputs,
        channels=p["channels"],
        strides=p["strides"],
        num_res_units=p["residual_units"],
        norm=_norm(p["norm"], p["channels"][0]),
        dropout=p["dropout"],
    )


def _check_unet(p: Parameters) -> str | None:
    if len(p["strides"]) != len(p["channels"]) - 1:
        return f"strides must have one number less than channels ({len(p['channels']) - 1}), it has {len(p['strides'])}"
    return None


def _segresnet(dimensions: int, inputs: int, outputs: int, p: Parameters) -> nn.Module:
    from monai.networks.nets import SegResNet

    return SegResNet(
        spatial_dims=dimensions,
        init_filters=p["filters"],
        in_channels=inputs,
        out_channels=outputs,
        dropout_prob=p["dropout"] or None,
        norm=_norm(p["norm"], p["filters"]),
        blocks_down=p["blocks_down"],
        blocks_up=p["blocks_up"],
    )


def _check_segresnet(p: Parameters) -> str | None:
    if len(p["blocks_up"]) != len(p["blocks_down"]) - 1:
        return "blocks_up must have one number less than blocks_down"
    if p["filters"] % 8:
        return "filters must be a multiple of 8"
    return None


NETWORKS: dict[str, Network] = {
    "unet": Network(
        _unet,
        {
            "channels": [16, 32, 64, 128],
            "strides": [2, 2, 2],
            "residual_units": 2,
            "norm": "instance",
            "dropout": 0.0,
        },
        lambda p: math.prod(p["strides"]),
        _check_unet,
        "Residual U-Net",
        ("instance", "batch"),
    ),
    "segresnet": Network(
        _segresnet,
        {"filters": 16, "blocks_down": [1, 2, 2, 4], "blocks_up": [1, 1, 1], "norm": "group", "dropout": 0.0},
        lambda p: 2 ** (len(p["blocks_down"]) - 1),
        _check_segresnet,
        "SegResNet",
        ("group", "batch"),
    ),
}


def check(name: Any, parameters: Any) -> Parameters:
    """The parameters with every default written out. Raises `NetworkError` that says what is wrong and allowed."""
    if name not in NETWORKS:
        raise NetworkError(f"There is no network {name!r}.", f"Choose from: {', '.join(NETWORKS)}.")
    network = NETWORKS[name]
    unknown = sorted(set(parameters) - set(network.defaults))
    if unknown:
        raise NetworkError(
            f"{network.title} does not take {unknown[0]!r}.", f"It takes: {', '.join(network.defaults)}."
        )
    made = {}
    for key, default in network.defaults.items():
        made[key] = _checked(key, parameters.get(key, default), default, network.norms)
    problem = network.check(made)
    if problem:
        raise NetworkError(f"{network.title}: {problem}.", "Correct the network's parameters.")
    return made


def _checked(key: str, value: Any, default: Any, norms: tuple[str, ...]) -> Any:
    def whole(item: Any) -> bool:
        return isinstance(item, int) and not isinstance(item, bool) and item >= (0 if key == "residual_units" else 1)

    if isinstance(default, list):
        if isinstance(value, list | tuple) and value and all(whole(item) for item in value):
            return list(value)
        wanted = "a list of whole numbers from 1"
    elif isinstance(default, str):
        if value in norms:
            return value
        wanted = f"one of {', '.join(norms)}"
    elif isinstance(default, int):
        if whole(value):
            return value
        wanted = "a whole number"
    else:
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1:
            return float(value)
        wanted = "a number from 0 to below 1"
    raise NetworkError(f"{key} of the network is {value!r}; it must be {wanted}.")


def build(name: str, *, dimensions: int, in_channels: int, out_channels: int, parameters: Parameters) -> nn.Module:
    """The network with fresh weights (torch's random state decides them). Raises `NetworkError`."""
    if dimensions not in (2, 3):
        raise NetworkError(f"A network has 2 or 3 dimensions, not {dimensions!r}.")
    checked = check(name, parameters)
    return NETWORKS[name].build(dimensions, in_channels, out_channels, checked)


def divisor(name: str, parameters: Parameters) -> int:
    """What every spatial size must be a multiple of."""
    return NETWORKS[name].divisor(check(name, parameters))
