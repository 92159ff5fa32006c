"""Steps that change values, against constructed truth; the grid stays where it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from inference.errors import PreprocessingError
from inference.imaging import grids, intensity, preprocessing
from studies.dicom.volume import Uptake, Volume

RANDOM = np.random.default_rng(0)


def volume(array: np.ndarray, spacing=(2.0, 1.0, 0.5)) -> Volume:
    return Volume(np.asarray(array, dtype=np.float32), spacing, (10.0, -20.0, 30.0))


def run(image: Volume, name: str, **settings) -> Volume:
    made = preprocessing.prepare(image, preprocessing.check([{"name": name, **settings}]))
    if not name.startswith("crop"):
        assert made.shape == image.shape
        assert np.array_equal(made.affine, image.affine)
    return made


def test_threshold_keeps_what_lies_between():
    found = run(volume([[[-5, 0, 3, 9]]]), "threshold", lower=0, upper=5, outside=-1)
    assert found.array.ravel().tolist() == [-1, 0, 3, -1]


@pytest.mark.parametrize(("gain", "offset"), [(3.0, 50.0), (0.25, -10.0)])
def test_nyul_undoes_gain_and_offset_of_the_scanner(gain, offset):
    tissue = RANDOM.gamma(4, 20, (4, 24, 24))
    scale = intensity.landmarks([tissue, 2 * tissue + 7])
    first = run(volume(tissue), "nyul", scale=scale)
    second = run(volume(gain * tissue + offset), "nyul", scale=scale)
    assert second.array == pytest.approx(first.array, abs=0.01)
    bright = first.array[tissue > tissue.mean()]
    assert np.percentile(bright, [1, 50, 99]) == pytest.approx([scale[0], scale[5], scale[10]], abs=0.3)


@pytest.mark.parametrize("method", ["pca", "zca"])
def test_whitened_patches_have_the_identity_as_covariance(method):
    mixed = RANDOM.normal(size=(2000, 9)) @ RANDOM.normal(size=(9, 9)) + 5
    made = intensity.whitened(mixed, method=method, epsilon=0)
    assert np.cov(made, rowvar=False) == pytest.approx(np.eye(9), abs=1e-6)
    if method == "zca":  # of all whitenings the one that stays nearest to the data
        assert all(np.corrcoef(made[:, n], mixed[:, n])[0, 1] > 0 for n in range(9))
    smooth = np.cumsum(RANDOM.normal(size=(1, 90, 90)), axis=2)
    found = run(volume(smooth), "whiten", method=method, patch=3, epsilon=0).array[0]
    tiles = found.reshape(30, 3, 30, 3).transpose(0, 2, 1, 3).reshape(-1, 9)
    assert np.cov(tiles, rowvar=False) == pytest.approx(np.eye(9), abs=1e-3)


def test_median_removes_single_outliers_and_keeps_edges():
    clean = np.zeros((1, 20, 20))
    clean[:, :, 10:] = 100
    noisy = clean.copy()
    noisy[0, [3, 9, 15], [4, 15, 6]] = 999
    assert np.array_equal(run(volume(noisy), "median", radius=1).array, clean)


@pytest.mark.parametrize(
    ("name", "settings"), [("non_local_means", {"search": 4}), ("total_variation", {"weight": 15.0})]
)
def test_denoising_comes_nearer_to_the_truth_and_keeps_the_edge(name, settings):
    truth = np.zeros((1, 40, 40))
    truth[:, :, 20:] = 100
    noisy = truth + RANDOM.normal(0, 10, truth.shape)
    found = run(volume(noisy), name, **settings).array
    assert np.sqrt(((found - truth) ** 2).mean()) < 0.5 * 10
    assert found[0, :, 24:].mean() - found[0, :, :16].mean() == pytest.approx(100, abs=6)


def test_noise_is_estimated_beside_a_slope():
    slope = np.indices((2, 80, 80)).sum(0) * 3.0
    assert intensity.noise_of(slope + RANDOM.normal(0, 7, slope.shape)) == pytest.approx(7, rel=0.1)


def test_total_variation_keeps_the_mean_and_makes_a_constant_of_a_constant():
    noisy = RANDOM.normal(50, 10, (1, 30, 30))
    assert run(volume(noisy), "total_variation", weight=5.0).array.mean() == pytest.approx(noisy.mean(), abs=1e-3)
    assert run(volume(np.full((1, 9, 9), 4.0)), "total_variation", weight=5.0).array == pytest.approx(4)


def test_n4_takes_a_planted_shading_away():
    z, y, x = np.indices((24, 24, 24)) / 23 - 0.5
    ball = (z**2 + y**2 + x**2) < 0.2
    shading = np.exp(0.6 * x + 0.4 * y)
    image = np.where(ball, 100 * shading, 1.0)
    found = run(volume(image), "n4", shrink=2, iterations=20).array[ball]
    before = image[ball]
    assert found.std() / found.mean() < 0.35 * before.std() / before.mean()
    with pytest.raises(PreprocessingError, match="negative values"):
        run(volume(image - 50), "n4")


def test_the_body_is_cropped_without_what_lies_beside_it_and_the_way_back_is_exact():
    image = np.zeros((6, 40, 40))
    image[1:5, 10:30, 8:28] = 100 + RANDOM.normal(0, 1, (4, 20, 20))
    image[2, 2, 2] = 500  # a marker beside the body
    source = volume(image)
    found = run(source, "crop_body", margin=0.0)
    assert found.shape == (4, 20, 20)
    assert found.array == pytest.approx(image[1:5, 10:30, 8:28], abs=1e-3)
    back = grids.resample_channels(found.array[None], found, source, outside=[0.0])[0]
    assert np.array_equal(back[1:5, 10:30, 8:28], found.array)
    assert back.sum() == pytest.approx(found.array.sum(), rel=1e-6)


def test_the_percentile_scale_does_not_feel_gain_and_offset_and_keeps_outliers_within_0_and_1():
    tissue = RANDOM.normal(100, 15, (4, 30, 30))
    tissue[0, 0, 0] = 1e6
    first = run(volume(tissue), "percentile", lower=1, upper=99).array
    second = run(volume(7 * tissue - 300), "percentile", lower=1, upper=99).array
    assert second == pytest.approx(first, abs=1e-4)
    assert (first.min(), first.max()) == (0, 1)
    low, high = np.percentile(tissue, [1, 99])
    inside = (tissue > low) & (tissue < high)
    assert first[inside] == pytest.approx((tissue[inside] - low) / (high - low), abs=1e-4)
    free = run(volume(tissue), "percentile", lower=1, upper=99, clip="no").array
    assert free.max() > 1000


def test_suv_is_activity_times_the_factor_once_and_only_for_pet():
    image = replace(volume([[[0.0, 5000.0]]]), uptake=Uptake(2.764e-4))
    turned = grids.orient(image, to="RAS")  # other steps keep what the header said
    assert run(turned, "suv").array.ravel().tolist() == pytest.approx([1.382, 0.0])
    with pytest.raises(PreprocessingError, match="SUV already"):
        preprocessing.prepare(image, preprocessing.check([{"name": "suv"}, {"name": "suv"}]))
    with pytest.raises(PreprocessingError, match="no PET image"):
        run(volume([[[1.0]]]), "suv")
    with pytest.raises(PreprocessingError, match="weight is absent"):
        run(replace(image, uptake=Uptake(None, "The patient's weight is absent.")), "suv")


def test_nyul_without_a_scale_says_that_training_learns_it():
    with pytest.raises(PreprocessingError, match="no scale yet"):
        run(volume(RANDOM.normal(50, 9, (1, 9, 9))), "nyul")
    assert preprocessing.unfitted(preprocessing.check([{"name": "median"}, {"name": "nyul"}])) == 1


def test_a_step_that_does_not_suit_the_modality_is_named():
    steps = preprocessing.check([{"name": "orient"}, {"name": "n4"}, {"name": "window", "lower": 0, "upper": 9}])
    words = preprocessing.unsuited(steps, {"CT"})
    assert len(words) == 1
    assert words[0].startswith("Preprocessing, step 2 (n4) is meant for MR, and there are images of modality CT")
    assert [text.split(" is ")[0] for text in preprocessing.unsuited(steps, ["MR"])] == [
        "Preprocessing, step 3 (window)"
    ]


def test_a_result_that_is_no_number_is_refused():
    steps = preprocessing.check([{"name": "scale", "factor": 3e38}, {"name": "scale", "factor": 3e38}])
    with np.errstate(over="ignore"), pytest.raises(PreprocessingError, match="After preprocessing"):
        preprocessing.prepare(volume([[[1.0, 5.0]]]), steps)
