"""The fields of the training form: made from `inference.training.config`, with words for people who do not program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django import forms

from inference.networks import table
from inference.training import config as schema
from inference.training.config import Key
from studies.cohorts.models import ReferenceStandard

Kind = ReferenceStandard.Kind
# Which tasks can be learned from which kind of reference standard; the first is the usual one.
TASKS: dict[str, tuple[str, ...]] = {
    Kind.SEGMENTATION: ("segmentation", "detection"),
    Kind.CLASSIFICATION: ("classification",),
    Kind.BOXES: ("detection",),
}
CHOSEN_ELSEWHERE = {"data.project", "data.cohort", "data.reference", "task"}
ROUNDS = {f"cross_validation.{key}" for key in schema.SECTIONS["cross_validation"]}
_CLASSES = {f"training.{key}" for key in ("strategy", "weights", "backbone_rate", "regularisation", "class_weights")}
_BOXES = {"detection.point_size", "inference.least"}
# What a task has no use for.
USELESS: dict[str, set[str]] = {
    "segmentation": {*_CLASSES, *_BOXES, "cross_validation.baselines"},
    "detection": {*_CLASSES, *ROUNDS, "training.networks"},
    "classification": {
        *_BOXES,
        "training.networks",
        "training.samples_per_case",
        "training.foreground_share",
        *(f"inference.{key}" for key in schema.SECTIONS["inference"]),
    },
}
# What a strategy of a classifier has no use for: frozen features are learned from in one step.
_STEPS = ("batch_size", "epochs", "max_minutes", "learning_rate", "loss", "early_stopping", "warmup", "weight_decay",
          "gradient_clip", "averaging", "validate_every", "backbone_rate", "precision")  # fmt: skip
USELESS_TO: dict[str, set[str]] = {
    "frozen": {
        *(f"training.{key}" for key in _STEPS),
        *(f"augmentation.{key}" for key in schema.SECTIONS["augmentation"]),
    },
    "transfer": {"training.regularisation"},
    "scratch": {"training.regularisation", "training.backbone_rate", "training.weights"},
}
LOSSES = {
    "segmentation": ("dice_ce", "dice", "cross_entropy", "focal", "tversky"),
    "classification": ("cross_entropy", "focal", "dice", "tversky"),
    "detection": ("focal_iou",),
}
LABELS = {
    "name": "Model",
    "description": "Intended use",
    "network.name": "Network",
    "network.dimensions": "Works on",
    "training.patch": "Size that the network sees, voxels (z, y, x)",
    "training.batch_size": "Images in a step",
    "training.samples_per_case": "Patches from each case in an epoch",
    "training.foreground_share": "Share of patches on a structure",
    "training.max_minutes": "Longest training, minutes",
    "training.epochs": "Epochs at most",
    "training.class_weights": "Rare classes",
    "training.strategy": "How it learns",
    "training.weights": "Weights to start from",
    "training.regularisation": "C of the last layer",
    "training.networks": "Networks that answer together",
    "training.precision": "Numbers in a step",
    "cross_validation.schemes": "Rounds",
    "cross_validation.source": "Variable that names the source",
    "cross_validation.baselines": "Traditional methods, in the same rounds",
}
WORDS = {"hd95": "HD95", "l2": "L2"}
HINTS = {
    "training.strategy": "",
    "training.class_weights": "",
    "training.weights": "imagenet, or the path of a file on the server",
    "training.regularisation": "Less is firmer: for few images",
    "cross_validation.schemes": "",
    "cross_validation.baselines": "On handcrafted features: intensities, edges, texture",
    "training.batch_size": "More is steadier and needs more memory",
    "training.epochs": "Times that every training case is seen",
    "training.loss": "What the network is punished for; the first is the usual one",
    "training.learning_rate": "How far a step goes. Too high and the loss is no number, too low and nothing is learned",
    "training.early_stopping": "Ends when so many validations in a row brought no gain, and keeps the best; 0: never",
    "training.seed": "The same number gives the same training again",
    "network.dimensions": "",
    "cross_validation.source": "Needed to leave one source out: a variable of the project, or manufacturer",
}
OPTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "task": {
        "segmentation": ("Outlines structures", "from a reference standard with masks"),
        "classification": ("Tells classes apart", "from a reference standard with a class for each case"),
        "detection": ("Finds lesions", "boxes with a score"),
    },
    "training.strategy": {
        "frozen": ("Keep what it knows", "The network's features stay as they are and one last layer is learned: best "
                   "for some dozens to a few hundred images, done in minutes"),
        "transfer": ("Adapt what it knows", "Starts from given weights and learns all layers, the lower ones slower: "
                     "for some hundreds of images and more"),
        "scratch": ("Learn everything anew", "No weights to start from: for thousands of images, or for volumes, for "
                    "which no weights are at hand"),
    },
    "network.dimensions": {"2": ("Slices or single pictures, 2-D", ""), "3": ("Whole volumes, 3-D", "")},
    "training.loss": {
        "dice_ce": ("Dice and cross-entropy", ""), "dice": ("Dice", ""), "cross_entropy": ("Cross-entropy", ""),
        "focal": ("Focal: hard voxels or cases count more", ""), "tversky": ("Tversky: misses count more", ""),
        "focal_iou": ("Focal and overlap of the boxes", ""),
    },
    "training.class_weights": {
        "none": ("Every case counts the same", ""), "balanced": ("Rare classes count as much as frequent ones", "")
    },
    "training.precision": {
        "auto": ("As usual on the device", "float16 and float32 on a graphics card, float32 on a processor"),
        "float32": ("float32", ""),
        "bfloat16": ("bfloat16 and float32", "nearly twice as fast on processors that have instructions for it"),
    },
    "cross_validation.schemes": {
        "folds": ("By the folds of the cohort", "every case is judged once, by a model that never saw its patient"),
        "sources": ("Leaving one source out", "each source is judged by models that learned from the others"),
    },
    "cross_validation.baselines": {name: (schema.TITLES[name], "") for name in schema.BASELINES},
}  # fmt: skip
MULTIPLE = {"cross_validation.schemes": schema.SCHEMES, "cross_validation.baselines": schema.BASELINES}


@dataclass(frozen=True)
class Group:
    """A part of the form. open: shown at once, not behind a summary."""

    title: str
    places: tuple[str, ...]
    open: bool = False
    words: str = ""


GROUPS = (
    Group("Network", ("network.name", "network.dimensions", "training.strategy", "training.weights"), open=True),
    Group(
        "Learning",
        (
            "training.patch",
            "training.batch_size",
            "training.epochs",
            "training.max_minutes",
            "training.learning_rate",
            "training.loss",
            "training.class_weights",
            "training.regularisation",
            "training.early_stopping",
            "training.seed",
        ),
        open=True,
    ),
    Group("Augmentation", (), words="images that are turned, shifted and changed at random, so that few teach more"),
    Group("Preprocessing", ("preprocessing",), words="the same steps in training and in use"),
    Group("More settings", (), words="patches, schedule, weight decay, parameters of the network, use on new images"),
)
FIRST = ("name", "description")


def keys() -> list[tuple[str, Key]]:
    """(place, rule) of every key, such as `training.epochs`."""
    found = list(schema.TOP.items())
    for section, rules in schema.SECTIONS.items():
        found += [(f"{section}.{name}", key) for name, key in rules.items()]
    return found


def shown(task: str, strategy: str = "") -> list[tuple[str, Key]]:
    """The keys that the form of a task, and of a classifier's strategy, has fields for."""
    useless = CHOSEN_ELSEWHERE | USELESS.get(task, set())
    if task == "classification":
        useless = useless | USELESS_TO.get(strategy, set())
    return [(place, key) for place, key in keys() if place not in useless]


