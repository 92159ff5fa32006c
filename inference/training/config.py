"""The configuration of a training run: TOML in, a checked dictionary with every default written out.

`check` collects all problems, each with the key, what is wrong and what is allowed, so that a form can show them at
once. What it returns is plain JSON and complete: the same dictionary trains the same model.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.errors import ConfigError, NetworkError, PreprocessingError
from inference.imaging import preprocessing
from inference.networks import table

Config = dict[str, Any]
REQUIRED = object()
DEFAULT_PREPROCESSING = [
    {"name": "orient", "to": "LPS"},
    {"name": "clip_percentile", "lower": 0.5, "upper": 99.5},
    {"name": "normalise", "method": "zscore", "region": "all"},
]


@dataclass(frozen=True)
class Key:
    kind: str
    default: Any = REQUIRED
    lower: float | None = None
    upper: float | None = None
    choices: tuple[str, ...] = ()
    summary: str = ""


TOP: dict[str, Key] = {
    "name": Key("slug", summary="Name of the model; a run makes its next version"),
    "task": Key(
        "choice", "segmentation", choices=("segmentation", "classification", "detection"), summary="What the model does"
    ),
    "description": Key("text", "", summary="Intended use, in a sentence"),
}
SECTIONS: dict[str, dict[str, Key]] = {
    "data": {
        "project": Key("text", "", summary="Slug of the project, where the command does not give it"),
        "cohort": Key("text", "", summary="Name of a frozen cohort, where the command does not give it"),
        "reference": Key("text", "", summary="Name of the reference standard; the newest where empty"),
        "structures": Key("texts", [], summary="Structures or classes to learn; all where empty"),
        "modality": Key("texts", [], summary="Modalities that the model accepts; those of the cohort where empty"),
    },
    "network": {"name": Key("text", "unet"), "dimensions": Key("whole", 3, 2, 3)},
    "training": {
        "patch": Key(
            "sizes", None, summary="Size of a training patch in voxels (z, y, x); nnunet plans it where left out"
        ),
        "batch_size": Key("whole", 2, 1, 512),
        "samples_per_case": Key("whole", 1, 1, 64, summary="Patches from each case in an epoch"),
        "foreground_share": Key("number", 0.0, 0, 1, summary="Share of patches centred on a structure"),
        "epochs": Key("whole", 100, 1, 100000),
        "max_minutes": Key("number", 0.0, 0, 60 * 24 * 30, summary="Ends training after this time; 0: no limit"),
        "loss": Key("choice", "dice_ce", choices=("dice_ce", "dice", "cross_entropy", "focal", "tversky", "focal_iou")),
        "class_weights": Key("choice", "none", choices=("none", "balanced"), summary="Rare classes count as much"),
        "strategy": Key("choice", "scratch", choices=("scratch", "frozen", "transfer"), summary="For classification"),
        "weights": Key("text", "", summary="`imagenet`, or the path of a file; for frozen and transfer"),
        "backbone_rate": Key("number", 0.1, 0, 1, summary="Learning rate below the last layer, as share"),
        "regularisation": Key(
            "number", 0.01, 1e-8, 1e8, summary="C of the last layer on frozen features; less is firmer"
        ),
        "early_stopping": Key("whole", 0, 0, 1000, summary="Validations without gain after which it ends; 0: never"),
        "learning_rate": Key("number", 1e-3, 1e-8, 10),
        "warmup": Key("number", 0.05, 0, 0.9, summary="Share of the training in which the learning rate rises"),
        "weight_decay": Key("number", 0.01, 0, 1),
        "gradient_clip": Key("number", 12.0, 0, 1e6, summary="Largest gradient norm; 0: no limit"),
        "averaging": Key("number", 0.99, 0, 0.99999, summary="Decay of the averaged weights; 0: none"),
        "validate_every": Key("whole", 1, 1, 1000, summary="Epochs between two validations"),
        "seed": Key("whole", 0, 0, 2**31 - 1),
        "networks": Key(
            "whole", 1, 1, 20, summary="Networks learned from different random starts; the mean of their answers counts"
        ),
        "precision": Key(
            "choice",
            "auto",
            choices=("auto", "float32", "bfloat16"),
            summary="Numbers in a step; auto: mixed with float16 on a graphics card, float32 on a processor",
        ),
    },
    "augmentation": {
        "flip": Key("axes", [], summary="Patient axes that may be mirrored: x, y, z"),
        "rotation": Key("number", 0.0, 0, 180, summary="Largest rotation about each axis, degrees"),
        "scale": Key("number", 0.0, 0, 0.9, summary="Largest relative change of size"),
        "shift": Key("number", 0.0, 0, 0.5, summary="Largest shift, as share of the patch"),
        "deformation": Key("number", 0.0, 0, 20, summary="Elastic deformation, voxels (standard deviation)"),
        "contrast": Key("number", 0.0, 0, 0.9),
        "brightness": Key("number", 0.0, 0, 10, summary="Largest shift of the normalised values"),
        "gamma": Key("number", 0.0, 0, 2, summary="Largest |log gamma|"),
        "noise": Key("number", 0.0, 0, 10, summary="Largest standard deviation of added noise"),
    },
    "cross_validation": {
        "schemes": Key("texts", ["folds"], summary="folds: those of the cohort; sources: leave one source out"),
        "source": Key("text", "", summary="Variable that says where an image comes from, or manufacturer"),
        "baselines": Key(
            "texts", [], summary="logistic_regression, svm, random_forest, sparse on handcrafted features"
        ),
    },
    "detection": {
        "point_size": Key("number", 10.0, 0.1, 500, summary="Edge of the box around a point, mm"),
    },
    "inference": {
        "window": Key("sizes", None, summary="Sliding window in voxels (z, y, x); the patch where left out"),
        "overlap": Key("number", 0.5, 0, 0.95),
        "mirror": Key("axes", [], summary="Axes over whose mirror images the output is averaged"),
        "shifts": Key("whole", 0, 0, 4, summary="One-voxel shifts over which the output is averaged as well"),
        "threshold": Key("number", 0.5, 0, 1, summary="Case score from which a structure counts as found"),
        "least": Key("number", 0.05, 0.001, 1, summary="Least score of a box that a detector reports"),
    },
}


def load(path: str | Path, changes: Sequence[str] = ()) -> Config:
    """Read and check a TOML file. changes: `key = value` in TOML, in place of what it says. Raises `ConfigError`."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError([f"{path} cannot be read: {error.strerror}."]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path} is not text in UTF-8."]) from error
    return parse(text, changes)


