"""The training configurations for segmentation that Readroom brings along."""

from __future__ import annotations

from pathlib import Path

from inference import training
from inference.training import config

FOLDER = Path(training.__file__).parent / "presets"


def names() -> list[str]:
    paths = sorted(FOLDER.glob("*.toml"))
    return [path.stem for path in paths if config.load(path)["task"] == "segmentation"]


def load(name: str) -> config.Config | None:
    """The preset of that name, checked; None where there is none."""
    return config.load(FOLDER / f"{name}.toml") if name in names() else None


def summary(name: str) -> str:
    """The comment at the top of the file."""
    first = (FOLDER / f"{name}.toml").read_text(encoding="utf-8").splitlines()[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""
