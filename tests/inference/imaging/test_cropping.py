"""Boxes out of volumes and exactly back; whole numbers stay whole on the way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.errors import PreprocessingError
from inference.imaging import grids, preprocessing
from studies.dicom.volume import Volume


def every_value() -> Volume:
    """All 65,536 values of 16 bits once, in an oblique grid of unequal spacing."""
    array = np.random.default_rng(0).permutation(2**16).astype(np.uint16).reshape(16, 64, 64)
    angle = np.radians(25)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    return Volume(array, (3.0, 0.7, 0.9), (-40.0, 12.5, 300.0), turn)


@given(
    start=st.tuples(*[st.integers(0, 5)] * 3), size=st.tuples(st.integers(0, 4), st.integers(0, 20), st.integers(0, 20))
)
@settings(max_examples=30, deadline=None)
def test_a_fixed_box_pasted_back_is_the_image_voxel_for_voxel_and_nothing_else(start, size):
    image = every_value()
    if not any(start) and not any(size):
        return
    steps = preprocessing.check([{"name": "crop", "start": list(start), "size": list(size)}])
    found = preprocessing.apply(image, steps[0])
    box = tuple(slice(s, s + n if n else None) for s, n in zip(start, size, strict=True))
    assert found.array.dtype == np.uint16
    assert np.array_equal(found.array, image.array[box])
    back = grids.resample_channels(found.array[None], found, image, outside=[-1])[0]
    expected = np.full(image.shape, -1.0)
    expected[box] = image.array[box]
    assert np.array_equal(back, expected)
    assert np.allclose(found.affine @ [0, 0, 0, 1], image.affine @ [*start[::-1], 1])


def test_a_box_beyond_the_image_is_refused_with_the_size_of_the_image():
    step = preprocessing.check([{"name": "crop", "start": [10, 0, 0], "size": [7, 8, 8]}])[0]
    with pytest.raises(PreprocessingError, match="16×64×64 voxels") as caught:
        preprocessing.apply(every_value(), step)
    assert "Lower “start”" in caught.value.next_step
    with pytest.raises(PreprocessingError, match="cut nothing away"):
        preprocessing.check([{"name": "crop", "size": [0, 0, 0]}])


def test_16_bits_stay_16_bits_until_a_step_that_computes_and_are_exact_after_it():
    image = every_value()
    whole = preprocessing.check(
        [
            {"name": "orient", "to": "RAS"},
            {"name": "crop_foreground", "above": -1},
            {"name": "crop_centre", "size": [1000, 1000, 1000]},
            {"name": "window", "lower": 0, "upper": 65535},
        ]
    )
    made = image
    for step in whole:
        made = preprocessing.apply(made, step)
        assert made.array.dtype == np.uint16, step["name"]
    assert len(np.unique(preprocessing.prepare(image, whole).array)) == 2**16  # no two values fell together
    signed = image.like((image.array.astype(np.int32) - 2**15).astype(np.int16))
    step = preprocessing.check([{"name": "window", "lower": -100000, "upper": 10}])[0]
    found = preprocessing.apply(signed, step).array
    assert (found.dtype, found.min(), found.max()) == (np.int16, -(2**15), 10)
    smoothed = preprocessing.apply(signed, preprocessing.check([{"name": "median"}])[0])
    assert smoothed.array.dtype == np.int16


def test_the_same_image_in_8_bits_16_bits_and_floating_point_is_prepared_alike():
    steps = preprocessing.check([{"name": "percentile"}])
    small = np.random.default_rng(1).integers(0, 255, (3, 20, 20))
    found = [preprocessing.prepare(Volume(small.astype(kind)), steps).array for kind in ("u1", "u2", "i2", "f8")]
    for other in found[1:]:
        assert np.array_equal(found[0], other)
