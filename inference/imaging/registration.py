"""One image on the grid of another: by geometry in one frame of reference, by rigid registration between two.

Registration maximises Mattes' mutual information over three resolutions (SimpleITK), so the images may be of different
contrast or modality.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from inference.errors import PreprocessingError
from studies.dicom.volume import Volume

if TYPE_CHECKING:
    import SimpleITK as sitk

BINS = 32
SHARE, SEED = 0.2, 1  # of the voxels, drawn with a fixed seed so that the same images give the same transform
SMALLEST = 4  # voxels on each axis from which there is something to align
LEVELS = ((4, 2.0), (2, 1.0), (1, 0.0))  # shrink factor, smoothing in voxels


def on_grid(moving: Volume, fixed: Volume, transform: np.ndarray | None = None) -> Volume:
    """`moving` on the grid of `fixed`, float32, linear interpolation; what lies outside is its lowest value.

    transform: 4×4, LPS mm of `fixed` to LPS mm of `moving`; identity where None. Voxels that coincide keep their
    values.
    """
    if transform is None and _same_grid(moving, fixed):
        return _placed(moving, moving.array.astype(np.float32), fixed)
    import SimpleITK as sitk

    lowest = float(moving.array.min())
    place = sitk.AffineTransform(3)
    if transform is not None:
        place.SetMatrix(np.asarray(transform, dtype=float)[:3, :3].ravel().tolist())
        place.SetTranslation(np.asarray(transform, dtype=float)[:3, 3].tolist())
    found = sitk.Resample(_image(_thick(moving)), _image(fixed, empty=True), place, sitk.sitkLinear, lowest)
    return _placed(moving, sitk.GetArrayFromImage(found), fixed)


def rigid(moving: Volume, fixed: Volume) -> np.ndarray:
    """The rotation and translation that lay `moving` over `fixed`: 4×4, LPS mm of `fixed` to LPS mm of `moving`, as
    `on_grid` takes it.

    Raises `PreprocessingError` where the images are too small or show nothing in common.
    """
    import SimpleITK as sitk

    for volume in (moving, fixed):
        if min(volume.shape) < SMALLEST:
            raise PreprocessingError(
                "An image has too few slices or pixels to be aligned with the other one.",
                "Choose series that cover the same region, each with several slices.",
            )
    here, there = _image(fixed), _image(moving)
    start = sitk.CenteredTransformInitializer(
        here, there, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.GEOMETRY
    )
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(SHARE, SEED)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=1.0, minStep=1e-4, numberOfIterations=200, relaxationFactor=0.6
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([_fitting(level, fixed) for level, _ in LEVELS])
    method.SetSmoothingSigmasPerLevel([sigma for _, sigma in LEVELS])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    method.SetInitialTransform(start, inPlace=False)
    try:
        found = method.Execute(here, there)
    except RuntimeError as error:  # ITK's own words name memory addresses and files
        raise PreprocessingError(
            "The images could not be aligned: they do not overlap, or show too little in common.",
            "Check that both series show the same region of the patient.",
        ) from error
    return _matrix(found)


def _matrix(transform: Any) -> np.ndarray:
    """The affine matrix of a transform, read off where it takes four points."""
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    matrix = np.eye(4)
    for axis in range(3):
        matrix[:3, axis] = np.array(transform.TransformPoint(tuple(np.eye(3)[axis].tolist()))) - origin
    matrix[:3, 3] = origin
    return matrix


def _fitting(shrink: int, volume: Volume) -> int:
    """A shrink factor that leaves enough slices."""
    return max(1, min(shrink, min(volume.shape) // SMALLEST))


def _same_grid(one: Volume, other: Volume) -> bool:
    if one.shape != other.shape:
        return False
    difference = np.abs(np.linalg.inv(one.affine) @ other.affine - np.eye(4))
    reach = np.array([*one.shape[::-1], 1.0])
    return bool((difference[:3] @ reach).max() < 0.01)  # of a voxel, at the far corner


def _placed(moving: Volume, array: np.ndarray, fixed: Volume) -> Volume:
    """Values of `moving` in the place of `fixed`; whatever else is known of `moving` stays."""
    return replace(moving, array=array, spacing=fixed.spacing, origin=fixed.origin, direction=fixed.direction)


def _thick(volume: Volume) -> Volume:
    """A single slice twice, as interpolation needs two; the second lies where its thickness ends."""
    if volume.shape[0] > 1:
        return volume
    return replace(volume, array=np.repeat(volume.array, 2, axis=0))


def _image(volume: Volume, *, empty: bool = False) -> sitk.Image:
    import SimpleITK as sitk

    array = np.zeros(volume.shape, dtype=np.uint8) if empty else volume.array.astype(np.float32)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(tuple(float(value) for value in volume.spacing[::-1]))
    image.SetOrigin(tuple(float(value) for value in volume.origin))
    image.SetDirection(np.asarray(volume.direction, dtype=float).ravel().tolist())
    return image
