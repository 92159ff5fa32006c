"""Preprocessing of values: histogram standardisation, whitening, denoising, bias field, SUV. The grid never changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from inference.errors import PreprocessingError
from studies.dicom.volume import Uptake, Volume

LANDMARKS = (1.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 99.0)  # percentiles, Nyúl and Udupa 1999


def threshold(volume: Volume, *, lower: float, upper: float, outside: float) -> Volume:
    """Values outside [lower, upper] become `outside`."""
    array = volume.array.astype(np.float32)
    return volume.like(np.where((array >= lower) & (array <= upper), array, np.float32(outside)))


def suv(volume: Volume) -> Volume:
    """SUVbw in g/ml out of the stored activity of a PET image; see `studies.dicom.suv`.

    Raises `PreprocessingError` for other images and where the headers do not say what is needed.
    """
    if volume.uptake is None:
        raise PreprocessingError(
            "The image is no PET image with its headers, so it has no SUV.",
            "Choose the PET series, or leave the step suv out.",
        )
    if volume.uptake.factor is None:
        raise PreprocessingError(volume.uptake.problem, "Leave the step suv out, or correct the headers at the source.")
    made = volume.like(volume.array.astype(np.float32) * np.float32(volume.uptake.factor))
    return replace(made, uptake=Uptake(None, "The values are SUV already."))


def landmarks(arrays: Iterable[np.ndarray], *, lower: float = 0.0, upper: float = 100.0) -> list[float]:
    """The standard scale of training images: mean percentiles after each image's 1st and 99th became lower and upper.

    Nyúl, Udupa and Zhang, IEEE TMI 2000;19:143.
    """
    found = []
    for array in arrays:
        bright = array[array > array.mean()]
        if bright.size == 0:
            raise _no_histogram()
        values = np.percentile(bright, LANDMARKS)
        found.append((values - values[0]) / max(values[-1] - values[0], 1e-9) * (upper - lower) + lower)
    scale = np.mean(found, axis=0)
    # Images of few values have percentiles that coincide; a scale has to rise.
    return [float(value) for value in scale + np.arange(len(scale)) * 1e-6 * (upper - lower)]


def _no_histogram() -> PreprocessingError:
    return PreprocessingError(
        "All voxels of the image have the same value, so its histogram cannot be matched.",
        "Check the series: it may be empty or a screen capture.",
    )


def nyul(volume: Volume, *, scale: Sequence[float]) -> Volume:
    """Bring the percentiles of the foreground (brighter than the mean) to those of a standard scale, linearly between
    them and beyond the ends. scale: eleven values, from `landmarks`."""
    if not scale:
        raise PreprocessingError(
            "The step nyul has no scale yet: training learns it from the training patients.",
            "Train first; the run and its version hold the scale.",
        )
    array = volume.array.astype(np.float64)
    bright = array[array > array.mean()]
    if bright.size == 0:
        raise _no_histogram()
    have = np.percentile(bright, LANDMARKS)
    have, first = np.unique(have, return_index=True)
    want = np.asarray(scale, dtype=np.float64)[first]
    made = np.interp(array, have, want)
    if len(have) > 1:
        for end, inner, beyond in ((0, 1, array < have[0]), (-1, -2, array > have[-1])):
            slope = (want[end] - want[inner]) / (have[end] - have[inner])
            made[beyond] = want[end] + (array[beyond] - have[end]) * slope
    return volume.like(made.astype(np.float32))


def whiten(volume: Volume, *, method: str, patch: int, epsilon: float) -> Volume:
    """Remove the correlation between neighbouring pixels of each slice; the covariance of patches becomes the identity.

    Patches of `patch`² pixels that do not overlap are whitened by PCA (rotated onto the principal axes) or ZCA (turned
    back, so that they still look like the image); what the last rows and columns leave over stays centred. epsilon:
    added to the variances, as share of the largest, so that noise is not blown up.
    """
    array = volume.array.astype(np.float64)
    depth, rows, columns = array.shape
    down, across = rows // patch * patch, columns // patch * patch
    if down == 0 or across == 0:
        raise PreprocessingError(
            f"The image is smaller than a patch of {patch}×{patch} pixels.", "Lower “patch” of the step whiten."
        )
    tiles = array[:, :down, :across].reshape(depth, down // patch, patch, across // patch, patch)
    vectors = tiles.transpose(0, 1, 3, 2, 4).reshape(-1, patch * patch)
    made = whitened(vectors, method=method, epsilon=epsilon)
    tiles = made.reshape(depth, down // patch, across // patch, patch, patch).transpose(0, 1, 3, 2, 4)
    result = array - array.mean()
    result[:, :down, :across] = tiles.reshape(depth, down, across)
    return volume.like(result.astype(np.float32))


def whitened(vectors: np.ndarray, *, method: str, epsilon: float) -> np.ndarray:
    """Rows with mean 0 and, for epsilon 0, covariance identity. method: `pca` or `zca`."""
    centred = vectors - vectors.mean(axis=0)
    variances, axes = np.linalg.eigh(np.cov(centred, rowvar=False))
    variances, axes = np.maximum(variances[::-1], 0), axes[:, ::-1]
    scaled = (centred @ axes) / np.sqrt(variances + epsilon * variances[0] + 1e-12)
    return scaled if method == "pca" else scaled @ axes.T


def median(volume: Volume, *, radius: int) -> Volume:
    """Median of the (2·radius + 1)³ neighbours; axes of one voxel are left alone, and whole numbers stay whole."""
    from scipy.ndimage import median_filter

    size = [1 if n == 1 else 2 * radius + 1 for n in volume.shape]
    return volume.like(median_filter(volume.array, size=size, mode="nearest"))


def non_local_means(volume: Volume, *, strength: float, patch: int, search: int) -> Volume:
    """Mean over pixels of the slice whose surroundings look alike (Buades et al., CVPR 2005).

    strength: decay of the weight, in standard deviations of the noise, which is estimated from the image. patch and
    search: radii in pixels.
    """
    array = volume.array.astype(np.float64)
    noise = noise_of(array)
    if noise == 0:
        return volume.like(array.astype(np.float32))
    return volume.like(np.stack([_non_local(part, strength * noise, noise, patch, search) for part in array]))


def _non_local(image: np.ndarray, decay: float, noise: float, patch: int, search: int) -> np.ndarray:
    from scipy.ndimage import uniform_filter

    rows, columns = image.shape
    padded = np.pad(image, search, mode="reflect")
    total, weights = np.zeros_like(image), np.zeros_like(image)
    for dy in range(2 * search + 1):
        for dx in range(2 * search + 1):
            moved = padded[dy : dy + rows, dx : dx + columns]
            distance = uniform_filter((image - moved) ** 2, size=2 * patch + 1, mode="reflect")
            weight = np.exp(-np.maximum(distance - 2 * noise**2, 0) / decay**2)
            total += weight * moved
            weights += weight
    return (total / weights).astype(np.float32)


def noise_of(array: np.ndarray) -> float:
    """Standard deviation of Gaussian noise, from a difference that removes slopes (Immerkær, CVIU 1996;64:300)."""
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], dtype=np.float64)
    from scipy.ndimage import convolve

    rest = np.abs([convolve(part, kernel, mode="reflect") for part in np.asarray(array, dtype=np.float64)])
    return float(np.sqrt(np.pi / 2) * rest.mean() / 6)


def total_variation(volume: Volume, *, weight: float, iterations: int) -> Volume:
    """argmin ½‖u − image‖² + weight · TV(u) on each slice, by projected gradients of the dual problem (Chambolle 2004).

    weight: in the unit of the image, larger is smoother.
    """
    made = [_smooth(part, weight, iterations) for part in volume.array.astype(np.float64)]
    return volume.like(np.stack(made).astype(np.float32))


def _smooth(image: np.ndarray, weight: float, iterations: int) -> np.ndarray:
    p = np.zeros((2, *image.shape))
    for _ in range(iterations):
        slope = _gradient(_divergence(p) - image / weight)
        p = (p + 0.25 * slope) / (1 + 0.25 * np.hypot(*slope))
    return image - weight * _divergence(p)


def _gradient(u: np.ndarray) -> np.ndarray:
    made = np.zeros((2, *u.shape))
    made[0, :-1], made[1, :, :-1] = np.diff(u, axis=0), np.diff(u, axis=1)
    return made


def _divergence(p: np.ndarray) -> np.ndarray:
    """The negative adjoint of `_gradient`."""
    made = np.zeros(p.shape[1:])
    made[:-1] += p[0, :-1]
    made[1:] -= p[0, :-1]
    made[:, :-1] += p[1, :, :-1]
    made[:, 1:] -= p[1, :, :-1]
    return made


def bias_field(volume: Volume, *, shrink: int, iterations: int) -> Volume:
    """N4 (Tustison et al., IEEE TMI 2010;29:1310): the slow shading of a coil divided out of an MR image.

    shrink: the field is estimated on every so many voxels and applied to all. Values must not be negative.
    """
    import SimpleITK as sitk

    array = volume.array.astype(np.float32)
    if array.min() < 0:
        raise PreprocessingError(
            "The image has negative values, which a bias field cannot multiply.",
            "Put the step n4 before steps that centre the values.",
        )
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([float(n) for n in volume.spacing[::-1]])
    mask = sitk.OtsuThreshold(image, 0, 1, 200)
    factors = [max(1, min(shrink, n // 8)) for n in volume.shape[::-1]]
    corrector = sitk.N4BiasFieldCorrectionImageFilter()
    corrector.SetMaximumNumberOfIterations([iterations] * 3)
    try:
        corrector.Execute(sitk.Shrink(image, factors), sitk.Shrink(mask, factors))
        field = sitk.GetArrayFromImage(sitk.Exp(corrector.GetLogBiasFieldAsImage(image)))
    except RuntimeError as error:
        raise PreprocessingError(
            "The bias field cannot be estimated on this image.", "It needs four slices at least; leave n4 out."
        ) from error
    return volume.like((array / field).astype(np.float32))


def crop_mask(array: np.ndarray, *, closing: int) -> np.ndarray:
    """The body: the largest connected part that is brighter than Otsu's threshold, its holes filled."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(array.astype(np.float32))
    mask = sitk.OtsuThreshold(image, 0, 1, 200)
    if closing:
        mask = sitk.BinaryMorphologicalClosing(mask, [closing if n > 1 else 0 for n in image.GetSize()])
    parts = sitk.RelabelComponent(sitk.ConnectedComponent(mask), sortByObjectSize=True)
    return sitk.GetArrayFromImage(parts) == 1
