"""A checked configuration as TOML text that `config.parse` reads back as the same configuration."""

from __future__ import annotations

import json
from typing import Any

from inference.networks import table
from inference.training.config import DEFAULT_PREPROCESSING, LOSS, SECTIONS, TOP, Config, Key


def text(config: Config) -> str:
    """Everything that is not a default. `parse(text(config)) == config` for what `check` returned."""
    blocks = [_lines({key: config[key] for key, rule in TOP.items() if key == "task" or _set(config[key], rule)})]
    for section, rules in SECTIONS.items():
        values = {key: config[section][key] for key, rule in rules.items() if _set(config[section][key], rule)}
        if section == "network":
            values |= {"name": config["network"]["name"], **_own(config["network"])}
        if section == "training" and (usual := LOSS.get(config["task"])):
            values.pop("loss", None)
            if config["training"]["loss"] != usual:
                values["loss"] = config["training"]["loss"]
        if section == "inference" and config["inference"]["window"] == config["training"]["patch"]:
            values.pop("window", None)
        if values:
            blocks.append(f"[{section}]\n{_lines(values)}")
    if config["preprocessing"] != DEFAULT_PREPROCESSING:
        blocks += [steps(config["preprocessing"])] if config["preprocessing"] else []
        if not config["preprocessing"]:
            blocks[0] += "\npreprocessing = []"
    return "\n\n".join(blocks) + "\n"


def steps(preprocessing: list[dict[str, Any]]) -> str:
    """The preprocessing alone."""
    return "\n\n".join(f"[[preprocessing]]\n{_lines(step)}" for step in preprocessing)


def parameters(network: dict[str, Any]) -> str:
    """The parameters of the section `network` that are not the network's defaults, one a line."""
    return _lines(_own(network))


def _own(network: dict[str, Any]) -> dict[str, Any]:
    known = table.NETWORKS.get(network["name"])
    defaults = known.defaults if known else {}
    return {key: value for key, value in network["parameters"].items() if key not in defaults or defaults[key] != value}


def _set(value: Any, rule: Key) -> bool:
    return value is not None and value != rule.default


def _lines(values: dict[str, Any]) -> str:
    return "\n".join(f"{key} = {value_text(value)}" for key, value in values.items())


def value_text(value: Any) -> str:
    """A value as TOML writes it: JSON's texts, numbers, lists and booleans are TOML's too.

    TOML has no null; in a list of sizes 0 stands for an axis that stays as it is.
    """
    if isinstance(value, list):
        return "[" + ", ".join("0" if item is None else value_text(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {value_text(item)}" for key, item in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
