"""Preprocessing against constructed geometry: physical points must keep their values through every step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.errors import PreprocessingError
from inference.imaging import cropping, grids
from inference.imaging import preprocessing as p
from studies.dicom.volume import Volume


def physical(volume: Volume) -> np.ndarray:
    """LPS coordinates in mm of every voxel, [z, y, x, 3]."""
    z, y, x = np.indices(volume.shape)
    index = np.stack([x, y, z, np.ones_like(x)], axis=-1)
    return (index @ volume.affine.T)[..., :3]


def ramp(shape=(6, 8, 10), spacing=(2.0, 1.0, 0.5), direction=None, origin=(-3.0, 7.0, 11.0)) -> Volume:
    """Values that are a linear function of the place in the patient, so that linear interpolation is exact."""
    empty = Volume(np.zeros(shape), spacing, origin, np.eye(3) if direction is None else direction)
    return empty.like(physical(empty) @ np.array([1.0, 10.0, 100.0]))


def oblique() -> np.ndarray:
    angle = np.radians(20)
    about_x = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    return about_x @ np.array([[0, 0, 1.0], [-1, 0, 0], [0, -1, 0]])


@pytest.mark.parametrize("to", ["LPS", "RAS", "SAL", "IRP"])
@pytest.mark.parametrize("direction", [np.eye(3), np.diag([-1.0, -1.0, 1.0]), oblique()])
def test_orient_keeps_every_voxel_in_its_place(to, direction):
    before = ramp(direction=direction)
    after = grids.orient(before, to=to)
    assert np.allclose(physical(after) @ [1.0, 10.0, 100.0], after.array)
    assert sorted(after.array.ravel()) == sorted(before.array.ravel())
    for column, letter in enumerate(to):
        axis, sign = p.AXES[letter]
        assert sign * np.asarray(after.direction)[axis, column] > 0.9  # within 25 degrees


def test_resample_keeps_the_field_of_view_and_linear_values():
    before = ramp()
    after = grids.resample(before, spacing=[1.0, 1.0, 1.0])
    assert after.shape == (12, 8, 5)
    inside = (slice(1, -1), slice(1, -1), slice(1, -1))  # at the edge values repeat
    expected = physical(after) @ [1.0, 10.0, 100.0]
    assert np.allclose(after.array[inside], expected[inside], atol=1e-3)
    centre = physical(before).reshape(-1, 3).mean(axis=0)
    assert np.allclose(physical(after).reshape(-1, 3).mean(axis=0), centre)


def test_a_coarser_grid_averages_instead_of_skipping():
    stripes = np.zeros((4, 4, 64), dtype=np.float32)
    stripes[..., ::2] = 1.0
    after = grids.resample(Volume(stripes), spacing=[1.0, 1.0, 4.0])
    assert np.allclose(after.array[..., 1:-1], 0.5)  # at the edge values repeat


def test_resampling_to_the_own_spacing_changes_nothing():
    before = ramp()
    assert grids.resample(before, spacing=[None, 1.0, 0.5]) is before


def test_crop_foreground_keeps_the_offset():
    array = np.zeros((9, 9, 9), dtype=np.int16)
    array[3:5, 4:6, 2:7] = 50
    before = Volume(array, (2.0, 1.0, 1.0), (10.0, 20.0, 30.0))
    after = cropping.crop_foreground(before, above=10, margin=2)
    assert after.shape == (4, 6, 9)  # 2 mm are one slice and two voxels in the plane
    assert after.origin == (10.0 + 0, 20.0 + 2, 30.0 + 2 * 2)


def test_crop_of_an_empty_image_says_so():
    with pytest.raises(PreprocessingError, match="no foreground"):
        cropping.crop_foreground(Volume(np.zeros((3, 3, 3))), above=0, margin=0)


def test_zscore_and_range():
    volume = Volume(np.array([[[0.0, 2.0, 4.0, 6.0]]]))
    scored = p.normalise(volume, method="zscore", region="nonzero").array
    assert np.allclose(scored[0, 0, 1:], [-1.2247449, 0, 1.2247449])  # (2, 4, 6): mean 4, sd 1.63299
    assert np.allclose(p.normalise(volume, method="range", region="all").array, [[[0, 1 / 3, 2 / 3, 1]]])


def test_a_flat_image_cannot_be_normalised():
    with pytest.raises(PreprocessingError, match="same value"):
        p.normalise(Volume(np.full((2, 2, 2), 7)), method="zscore", region="all")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_refused(value):
    array = np.ones((2, 2, 2))
    array[1, 1, 1] = value
    with pytest.raises(PreprocessingError, match="no numbers"):
        p.prepare(Volume(array), [])


def test_window_and_percentile():
    volume = Volume(np.arange(101, dtype=np.int16).reshape(1, 1, 101) * 10)
    assert p.window(volume, lower=100, upper=200).array[0, 0, [0, 15, 100]].tolist() == [100, 150, 200]
    clipped = p.clip_percentile(volume, lower=5, upper=95).array
    assert (clipped.min(), clipped.max()) == (50, 950)


STEPS = p.check(
    [
        {"name": "orient", "to": "RAS"},
        {"name": "crop_foreground", "above": 0},
        {"name": "normalise", "method": "range"},
    ]
)


@given(
    seed=st.integers(0, 10_000), flips=st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3), axes=st.permutations(range(3))
)
@settings(max_examples=40, deadline=None)
def test_without_resampling_the_way_back_is_exact(seed, flips, axes):
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(3, 9, size=3))
    array = random.integers(0, 4, size=shape).astype(np.int16)
    array[0, 0, 0], array[-1, -1, -1] = 3, 0
    volume = Volume(array, (1.5, 0.7, 0.9), (4.0, -2.0, 8.0), np.eye(3)[:, axes] * np.array(flips))
    prepared = p.prepare(volume, STEPS)
    channels = np.stack([prepared.array == n / 3 for n in range(4)]).astype(np.float32)
    channels[0] = np.isclose(prepared.array, 0)
    for n in range(1, 4):
        channels[n] = np.isclose(prepared.array, n / 3)
    back = grids.resample_channels(channels, prepared, volume, outside=[1, 0, 0, 0])
    assert np.array_equal(back.argmax(axis=0), array)


def test_a_ball_comes_back_after_resampling():
    z, y, x = np.indices((20, 40, 44))
    ball = ((z - 10) * 2.0) ** 2 + (y - 20.0) ** 2 + (x - 22.0) ** 2 < 14**2
    volume = Volume(ball.astype(np.uint8), (2.0, 1.0, 1.0))
    fine = grids.resample(volume, spacing=[1.0, 1.0, 1.0])
    labels = grids.resample_labels(volume, fine)
    assert labels.shape == fine.shape
    assert labels.sum() * 1.0 == pytest.approx(4 / 3 * np.pi * 14**3, rel=0.02)  # mm³ of the ball
    back = grids.resample_labels(fine.like(labels), volume)
    assert 2 * (back.astype(bool) & ball).sum() / (back.astype(bool).sum() + ball.sum()) > 0.98


def test_labels_without_foreground_and_outside():
    small = Volume(np.ones((2, 2, 2), dtype=np.uint8), origin=(2.0, 2.0, 2.0))
    large = Volume(np.zeros((6, 6, 6)))
    found = grids.resample_labels(small, large)
    assert found.sum() == 8
    assert found[2:4, 2:4, 2:4].all()
    assert not grids.resample_labels(large, small).any()


def test_a_number_as_large_as_the_database_gives_it_back_is_checked_like_any_other():
    assert p.check([{"name": "scale", "factor": 10**36}])[0]["factor"] == 1e36
    for value in (10**400, float("inf"), float("nan")):
        with pytest.raises(PreprocessingError, match="factor"):
            p.check([{"name": "scale", "factor": value}])


def test_rotated_grids_are_refused():
    with pytest.raises(PreprocessingError, match="rotated"):
        grids.resample_channels(np.zeros((1, 6, 8, 10)), ramp(), ramp(direction=oblique()), outside=[0])


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"name": "sharpen"}, "no step 'sharpen'.*orient"),
        ({"name": "resample"}, r"step 1 \(resample\), spacing"),
        ({"name": "resample", "spacing": [1, -1, 1]}, "three positive numbers"),
        ({"name": "orient", "to": "LLS"}, "three letters"),
        ({"name": "window", "lower": 5, "upper": 5}, "“lower” must be smaller"),
        ({"name": "normalise", "method": "magic"}, "one of zscore, range"),
        ({"name": "normalise", "sigma": 1}, "unknown setting 'sigma'.*method, region"),
        ({"name": "clip_percentile", "upper": 101}, "from 0 to 100"),
    ],
)
def test_wrong_steps_say_what_is_wrong_and_allowed(step, words):
    with pytest.raises(PreprocessingError, match=words):
        p.check([step])


def test_check_writes_defaults_out_and_is_idempotent():
    steps = p.check([{"name": "resample", "spacing": [0, 1, 1]}, {"name": "normalise"}])
    assert steps == [
        {"name": "resample", "spacing": [None, 1.0, 1.0]},
        {"name": "normalise", "method": "zscore", "region": "all", "zeros": "change"},
    ]
    assert p.check(steps) == steps
