"""Synthetic abdomens with known truth: made from formulas, so every voxel's label is exact.

A body of fat and muscle with a spine, a liver, and in some cases lesions in the liver. Labels follow from geometry: a
voxel belongs to an ellipsoid where its centre lies inside. Grey values get tissue means, texture, blur at borders by
partial volume, and noise; MR also a smooth bias field. Nothing is taken from a person, and every object says so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from scipy.ndimage import distance_transform_edt, gaussian_filter

from studies.dicom.series import Identity, encode, image_series
from studies.dicom.volume import Volume

LABELS = [
    {"number": 1, "name": "Liver"},
    {"number": 2, "name": "Liver lesion"},
]
SHAPE = (24, 64, 64)  # z, y, x
SPACING = (6.0, 4.0, 4.0)  # mm
COMMENT = "Synthetic phantom with known truth; generated, not acquired from a person"

# Mean values of tissues: HU for CT, arbitrary units for MR (T2-weighted: lesions bright).
TISSUES = {
    "CT": {"air": -1000, "fat": -100, "muscle": 50, "bone": 450, "liver": 115, "lesion": 50, "noise": 12},
    "MR": {"air": 10, "fat": 520, "muscle": 180, "bone": 90, "liver": 260, "lesion": 470, "noise": 22},
}


@dataclass(frozen=True)
class Ellipsoid:
    """Centre (x, y, z) in LPS mm, radii in mm along the axes after a turn about z by `angle` radians."""

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    angle: float = 0.0

    def level(self, points: np.ndarray) -> np.ndarray:
        """(…, 3) LPS mm → below 1 inside, 1 on the surface."""
        x, y, z = np.moveaxis(points - np.array(self.centre), -1, 0)
        c, s = np.cos(self.angle), np.sin(self.angle)
        a, b, d = self.radii
        return np.sqrt(((c * x + s * y) / a) ** 2 + ((c * y - s * x) / b) ** 2 + (z / d) ** 2)

    @property
    def volume_ml(self) -> float:
        a, b, d = self.radii
        return 4 / 3 * np.pi * a * b * d / 1000


@dataclass(frozen=True)
class Phantom:
    """Image, label map on its grid, and the formulas behind both."""

    number: int
    modality: str
    volume: Volume
    label_map: np.ndarray
    liver: Ellipsoid
    lesions: tuple[Ellipsoid, ...]
    lesion_values: tuple[float, ...]  # mean grey value of each lesion: some hardly differ from the liver

    @property
    def identity(self) -> Identity:
        return Identity(
            patient_id=f"PHANTOM-{self.modality}-{self.number:04d}",
            patient_name=f"Phantom^{self.modality} {self.number:04d}",
            key=f"phantom/1/{self.modality}/{self.number}",
            study_date="20260101",
            study_description="Synthetic abdomen phantom",
            series_description=f"{self.modality} phantom, synthetic",
            body_part_examined="ABDOMEN",
            image_comments=COMMENT,
            synthetic=True,
        )

    def datasets(self) -> list[Dataset]:
        """The images as DICOM; the same phantom gives the same objects every time."""
        return image_series(encode(self.volume.array), self.volume.affine, self.identity, modality=self.modality)


def make(number: int, *, modality: str = "CT", lesions: int | None = None) -> Phantom:
    """Phantom `number`: the same number and modality give the same phantom.

    lesions: how many; without it two of five phantoms have none and the others have one to three.
    """
    random = np.random.default_rng([number, sum(modality.encode())])
    tissue = TISSUES[modality]
    origin = tuple(-(n - 1) / 2 * step for n, step in zip(SHAPE[::-1], SPACING[::-1], strict=True))
    volume = Volume(np.zeros(SHAPE, np.int16), SPACING, origin)  # type: ignore[arg-type]
    z, y, x = np.meshgrid(*(np.arange(n, dtype=float) for n in SHAPE), indexing="ij")
    points = np.stack([x, y, z, np.ones_like(x)], -1) @ volume.affine.T[:, :3]

    body = Ellipsoid((0, 0, 0), (108 + 8 * random.random(), 84 + 8 * random.random(), 400))
    inner = Ellipsoid((0, 0, 0), tuple(radius - 11 for radius in body.radii))  # type: ignore[arg-type]
    spine = Ellipsoid((0, body.radii[1] - 38, 0), (18, 16, 400))
    # LPS: the patient's right is −x. The liver lies there, toward the front.
    liver = Ellipsoid(
        (-34 + 5 * random.normal(), -8 + 4 * random.normal(), 5 * random.normal()),
        (48 + 6 * random.random(), 38 + 6 * random.random(), 42 + 8 * random.random()),
        angle=float(random.uniform(-0.4, 0.1)),
    )
    wanted = (0 if number % 5 in (1, 3) else int(random.integers(1, 4))) if lesions is None else lesions
    placed = _place_lesions(random, liver, wanted)
    faint = random.uniform(0.35, 1, len(placed))  # share of the full contrast
    lesion_values = tuple(float(tissue["liver"] + share * (tissue["lesion"] - tissue["liver"])) for share in faint)

    values = np.full(SHAPE, float(tissue["air"]))
    shapes: list[tuple[Ellipsoid, float, int]] = [
        (body, tissue["fat"], 0),
        (inner, tissue["muscle"], 0),
        (spine, tissue["bone"], 0),
    ]
    shapes += [(liver, tissue["liver"], 1)]
    shapes += [(lesion, value, 2) for lesion, value in zip(placed, lesion_values, strict=True)]
    label_map = np.zeros(SHAPE, np.uint8)
    for shape, value, label in shapes:
        level = shape.level(points)
        # Partial volume: over about one voxel at the border the value changes linearly.
        share = np.clip((1 - level) * min(shape.radii[:2]) / SPACING[2] + 0.5, 0, 1)
        values += share * (value - values)
        if label:
            label_map[level <= 1] = label
    values += _texture(random, (2, 3, 3)) * tissue["noise"] * 0.6 * (values > tissue["air"] + 200)
    if modality == "MR":
        values *= 1 + 0.12 * _texture(random, (8, 20, 20))
    values += _texture(random, (0.3, 0.6, 0.6)) * tissue["noise"]
    low = -1024 if modality == "CT" else 0
    array = np.clip(np.rint(values), low, 3000).astype(np.int16)
    return Phantom(number, modality, volume.like(array), label_map, liver, placed, lesion_values)


def perturbed(label_map: np.ndarray, seed: int, *, strength: float = 1.0) -> np.ndarray:
    """A label map as a hurried reader might draw it: borders moved by smooth noise, structure by structure.

    strength: standard deviation of the border's movement in voxels. Used for demonstration readers only; whoever stores
    such a drawing must say that it is synthetic.
    """
    random = np.random.default_rng(seed)
    drawn = np.zeros_like(label_map)
    for number in range(1, int(label_map.max()) + 1):
        inside = label_map >= number  # a lesion lies in the liver: nested, so that lesions keep their place
        if not inside.any():
            continue
        distance = distance_transform_edt(inside) - distance_transform_edt(~inside)
        noise = gaussian_filter(random.normal(size=label_map.shape), (1, 2.5, 2.5))
        noise *= strength / noise.std()
        drawn[distance + noise > 0.15 * random.normal()] = number
    return drawn


def _place_lesions(random: np.random.Generator, liver: Ellipsoid, wanted: int) -> tuple[Ellipsoid, ...]:
    """Lesions inside the liver that do not touch each other."""
    placed: list[Ellipsoid] = []
    for _ in range(400):
        if len(placed) == wanted:
            break
        radius = float(random.uniform(8, 17))
        direction = random.normal(size=3)
        direction *= random.random() ** (1 / 3) / np.linalg.norm(direction)
        c, s = np.cos(liver.angle), np.sin(liver.angle)
        room = np.array(liver.radii) - radius - 4
        u, v, w = direction * room
        centre = np.array(liver.centre) + np.array([c * u - s * v, s * u + c * v, w])
        radii = radius * random.uniform(0.85, 1.15, 3)
        if all(np.linalg.norm(centre - other.centre) > radius * 1.15 + max(other.radii) + 4 for other in placed):
            placed.append(Ellipsoid(tuple(centre.tolist()), tuple(radii.tolist())))
    return tuple(placed)


def _texture(random: np.random.Generator, sigma: tuple[float, float, float]) -> np.ndarray:
    """Smooth noise with standard deviation 1."""
    noise = gaussian_filter(random.normal(size=SHAPE), sigma)
    return noise / noise.std()