def grouped(task: str, strategy: str = "") -> list[tuple[Group, list[str]]]:
    """The groups with their places, in which every place of the form but the first ones has its place once."""
    places = [place for place, _ in shown(task, strategy)]
    named = {place for group in GROUPS for place in group.places} | set(FIRST) | ROUNDS
    augmentation = [place for place in places if place.startswith("augmentation.")]
    rest = [place for place in places if place not in named and place not in augmentation]
    extra = {"Augmentation": augmentation, "More settings": [*rest, "network.parameters"]}
    made = []
    for group in GROUPS:
        own = [place for place in group.places if place in places or place == "preprocessing"]
        made.append((group, [*own, *extra.get(group.title, [])]))
    return made


def made(place: str, key: Key, task: str) -> forms.Field:
    name = place.rpartition(".")[2]
    settings: dict[str, Any] = {
        "label": LABELS.get(place) or WORDS.get(name) or name.replace("_", " ").capitalize(),
        "help_text": HINTS[place] if place in HINTS else _hint(key),
        "required": key.default is schema.REQUIRED,
        "error_messages": {"required": f"Missing; it must be {schema._wanted(key)}."},
    }
    if place in MULTIPLE:
        return forms.MultipleChoiceField(
            choices=_titled(place, MULTIPLE[place]), widget=forms.CheckboxSelectMultiple, **settings
        )
    if place == "network.name":
        choices = [(name, _network_words(name)) for name in table.named(task)]
        return forms.ChoiceField(choices=choices, **settings)
    if place == "network.dimensions":
        return forms.ChoiceField(choices=_titled(place, ("2", "3")), **settings)
    if key.kind == "choice":
        names = LOSSES.get(task, key.choices) if place == "training.loss" else key.choices
        widget = forms.RadioSelect if place == "training.strategy" else forms.Select
        if place == "training.strategy":
            names = tuple(OPTIONS[place])
        return forms.ChoiceField(choices=_titled(place, names), widget=widget, **settings)
    if place == "description":
        return forms.CharField(widget=forms.Textarea(attrs={"rows": 2}), **settings)
    numeric = key.kind in ("number", "whole")
    attrs = {"inputmode": "decimal" if key.kind == "number" else "numeric"} if numeric else {}
    return forms.CharField(widget=forms.TextInput(attrs=attrs | {"autocomplete": "off"}), **settings)


