"""What the preview tells of each step, and its pictures, against constructed images."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from inference.imaging import preprocessing, preview
from studies.dicom.volume import Volume


def body() -> Volume:
    array = np.zeros((5, 20, 30), dtype=np.int16)
    array[1:4, 5:15, 10:25] = 1000
    return Volume(array, (3.0, 1.0, 1.0), (5.0, 6.0, 7.0))


def test_every_stage_tells_shape_spacing_numbers_and_values():
    steps = preprocessing.check(
        [
            {"name": "crop_foreground", "above": 500},
            {"name": "resample", "spacing": [3, 2, 1]},
            {"name": "scale", "factor": 0.001},
        ]
    )
    ticks: list[int] = []
    found, prepared, problem = preview.stages(body(), steps, ticks.append)
    assert problem is None
    assert ticks == [0, 1, 2]
    assert [stage.name for stage in found] == ["stored image", "crop_foreground", "resample", "scale"]
    assert [stage.shape for stage in found] == [[5, 20, 30], [3, 10, 15], [3, 5, 15], [3, 5, 15]]
    assert found[2].spacing == [3.0, 2.0, 1.0]
    assert [stage.kind for stage in found] == ["int16", "int16", "float32", "float32"]
    assert (found[0].low, found[0].high, found[0].mean) == (0, 1000, pytest.approx(1000 * 450 / 3000))
    assert (found[3].low, found[3].high) == (1, 1)
    assert sum(found[0].counts) == 3000
    assert found[0].counts[-1] == 450
    assert prepared.shape == (3, 5, 15)


def test_a_step_that_cannot_be_done_stops_with_words_and_the_stages_before_it_stay():
    steps = preprocessing.check([{"name": "median"}, {"name": "crop_foreground", "above": 5000}, {"name": "normalise"}])
    found, _, problem = preview.stages(body(), steps)
    assert [stage.name for stage in found] == ["stored image", "median"]
    assert problem is not None
    assert problem.cause.startswith("Step 2 (crop_foreground): No voxel is brighter than 5000")
    assert "lower “above”" in problem.next_step


def test_the_prepared_image_lies_on_the_stored_grid_again_and_what_was_cut_away_is_empty():
    image = body()
    steps = preprocessing.check([{"name": "orient", "to": "RAS"}, {"name": "crop_foreground", "above": 500}])
    _, prepared, _ = preview.stages(image, steps)
    shown = preview.on_slice(prepared, image, 2)
    assert shown.shape == (20, 30)
    assert np.isnan(shown).sum() == 600 - 150
    assert (shown[5:15, 10:25] == 1000).all()
    assert np.isnan(preview.on_slice(prepared, image, 0)).all()


def test_a_picture_runs_from_black_to_white_and_is_transparent_where_nothing_is():
    values = np.array([[0.0, 50.0, 100.0, 300.0], [np.nan, -5.0, 25.0, np.nan]])
    image = Image.open(io.BytesIO(preview.picture(values, (0, 100))))
    assert image.mode == "LA"
    grey, alpha = np.asarray(image)[..., 0], np.asarray(image)[..., 1]
    assert grey[0].tolist() == [0, 128, 255, 255]
    assert alpha.tolist() == [[255] * 4, [0, 255, 255, 0]]
    large = Image.open(io.BytesIO(preview.picture(np.zeros((2048, 1024)), (0, 1))))
    assert (large.mode, large.size) == ("L", (256, 512))


def test_slices_are_spread_evenly_and_never_repeat():
    assert preview.chosen_slices(3, 32) == [0, 1, 2]
    chosen = preview.chosen_slices(300, 32)
    assert len(chosen) == 32
    assert (chosen[0], chosen[-1]) == (0, 299)
    assert max(np.diff(chosen)) - min(np.diff(chosen)) <= 1
