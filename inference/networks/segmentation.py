"""Networks for segmentation: how the table's parameters become one, and what they must fulfil."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from inference.errors import NetworkError

if TYPE_CHECKING:  # torch and MONAI take seconds to load; forms and checks need neither
    from torch import nn

Parameters = dict[str, Any]


def _norm(name: str, channels: int) -> Any:
    if name == "group":
        return ("group", {"num_groups": math.gcd(8, channels), "affine": True})
    return (name, {"affine": True})


def unet(dimensions: int, inputs: int, outputs: int, p: Parameters) -> nn.Module:
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


def check_unet(p: Parameters) -> str | None:
    if len(p["strides"]) != len(p["channels"]) - 1:
        return f"strides must have one number less than channels ({len(p['channels']) - 1}), it has {len(p['strides'])}"
    return None


def segresnet(dimensions: int, inputs: int, outputs: int, p: Parameters) -> nn.Module:
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


def check_segresnet(p: Parameters) -> str | None:
    if len(p["blocks_up"]) != len(p["blocks_down"]) - 1:
        return "blocks_up must have one number less than blocks_down"
    if p["filters"] % 8:
        return "filters must be a multiple of 8"
    return None


def swin_unetr(dimensions: int, inputs: int, outputs: int, p: Parameters) -> nn.Module:
    from monai.networks.nets import SwinUNETR

    return SwinUNETR(
        in_channels=inputs,
        out_channels=outputs,
        feature_size=p["features"],
        depths=p["depths"],
        num_heads=p["heads"],
        drop_rate=p["dropout"],
        spatial_dims=dimensions,
    )


def check_swin_unetr(p: Parameters) -> str | None:
    if len(p["depths"]) != 4 or len(p["heads"]) != 4:
        return "depths and heads have four numbers each"
    if p["features"] % 12:
        return "features must be a multiple of 12"
    return None


def nnunet(dimensions: int, inputs: int, outputs: int, p: Parameters) -> nn.Module:
    from inference.networks import planning

    if not p["strides"]:
        raise NetworkError(
            "This U-Net was not planned yet: it has no strides.", "Training plans it from the training images."
        )
    return planning.build(dimensions, inputs, outputs, p)


def check_nnunet(p: Parameters) -> str | None:
    if len(p["strides"]) != len(p["kernels"]):
        return "strides and kernels must have one entry for each stage, or be left out to be planned"
    if 0 < len(p["strides"]) < 3:
        return "strides and kernels need three stages at least"
    axes = {len(entry) if isinstance(entry, list) else 0 for entry in [*p["strides"], *p["kernels"]]}
    if axes and axes not in ({2}, {3}):
        return "each entry of strides and kernels has one number for each axis"
    return None


def nnunet_divisor(p: Parameters) -> int | list[int]:
    return [math.prod(column) for column in zip(*p["strides"], strict=True)] if p["strides"] else 1
