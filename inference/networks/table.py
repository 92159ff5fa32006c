"""Networks by name: what a configuration or a manifest calls `unet` becomes a `torch.nn.Module`.

A network takes [batch, channel, (z,) y, x]. One for segmentation returns logits of the same spatial shape, one for
classification logits [batch, class], one for detection what `inference.networks.detector` says. Every entry says what
parameters it takes, in how many dimensions it exists and by what the spatial size must be divisible.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from inference.errors import NetworkError
from inference.networks import monai_class, segmentation

if TYPE_CHECKING:  # torch and MONAI take seconds to load; forms and checks need neither
    from torch import nn

Parameters = dict[str, Any]
PACKAGED = "efficientnet_lite0"  # the network whose ImageNet weights a package brings along
SEGMENTATION, CLASSIFICATION, DETECTION = "segmentation", "classification", "detection"


@dataclass(frozen=True)
class Network:
    """One row of the table. `divisor` gives the numbers that the spatial sizes must be multiples of: one for every
    axis, or a single one for all. choices: what a text parameter may be. suits: for whom it is, in a sentence."""

    build: Callable[[int, int, int, Parameters], nn.Module]
    defaults: Parameters
    divisor: Callable[[Parameters], int | list[int]]
    check: Callable[[Parameters], str | None]
    title: str
    choices: dict[str, tuple[str, ...]] = field(default_factory=dict)
    task: str = SEGMENTATION
    dimensions: tuple[int, ...] = (2, 3)
    suits: str = ""


def _alexnet(dimensions: int, inputs: int, outputs: int, p: Parameters) -> nn.Module:
    from inference.networks.alexnet import AlexNet

    return AlexNet(inputs, outputs, dropout=p["dropout"])


def _vgg(depth: int) -> Callable[[int, int, int, Parameters], nn.Module]:
    def build(dimensions: int, inputs: int, outputs: int, p: Parameters) -> nn.Module:
        from inference.networks.vgg import VGG

        return VGG(depth, inputs, outputs, batch_norm=p["batch_norm"], dropout=p["dropout"])

    return build


def _googlenet(dimensions: int, inputs: int, outputs: int, p: Parameters) -> nn.Module:
    from inference.networks.googlenet import GoogLeNet

    return GoogLeNet(inputs, outputs, batch_norm=p["batch_norm"], dropout=p["dropout"])


def _resnet(block: str, layers: list[int]) -> Callable[[int, int, int, Parameters], nn.Module]:
    def build(dimensions: int, inputs: int, outputs: int, p: Parameters) -> nn.Module:
        from monai.networks.nets import ResNet

        return ResNet(
            block,
            layers,
            p["channels"],
            spatial_dims=dimensions,
            n_input_channels=inputs,
            num_classes=outputs,
            conv1_t_stride=2,
            bias_downsample=False,
        )

    return build


def _densenet121(dimensions: int, inputs: int, outputs: int, p: Parameters) -> nn.Module:
    from monai.networks.nets import DenseNet121

    return DenseNet121(
        spatial_dims=dimensions,
        in_channels=inputs,
        out_channels=outputs,
        init_features=p["features"],
        growth_rate=p["growth"],
        dropout_prob=p["dropout"],
    )


def _efficientnet_lite0(dimensions: int, inputs: int, outputs: int, p: Parameters) -> nn.Module:
    from inference.networks.efficientnet_lite import EfficientNetLite0

    return EfficientNetLite0(inputs, outputs, dropout=p["dropout"], pooling=p["pooling"])


def _darkcovidnet(dimensions: int, inputs: int, outputs: int, p: Parameters) -> nn.Module:
    from inference.networks.darkcovidnet import DarkCovidNet

    return DarkCovidNet(inputs, outputs, size=p["size"])


def _vit(dimensions: int, inputs: int, outputs: int, p: Parameters) -> nn.Module:
    from inference.networks.vision_transformer import VisionTransformer

    image = p["image"] * dimensions if len(p["image"]) == 1 else p["image"]
    if len(image) != dimensions:
        raise NetworkError(f"image of the network is {p['image']}; it needs {dimensions} numbers, or one for all axes.")
    sizes = {key: p[key] for key in ("patch", "width", "depth", "heads", "inner", "dropout")}
    return VisionTransformer(inputs, outputs, image=image, **sizes)


def _check_vit(p: Parameters) -> str | None:
    if any(n % p["patch"] for n in p["image"]):
        return f"image must be a multiple of patch ({p['patch']}) on every axis"
    return "width must be a multiple of heads" if p["width"] % p["heads"] else None


def _cnn(dimensions: int, inputs: int, outputs: int, p: Parameters) -> nn.Module:
    from inference.networks.cnn import PlainCNN

    return PlainCNN(dimensions, inputs, outputs, channels=p["channels"], hidden=p["hidden"], dropout=p["dropout"])


def _detector(dimensions: int, inputs: int, outputs: int, p: Parameters) -> nn.Module:
    from inference.networks.detector import Detector

    return Detector(dimensions, inputs, outputs, channels=p["channels"], pyramid=p["pyramid"], depth=p["depth"])


def _four_widths(p: Parameters) -> str | None:
    return None if len(p["channels"]) == 4 else "channels must be four numbers"


def _fine(p: Parameters) -> str | None:
    return None


def _any_size(p: Parameters) -> int:
    return 1


def _classifier(
    build: Callable[[int, int, int, Parameters], nn.Module],
    title: str,
    defaults: Parameters,
    *,
    check: Callable[[Parameters], str | None] = _fine,
    divisor: Callable[[Parameters], int | list[int]] = _any_size,
    dimensions: tuple[int, ...] = (2,),
    choices: dict[str, tuple[str, ...]] | None = None,
    suits: str = "",
) -> Network:
    return Network(build, defaults, divisor, check, title, choices or {}, CLASSIFICATION, dimensions, suits)


RESNET: Parameters = {"channels": [64, 128, 256, 512]}

NETWORKS: dict[str, Network] = {
    "unet": Network(
        segmentation.unet,
        {
            "channels": [16, 32, 64, 128],
            "strides": [2, 2, 2],
            "residual_units": 2,
            "norm": "instance",
            "dropout": 0.0,
        },
        lambda p: math.prod(p["strides"]),
        segmentation.check_unet,
        "Residual U-Net",
        {"norm": ("instance", "batch")},
        suits="The usual start: organs and lesions from some dozen cases on, on a CPU too",
    ),
    "nnunet": Network(
        segmentation.nnunet,
        {"features": 32, "kernels": [], "strides": [], "residual": False},
        segmentation.nnunet_divisor,
        segmentation.check_nnunet,
        "Self-configuring U-Net",
        suits="Plans patch and depth from the training images; nothing to choose, needs the most time",
    ),
    "segresnet": Network(
        segmentation.segresnet,
        {"filters": 16, "blocks_down": [1, 2, 2, 4], "blocks_up": [1, 1, 1], "norm": "group", "dropout": 0.0},
        lambda p: 2 ** (len(p["blocks_down"]) - 1),
        segmentation.check_segresnet,
        "SegResNet",
        {"norm": ("group", "batch")},
        suits="Tumours and large structures with much context; needs more memory than the U-Net",
    ),
    "swin_unetr": Network(
        segmentation.swin_unetr,
        {"features": 24, "depths": [2, 2, 2, 2], "heads": [3, 6, 12, 24], "dropout": 0.0},
        lambda p: 32,
        segmentation.check_swin_unetr,
        "Swin UNETR",
        suits="Hundreds of cases and a graphics card; a transformer that looks far across the volume",
    ),
    "alexnet": _classifier(_alexnet, "AlexNet", {"dropout": 0.5}, suits="Comparison with older papers"),
    "vgg16": _classifier(
        _vgg(16), "VGG-16", {"batch_norm": False, "dropout": 0.5}, suits="Comparison with older papers; large"
    ),
    "vgg19": _classifier(
        _vgg(19), "VGG-19", {"batch_norm": False, "dropout": 0.5}, suits="Comparison with older papers; the largest"
    ),
    "googlenet": _classifier(
        _googlenet, "GoogLeNet", {"batch_norm": False, "dropout": 0.4}, suits="Comparison with older papers; small"
    ),
    "resnet18": _classifier(
        _resnet("basic", [2, 2, 2, 2]),
        "ResNet-18",
        RESNET,
        check=_four_widths,
        dimensions=(2, 3),
        suits="Hundreds of images from scratch, pictures or volumes",
    ),
    "resnet50": _classifier(
        _resnet("bottleneck", [3, 4, 6, 3]),
        "ResNet-50",
        RESNET,
        check=_four_widths,
        dimensions=(2, 3),
        suits="Thousands of images, or weights to start from",
    ),
    "resnet152": _classifier(
        _resnet("bottleneck", [3, 8, 36, 3]),
        "ResNet-152",
        RESNET,
        check=_four_widths,
        dimensions=(2, 3),
        suits="Tens of thousands of images and a graphics card",
    ),
    "densenet121": _classifier(
        _densenet121,
        "DenseNet-121",
        {"features": 64, "growth": 32, "dropout": 0.0},
        dimensions=(2, 3),
        suits="Chest radiographs in many papers; pictures or volumes",
    ),
    "efficientnet_lite0": _classifier(
        _efficientnet_lite0,
        "EfficientNet-lite0",
        {"dropout": 0.2, "pooling": "top"},
        choices={"pooling": ("top", "stages")},
        suits="Few pictures: brings ImageNet weights along, for frozen features and transfer",
    ),
    "darkcovidnet": _classifier(
        _darkcovidnet, "DarkCovidNet", {"size": 256}, suits="Comparison with its paper on chest radiographs"
    ),
    "vit": _classifier(
        _vit,
        "Vision transformer",
        {"image": [224], "patch": 16, "width": 768, "depth": 12, "heads": 12, "inner": 3072, "dropout": 0.0},
        check=_check_vit,
        divisor=lambda p: p["patch"],
        dimensions=(2, 3),
        suits="Very many images, or weights to start from; a transformer",
    ),
    "cnn": _classifier(
        _cnn,
        "Plain convolutional network",
        {"channels": [64, 64, 128, 256], "hidden": 512, "dropout": 0.3},
        dimensions=(2, 3),
        suits="Small data from scratch, pictures or volumes; quick",
    ),
    "detector": Network(
        _detector,
        {"channels": [32, 64, 128, 256], "pyramid": 64, "depth": 2},
        lambda p: 16,
        _four_widths,
        "One-stage detector",
        {},
        DETECTION,
    ),
}


def named(task: str) -> list[str]:
    """Names of the networks for a task."""
    return [name for name, network in NETWORKS.items() if network.task == task]


def check(name: Any, parameters: Any) -> Parameters:
    """The parameters with every default written out. Raises `NetworkError` that says what is wrong and allowed."""
    if isinstance(name, str) and monai_class.PATTERN.fullmatch(name):
        return dict(parameters)
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
        made[key] = _checked(key, parameters.get(key, default), default, network.choices.get(key, ()))
    problem = network.check(made)
    if problem:
        raise NetworkError(f"{network.title}: {problem}.", "Correct the network's parameters.")
    return made


def _checked(key: str, value: Any, default: Any, choices: tuple[str, ...]) -> Any:
    def whole(item: Any) -> bool:
        return isinstance(item, int) and not isinstance(item, bool) and item >= (0 if key == "residual_units" else 1)

    if isinstance(default, bool):
        if isinstance(value, bool):
            return value
        wanted = "true or false"
    elif isinstance(default, list):
        if isinstance(value, list | tuple) and (value or not default) and all(_numbers(item, whole) for item in value):
            return [list(item) if isinstance(item, list | tuple) else item for item in value]
        wanted = "a list of whole numbers from 1"
    elif isinstance(default, str):
        if value in choices:
            return value
        wanted = f"one of {', '.join(choices)}"
    elif isinstance(default, int):
        if whole(value):
            return value
        wanted = "a whole number"
    else:
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1:
            return float(value)
        wanted = "a number from 0 to below 1"
    raise NetworkError(f"{key} of the network is {value!r}; it must be {wanted}.")


def _numbers(item: Any, whole: Callable[[Any], bool]) -> bool:
    return all(whole(entry) for entry in item) if isinstance(item, list | tuple) else whole(item)


def build(name: str, *, dimensions: int, in_channels: int, out_channels: int, parameters: Parameters) -> nn.Module:
    """The network with fresh weights (torch's random state decides them). Raises `NetworkError`."""
    checked = check(name, parameters)
    if match := monai_class.PATTERN.fullmatch(name):
        return monai_class.build(match[1], checked)
    network = NETWORKS[name]
    if dimensions not in network.dimensions:
        allowed = " or ".join(str(n) for n in network.dimensions)
        raise NetworkError(f"{network.title} has {allowed} dimensions, not {dimensions!r}.")
    return network.build(dimensions, in_channels, out_channels, checked)


def divisor(name: str, parameters: Parameters) -> int:
    """What every spatial size may be a multiple of to fit on all axes; 1 where only the network itself knows."""
    return 1 if monai_class.PATTERN.fullmatch(name) else max(divisors(name, parameters, 3))


def divisors(name: str, parameters: Parameters, dimensions: int) -> list[int]:
    """What the spatial sizes must be multiples of, axis by axis."""
    found = NETWORKS[name].divisor(check(name, parameters))
    return found if isinstance(found, list) else [found] * dimensions
