"""What a search may vary: TOML in, a checked dictionary out.

    [search]
    trials = 20
    [search.space]
    training.learning_rate = { low = 1e-4, high = 1e-1, log = true }
    training.loss = ["dice", "dice_ce"]
    network.dropout = { low = 0.0, high = 0.4 }

Everything else in the file is the training configuration from which the trials start.
"""

from __future__ import annotations

import copy
import tomllib
from pathlib import Path
from typing import Any

from inference.errors import ConfigError
from inference.training import config as schema
from inference.training.config import Config

Search = dict[str, Any]
Entry = dict[str, Any]

OF_FROZEN = ("training.regularisation", "training.class_weights")
DEFAULTS: dict[str, Any] = {"trials": 20, "max_minutes": 0.0, "prune": True}
MOST_TRIALS = 1000
VARIABLE = ("training", "augmentation", "network")
# The answer must not depend on what is varied, and luck is nothing to search for.
FIXED = {
    "training.seed": "a lucky seed says nothing about other images",
    "training.networks": "a trial trains one network",
    "training.strategy": "search each strategy by itself",
    "training.weights": "search each file of weights by itself",
    "network.name": "each network has its own parameters: search each by itself",
    "network.dimensions": "search 2-D and 3-D by themselves",
}


def load(path: str | Path) -> tuple[Config, Search]:
    """Read and check a TOML file. Raises `ConfigError`."""
    return parse(read(path))


def read(path: str | Path) -> str:
    """The text of a file. Raises `ConfigError`."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path} cannot be read ({type(error).__name__})."]) from error


def base(text: str) -> Config:
    """The configuration of TOML text, whatever it says about a search. Raises `ConfigError`."""
    return schema.check(_tables(text)[0])


def parse(text: str) -> tuple[Config, Search]:
    """Check TOML text. Raises `ConfigError`."""
    raw, search = _tables(text)
    config = schema.check(raw)
    return config, check(config, search)


def _tables(text: str) -> tuple[dict[str, Any], Any]:
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"This is not TOML: {error}."]) from error
    return raw, raw.pop("search", None)


def check(config: Config, search: Any) -> Search:
    """The search with defaults; checking it again changes nothing. config: checked.

    Raises `ConfigError` with every problem.
    """
    if not isinstance(search, dict) or not isinstance(search.get("space"), dict) or not search["space"]:
        raise ConfigError(
            ["search: missing; a table [search] with `trials`, and a table [search.space] of what may vary."]
        )
    problems = [
        f"search.{key}: there is no such key; allowed are {', '.join([*DEFAULTS, 'space'])}."
        for key in sorted(set(search) - set(DEFAULTS) - {"space"})
    ]
    made: Search = {key: search.get(key, default) for key, default in DEFAULTS.items()}
    if not _whole(made["trials"]) or not 1 <= made["trials"] <= MOST_TRIALS:
        problems.append(f"search.trials: {made['trials']!r} must be a whole number from 1 to {MOST_TRIALS}.")
    if not _number(made["max_minutes"]) or made["max_minutes"] < 0:
        problems.append(f"search.max_minutes: {made['max_minutes']!r} must be a number from 0; 0 is no limit.")
    if not isinstance(made["prune"], bool):
        problems.append(f"search.prune: {made['prune']!r} must be true or false.")
    if schema.planned(config):
        problems.append("search: the network still plans itself; train it once, and search with what it planned.")
    made["space"] = {}
    for key, given in sorted(flat(search["space"]).items()):
        entry, wrong = _entry(config, key, given)
        problems += wrong
        if entry is not None:
            made["space"][key] = entry
    if problems:
        raise ConfigError(problems)
    return made


def flat(tables: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys; a table with `low` is a range."""
    found: dict[str, Any] = {}
    for name, value in tables.items():
        key = f"{before}.{name}" if before else name
        if isinstance(value, dict) and not {"low", "high", "choices"} & set(value):
            found |= flat(value, key)
        else:
            found[key] = value
    return found


def changed(config: Config, values: dict[str, Any]) -> Config:
    """The configuration with other values, checked. Raises `ConfigError`."""
    made = copy.deepcopy(config)
    for key, value in values.items():
        section, _, name = key.partition(".")
        if section == "network":
            made["network"]["parameters"][name] = value
        else:
            if key == "training.patch" and made["inference"]["window"] == made["training"]["patch"]:
                made["inference"]["window"] = value
            made[section][name] = value
    return schema.check(made)


def _entry(config: Config, key: str, given: Any) -> tuple[Entry | None, list[str]]:
    place = f"search.space.{key}"
    section, _, name = key.partition(".")
    known = config["network"]["parameters"] if section == "network" else config.get(section, {})
    if key in FIXED:
        return None, [f"{place}: it cannot be varied; {FIXED[key]}."]
    if section not in VARIABLE or name not in known:
        return None, [f"{place}: only keys of {', '.join(VARIABLE)} of the configuration can be varied."]
    if config["training"]["strategy"] == "frozen" and key not in OF_FROZEN:
        return None, [f"{place}: it changes nothing on frozen features; vary {' or '.join(OF_FROZEN)}."]
    if isinstance(given, dict) and "choices" in given:
        given = given["choices"]
    if isinstance(given, list):
        if len(given) < 2:
            return None, [f"{place}: give two choices at least."]
        tried = given
        entry: dict[str, Any] = {"choices": given}
    elif isinstance(given, dict):
        entry = {
            "low": given.get("low"),
            "high": given.get("high"),
            "log": given.get("log", False),
            "step": given.get("step"),
        }
        wrong = _wrong_range(entry, sorted(set(given) - {*entry, "whole"}))
        if wrong:
            return None, [f"{place}: {wrong}"]
        entry["whole"] = _whole(known[name]) and _whole(entry["low"]) and _whole(entry["high"])
        tried = [entry["low"], entry["high"]]
    else:
        return None, [f"{place}: write a list of choices, or {{ low = …, high = … }}."]
    problems = []
    for value in tried:
        try:
            changed(config, {key: value})
        except ConfigError as error:
            problems += [f"{place}, {value!r}: {problem}" for problem in error.problems]
    return (None, problems) if problems else (entry, [])


def _wrong_range(entry: Entry, unknown: list[str]) -> str:
    if unknown:
        return f"there is no {unknown[0]!r}; a range has low, high, log and step."
    if not _number(entry["low"]) or not _number(entry["high"]) or not entry["low"] < entry["high"]:
        return "low and high must be numbers, and low smaller than high."
    if not isinstance(entry["log"], bool) or (entry["log"] and entry["low"] <= 0):
        return "log must be true or false, and needs a low above 0."
    if entry["step"] is not None and (not _number(entry["step"]) or entry["step"] <= 0 or entry["log"]):
        return "step must be a positive number, and goes without log."
    return ""


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
