"""What a network takes in training, as numbers from which the memory for any patch and batch follows without torch.

`python -m inference.networks.footprint` finds them in a process of its own: it reads a question (JSON) from its
standard input and writes the footprint, or `{"problem": …}`, to its standard output.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

FLOAT = 4  # bytes


def training_bytes(weights: int, activations: int) -> int:
    """Bytes for weights, gradients, two optimiser moments, averaged weights, activations and their gradients, float32.

    activations: elements of all outputs of the layers for one batch.
    """
    largest_gradients = activations  # kept alive while the backward pass walks back
    return FLOAT * (5 * weights + activations + largest_gradients // 2)


@dataclass(frozen=True)
class Footprint:
    """weights: parameters. points: voxels of a patch, and elements of all activations for one such patch; two points
    where the network takes patches of any size, one where its size is fixed."""

    weights: int
    points: tuple[tuple[int, int], ...]

    def covers(self, patch: Sequence[int]) -> bool:
        return len(self.points) > 1 or math.prod(patch) == self.points[0][0]

    def activations(self, patch: Sequence[int]) -> int:
        """For one patch. A layer answers every voxel, or looks at a fixed size: between and beyond the two points the
        number follows a straight line."""
        voxels, (first, fewer) = math.prod(patch), self.points[0]
        if voxels == first:
            return fewer
        second, more = self.points[1]
        return max(0, round(fewer + (more - fewer) * (voxels - first) / (second - first)))

    def training_bytes(self, *, batch: int, patch: Sequence[int]) -> int:
        return training_bytes(self.weights, batch * self.activations(patch))

    def as_dict(self) -> dict[str, Any]:
        return {"weights": self.weights, "points": [list(point) for point in self.points]}

    @classmethod
    def of_dict(cls, found: dict[str, Any]) -> Footprint:
        return cls(int(found["weights"]), tuple((int(voxels), int(count)) for voxels, count in found["points"]))


def measure(spec: dict[str, Any], *, outputs: int, patch: Sequence[int]) -> Footprint:
    """Of the section `network` of a configuration, looked at with `patch` (z, y, x) and with one of twice its size.

    On torch's meta device, so nothing is computed. Raises what torch or the network raises where it does not take the
    patch.
    """
    from inference.networks.memory import activations, without_weights

    network = without_weights(_built(spec, outputs))
    axes = list(patch)[3 - spec["dimensions"] :]

    def point(sizes: list[int]) -> tuple[int, int]:
        # Of two, because some layers refuse a single value for each channel.
        return math.prod(sizes), activations(network, batch=2, in_channels=1, patch=sizes) // 2

    points = [point(axes)]
    with contextlib.suppress(RuntimeError, ValueError):  # its size is fixed
        points.append(point([2 * size for size in axes]))
    return Footprint(sum(parameter.numel() for parameter in network.parameters()), tuple(points))


def _built(spec: dict[str, Any], outputs: int) -> Any:
    import torch

    from inference.networks import table

    made = {
        "dimensions": spec["dimensions"], "in_channels": 1, "out_channels": outputs, "parameters": spec["parameters"]
    }  # fmt: skip
    try:
        with torch.device("meta"):
            return table.build(spec["name"], **made)
    except (RuntimeError, NotImplementedError):  # one that reads values while it is made
        return table.build(spec["name"], **made)


def main() -> None:
    asked = json.load(sys.stdin)
    try:
        found = measure(asked["network"], outputs=asked["outputs"], patch=asked["patch"]).as_dict()
    except Exception as error:  # whatever a network says of the patch is the answer
        found = {"problem": str(error).split("\n")[0][:300] or type(error).__name__}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
