"""A CT phantom with two structures of known place, as a stored series and as label map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from portal.accounts.models import Project
from studies.dicom import segmentation
from studies.models import Origin, Series
from tests.factories import ct_datasets, store_datasets

LABELS = [{"number": 1, "name": "Left lobe"}, {"number": 2, "name": "Right lobe"}]
SLICES, ROWS, COLUMNS = 8, 96, 96


@dataclass
class Phantom:
    series: Series
    datasets: list
    label_map: np.ndarray

    def add_segmentation(self, label_map: np.ndarray, *, origin: Origin, description: str, **how) -> Series:
        algorithm = segmentation.Algorithm("Lobe U-Net", "3") if origin == Origin.MODEL else None
        made = segmentation.write(self.datasets, label_map, LABELS, algorithm=algorithm, series_description=description)
        return store_datasets(self.series.study.project, [made], origin=origin, **how)


def make_phantom(project: Project, *, rows: int = ROWS, columns: int = COLUMNS, **overrides) -> Phantom:
    """A grey body with a brighter and a darker ellipsoid; stack index 0 is the lowest slice."""
    z, y, x = np.mgrid[:SLICES, :rows, :columns].astype(float)
    y, x = y * ROWS / rows, x * COLUMNS / columns
    body = ((x - 48) / 40) ** 2 + ((y - 48) / 42) ** 2 < 1
    left = ((x - 32) / 9) ** 2 + ((y - 45) / 12) ** 2 + ((z - 4) / 3) ** 2 < 1
    right = ((x - 64) / 8) ** 2 + ((y - 52) / 9) ** 2 + ((z - 4) / 2.5) ** 2 < 1
    hounsfield = np.where(body, 40, -1000) + np.where(left, 100, 0) + np.where(right, -60, 0)
    datasets = ct_datasets(SLICES, rows=rows, columns=columns, SeriesDescription="CT phantom", **overrides)
    for k, dataset in enumerate(datasets):
        dataset.PixelData = (hounsfield[k] + 1024).astype("<i2").tobytes()
        dataset["PixelData"].VR = "OW"
    label_map = np.zeros(hounsfield.shape, np.uint8)
    label_map[left], label_map[right] = 1, 2
    return Phantom(store_datasets(project, datasets), datasets, label_map)