def parse(text: str, changes: Sequence[str] = ()) -> Config:
    """Check TOML text. changes: see `load`. Raises `ConfigError`."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"This is not TOML: {error}."]) from error
    for change in changes:
        try:
            raw = _merged(raw, tomllib.loads(change))
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(
                [f"{change!r} is no setting: write it like training.epochs=30, and text in quotes, a.b='text'."]
            ) from error
    return check(raw)


def _merged(given: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """`given` with the values of `change`; what either says of a table that the other has stays."""
    both = {
        key: _merged(given[key], value)
        for key, value in change.items()
        if isinstance(value, dict) and isinstance(given.get(key), dict)
    }
    return {**given, **change, **both}


def check(raw: Any) -> Config:
    """The configuration with defaults. Raises `ConfigError` with every problem."""
    if not isinstance(raw, dict):
        raise ConfigError(["The configuration must be a table of keys and values."])
    if raw.get("task") == "detection" and isinstance(raw.get("network", {}), dict):
        raw = {**raw, "network": {"name": "detector", **raw.get("network", {})}}
    problems: list[str] = []
    known = [*TOP, *SECTIONS, "preprocessing"]
    for key in sorted(set(raw) - set(known)):
        problems.append(f"{key}: there is no such key; allowed are {', '.join(known)}.")
    config: Config = {key: _value(raw, key, rule, key, problems) for key, rule in TOP.items()}
    for section, rules in SECTIONS.items():
        given = raw.get(section, {})
        if not isinstance(given, dict):
            problems.append(f"{section}: it must be a table, written [{section}].")
            given = {}
        if section != "network":
            for key in sorted(set(given) - set(rules)):
                problems.append(f"{section}.{key}: there is no such key; allowed are {', '.join(rules)}.")
        config[section] = {key: _value(given, key, rule, f"{section}.{key}", problems) for key, rule in rules.items()}
    config["preprocessing"] = _preprocessing(raw.get("preprocessing", DEFAULT_PREPROCESSING), problems)
    _network(config, raw.get("network", {}), problems)
    if config["task"] in LOSS and isinstance(raw.get("training", {}), dict):
        config["training"]["loss"] = raw.get("training", {}).get("loss", LOSS[config["task"]])
    given = raw.get("training", {})
    plans = config["network"]["name"] == "nnunet" and not config["network"].get("parameters", {}).get("strides")
    if isinstance(given, dict) and given.get("patch") is None and not plans:
        problems.append(f"training.patch: missing; it must be {_wanted(SECTIONS['training']['patch'])}.")
    if not problems:
        _together(config, problems)
    if problems:
        raise ConfigError(problems)
    return config


def _preprocessing(steps: Any, problems: list[str]) -> list[dict[str, Any]]:
    try:
        return preprocessing.check(steps)
    except PreprocessingError as error:
        problems.append(f"{error.cause} {error.next_step}".strip())
        return []


def _network(config: Config, given: Any, problems: list[str]) -> None:
    given = given if isinstance(given, dict) else {}
    # In a file the parameters stand beside the name; in a checked configuration below `parameters`.
    parameters = {key: value for key, value in given.items() if key not in (*SECTIONS["network"], "parameters")}
    parameters |= given.get("parameters", {})
    try:
        config["network"]["parameters"] = table.check(config["network"]["name"], parameters)
    except NetworkError as error:
        problems.append(f"network: {error.cause} {error.next_step}".strip())


LOSS = {"classification": "cross_entropy", "detection": "focal_iou"}  # where the configuration names none
SCHEMES = ("folds", "sources")
BASELINES = ("logistic_regression", "svm", "random_forest", "sparse")
TITLES = {
    "network": "Network",
    "logistic_regression": "Logistic regression",
    "svm": "Support vector machine",
    "random_forest": "Random forest",
    "sparse": "Sparse representation",
}


def _classification(config: Config, problems: list[str]) -> None:
    """Rules between the keys of a classifier."""
    training = config["training"]
    if training["loss"] not in ("cross_entropy", "focal", "dice", "tversky"):
        problems.append("training.loss: a classifier learns with cross_entropy, focal, dice or tversky.")
    if training["strategy"] != "scratch" and not training["weights"]:
        problems.append(f"training.weights: missing; {training['strategy']} needs imagenet or the path of a file.")
    if training["strategy"] != "scratch" and training["weights"] == "imagenet":
        title = table.NETWORKS[table.PACKAGED].title
        if config["network"]["name"] != table.PACKAGED:
            problems.append(f"training.weights: imagenet is there for {title} alone; give the path of a file.")
    if training["strategy"] == "frozen" and training["loss"] != "cross_entropy":
        problems.append("training.loss: on frozen features it is cross_entropy.")


def _rounds(config: Config, problems: list[str]) -> None:
    """Rules of a cross-validation."""
    validation = config["cross_validation"]
    for key, allowed in (("schemes", SCHEMES), ("baselines", BASELINES)):
        for name in validation[key]:
            if name not in allowed:
                problems.append(f"cross_validation.{key}: {name!r} is none of {', '.join(allowed)}.")
    if validation["baselines"] and config["task"] != "classification":
        problems.append("cross_validation.baselines: the classical methods tell classes apart; leave it empty.")
    if "sources" in validation["schemes"] and not validation["source"]:
        problems.append("cross_validation.source: missing; say which variable holds the source of an image.")


def planned(config: Config) -> bool:
    """Whether the network still has to configure itself from the training images."""
    return config["network"]["name"] == "nnunet" and not config["network"]["parameters"]["strides"]


def _together(config: Config, problems: list[str]) -> None:
    """Rules between keys."""
    _rounds(config, problems)
    if config["task"] == "classification":
        _classification(config, problems)
    elif (config["training"]["loss"] == "focal_iou") != (config["task"] == "detection"):
        problems.append("training.loss: focal_iou is the loss of a detector, and its only one.")
    if config["training"]["networks"] > 1 and config["task"] != "segmentation":
        problems.append("training.networks: several at once are for segmentation; average versions as an ensemble.")
    name, parameters = config["network"]["name"], config["network"]["parameters"]
    dimensions = config["network"]["dimensions"]
    network = table.NETWORKS[name]
    if network.task != config["task"]:
        problems.append(
            f"network.name: {network.title} is for {network.task}; for {config['task']} choose from: "
            f"{', '.join(table.named(config['task']))}."
        )
        return
    if dimensions not in network.dimensions:
        allowed = " or ".join(str(n) for n in network.dimensions)
        problems.append(f"network.dimensions is {dimensions}; {network.title} has {allowed}.")
        return
    if planned(config):
        return
    if config["inference"]["window"] is None:
        config["inference"]["window"] = list(config["training"]["patch"])
    divisors = table.divisors(name, parameters, dimensions)
    for place, size in (
        ("training.patch", config["training"]["patch"]),
        ("inference.window", config["inference"]["window"]),
    ):
        if dimensions == 2 and size[0] != 1:
            problems.append(f"{place} is {size}; with network.dimensions = 2 it is one slice: [1, rows, columns].")
        elif any(n % divisor for n, divisor in zip(size[3 - dimensions :], divisors, strict=True)):
            words = str(divisors[0]) if len(set(divisors)) == 1 else " × ".join(str(n) for n in divisors)
            problems.append(f"{place} is {size}; this network needs multiples of {words} on every axis.")


def _value(given: dict[str, Any], key: str, rule: Key, place: str, problems: list[str]) -> Any:
    if key not in given:
        if rule.default is REQUIRED:
            problems.append(f"{place}: missing; it must be {_wanted(rule)}.")
            return None
        return list(rule.default) if isinstance(rule.default, list) else rule.default
    value = given[key]
    if value is None and rule.default is None:  # as a checked configuration has it
        return None
    if not CHECKS[rule.kind](value, rule):
        problems.append(f"{place}: {value!r} is not allowed; it must be {_wanted(rule)}.")
        return None
    return float(value) if rule.kind == "number" else value


def _in_range(value: Any, rule: Key) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return False
    return (rule.lower is None or value >= rule.lower) and (rule.upper is None or value <= rule.upper)


def _is_slug(value: Any, _: Key) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,80}", value) is not None


CHECKS: dict[str, Callable[[Any, Key], bool]] = {
    "text": lambda value, rule: isinstance(value, str),
    "slug": _is_slug,
    "texts": lambda value, rule: isinstance(value, list) and all(isinstance(item, str) for item in value),
    "choice": lambda value, rule: value in rule.choices,
    "number": _in_range,
    "whole": lambda value, rule: isinstance(value, int) and _in_range(value, rule),
    "axes": lambda value, rule: (
        isinstance(value, list) and all(v in ("x", "y", "z") for v in value) and len(set(value)) == len(value)
    ),
    "sizes": lambda value, rule: (
        isinstance(value, list)
        and len(value) == 3
        and all(isinstance(n, int) and not isinstance(n, bool) and 1 <= n <= 1024 for n in value)
    ),
}


def _wanted(rule: Key) -> str:
    between = ""
    if rule.lower is not None and rule.upper is not None:
        between = f" from {rule.lower:g} to {rule.upper:g}"
    return {
        "text": "text",
        "slug": "a name of letters, digits, - and _",
        "texts": "a list of texts",
        "choice": f"one of {', '.join(rule.choices)}",
        "number": f"a number{between}",
        "whole": f"a whole number{between}",
        "axes": 'a list out of "x", "y", "z", each once',
        "sizes": "three whole numbers of voxels (z, y, x)",
    }[rule.kind]
