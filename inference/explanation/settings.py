"""How a map is asked for, checked against the model. Needs no torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from inference.errors import ExplanationError
from inference.registry import manifest as manifests
from inference.registry import programs

METHODS = {"grad_cam": "Grad-CAM", "occlusion": "Occlusion"}
BASELINES = ("mean", "minimum")
MOST_PATCHES = 20_000
TASKS = ("classification", "regression")


@dataclass(frozen=True)
class Wanted:
    """What is asked for. method: `grad_cam` or `occlusion`; labels: names. For occlusion alone: edge of the patch and
    its step, in voxels of what the model sees, and what covers, as `maps.occlusion` takes it."""

    method: str
    labels: tuple[str, ...]
    patch: int = 0
    stride: int = 0
    baseline: str | float = "mean"

    def boxes(self, size: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Patch and step axis by axis in an image of `size`; an axis that is shorter is covered whole."""
        patch = tuple(min(self.patch, n) for n in size)
        return patch, tuple(min(self.stride, n) for n in patch)

    def words(self) -> str:
        """How the map is made, for its header."""
        if self.method == "grad_cam":
            return "Grad-CAM (Selvaraju et al., arXiv:1610.02391) of the label's logit on the last feature map"
        return (
            f"Occlusion by patches of {self.patch} voxels every {self.stride} along each axis, covered by "
            f"{self.baseline}; how much the answer falls"
        )


def wanted(
    manifest: dict[str, Any],
    *,
    method: str,
    labels: list[str],
    patch: int | None = None,
    stride: int | None = None,
    baseline: str | float = "mean",
) -> Wanted:
    """What is asked for, checked against the model, with the defaults: a patch of an eighth of the window and half of
    that as step. Raises `ExplanationError`."""
    _check_model(manifest, method)
    known = [label["name"] for label in manifest["labels"]]
    unknown = [name for name in labels if name not in known]
    if unknown or not labels:
        what = f"The model has no label {unknown[0]!r}." if unknown else "No label is chosen."
        raise ExplanationError(what, f"Choose from: {', '.join(known)}.")
    named = tuple(dict.fromkeys(labels))
    if method == "grad_cam":
        return Wanted(method, named)
    if isinstance(baseline, str) and baseline not in BASELINES:
        try:
            baseline = float(baseline)
        except ValueError:
            names = ", ".join(BASELINES)
            raise ExplanationError(f"There is no baseline {baseline!r}.", f"Use {names}, or a number.") from None
    window = manifest["inference"]["window"]
    edge = patch if patch is not None else max(2, round(max(window) / 8))
    asked = Wanted(method, named, edge, stride if stride is not None else max(1, edge // 2), baseline)
    if edge > max(window):
        by = " × ".join(map(str, window))
        raise ExplanationError(f"The patch is larger than what the model sees ({by}).", "Choose a smaller patch.")
    patch_starts(window, *asked.boxes(window))
    return asked


def methods(manifest: dict[str, Any]) -> dict[str, str]:
    """For each method why it cannot be used with this model, or "" where it can."""
    found = {}
    for method in METHODS:
        try:
            _check_model(manifest, method)
        except ExplanationError as error:
            found[method] = error.cause
        else:
            found[method] = ""
    return found


def patch_starts(size: Sequence[int], patch: Sequence[int], stride: Sequence[int]) -> list[list[int]]:
    """Where the patches of an occlusion begin, axis by axis; the last ones end at the border.

    Raises `ExplanationError` with patches that make no sense, or too many of them.
    """
    if not len(size) == len(patch) == len(stride) or any(n < 1 for n in (*patch, *stride)):
        raise ExplanationError("Patch and stride need a whole number from 1 for each axis.", "Correct the settings.")
    if any(n > s for n, s in zip(patch, size, strict=True)):
        by = " × ".join(map(str, size))
        raise ExplanationError(f"The patch is larger than what the model sees ({by}).", "Choose a smaller patch.")
    made = []
    for n, width, step in zip(size, patch, stride, strict=True):
        starts = list(range(0, n - width + 1, step))
        made.append(starts if starts[-1] == n - width else [*starts, n - width])
    if any(b - a > width for starts, width in zip(made, patch, strict=True) for a, b in itertools.pairwise(starts)):
        raise ExplanationError("The stride is larger than the patch, so parts are never covered.", "Lower the stride.")
    if (count := math.prod(map(len, made))) > MOST_PATCHES:
        raise ExplanationError(
            f"That is {count:,} patches; at most {MOST_PATCHES:,} are covered.", "Choose a larger patch or stride."
        )
    return made


def _check_model(manifest: dict[str, Any], method: str) -> None:
    if manifest["task"] not in TASKS:
        raise ExplanationError(
            f"A model for {manifest['task']} says itself where it looks.",
            "Its segmentation or its findings show what it found; maps are for classifiers.",
        )
    if method not in METHODS:
        raise ExplanationError(f"There is no method {method!r}.", f"Choose from: {', '.join(METHODS)}.")
    if method != "grad_cam":
        return
    for network in manifests.networks(manifest):
        if network["name"] in programs.FILES:
            raise ExplanationError(
                f"Grad-CAM needs the layers of the network; a {programs.TITLES[network['name']]} does not show them.",
                "Use occlusion, which needs the answers alone.",
            )
        if network["name"] == "vit":
            raise ExplanationError(
                "Grad-CAM needs the feature map of a convolutional network; a vision transformer has none.",
                "Use occlusion, which needs the answers alone.",
            )