def options(place: str, names: Sequence[str], chosen: Any) -> list[dict[str, Any]]:
    """What a group of radio buttons or boxes shows: value, title, words, whether it is chosen."""
    values = [str(value) for value in chosen] if isinstance(chosen, list | tuple) else [str(chosen or "")]
    return [
        {"value": name, "title": title, "words": words, "chosen": name in values}
        for name in names
        for title, words in [OPTIONS[place].get(name, (name.replace("_", " "), ""))]
    ]


def parsed(text: str, kind: str) -> Any:
    """The value that the text stands for; what cannot be read stays text and is refused by the check, with words."""
    words = text.replace(",", " ").split()
    try:
        if kind == "number":
            return float(text)
        if kind == "whole":
            return int(text)
        if kind == "sizes":
            return [int(word) for word in words]
    except ValueError:
        return text
    if kind == "axes":
        return words
    if kind == "texts":
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def written(value: Any, key: Key) -> Any:
    """A value as its field shows it."""
    if value is None:
        return ""
    if isinstance(value, list):
        return (", " if key.kind == "texts" else " ").join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else value


def _titled(place: str, names: Sequence[str]) -> list[tuple[str, str]]:
    return [(name, OPTIONS.get(place, {}).get(name, (name.replace("_", " "), ""))[0]) for name in names]


def _network_words(name: str) -> str:
    network = table.NETWORKS[name]
    return f"{network.title}: {network.suits[:1].lower()}{network.suits[1:]}" if network.suits else network.title


def _hint(key: Key) -> str:
    parts = [key.summary] if key.summary else []
    if key.kind in ("number", "whole") and key.lower is not None and key.upper is not None and key.upper <= 1024:
        parts.append(f"{key.lower:g} to {key.upper:g}")
    return ". ".join(parts)
