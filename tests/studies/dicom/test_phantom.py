from __future__ import annotations

import numpy as np
import pytest

from studies.dicom import phantom, segmentation
from studies.dicom.volume import from_datasets


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_label_maps_hold_the_volumes_of_their_formulas(modality):
    for number in range(6):
        made = phantom.make(number, modality=modality)
        voxel = made.volume.voxel_volume_ml
        lesions = sum(lesion.volume_ml for lesion in made.lesions)
        assert (made.label_map == 2).sum() * voxel == pytest.approx(lesions, rel=0.12, abs=0.4)
        assert (made.label_map >= 1).sum() * voxel == pytest.approx(made.liver.volume_ml, rel=0.03)


def test_some_cases_have_no_lesion_and_others_have():
    counts = [len(phantom.make(number).lesions) for number in range(20)]
    assert sum(count == 0 for count in counts) == 8  # two of five
    assert {1, 2, 3} <= set(counts)
    assert len(phantom.make(3, lesions=2).lesions) == 2


def test_tissues_have_their_hounsfield_units():
    made = phantom.make(2, modality="CT")
    values, labels = made.volume.array, made.label_map
    core = made.lesions[0].level(_centres(made)) < 0.6
    assert values[core].mean() == pytest.approx(made.lesion_values[0], abs=10)
    assert np.median(values[labels == 1]) == pytest.approx(phantom.TISSUES["CT"]["liver"], abs=6)
    assert np.median(values[0, :3, :3]) == pytest.approx(-1000, abs=10)


def _centres(made):
    z, y, x = np.meshgrid(*(np.arange(n) for n in made.volume.shape), indexing="ij")
    return np.stack([x, y, z, np.ones_like(x)], -1) @ made.volume.affine.T[:, :3]


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_every_file_says_that_it_is_synthetic(modality):
    made = phantom.make(7, modality=modality)
    datasets = made.datasets()
    for dataset in datasets:
        assert dataset.SyntheticData == "YES"
        assert str(dataset.PatientName).startswith("Phantom^")
        assert "ynthetic" in dataset.SeriesDescription
        assert "Synthetic" in dataset.ImageComments
    read = from_datasets(datasets)
    np.testing.assert_array_equal(read.array, made.volume.array)
    np.testing.assert_allclose(read.affine, made.volume.affine)
    mask = segmentation.write(datasets, made.label_map, phantom.LABELS)
    np.testing.assert_array_equal(segmentation.read(mask, read), made.label_map)


def test_the_same_number_gives_the_same_phantom_and_another_number_another_one():
    first, again, other = phantom.make(4), phantom.make(4), phantom.make(5)
    assert first.datasets() == again.datasets()
    assert not np.array_equal(first.volume.array, other.volume.array)
    assert first.identity.study_instance_uid != other.identity.study_instance_uid


def test_a_hurried_drawing_is_close_to_the_truth_and_closer_with_less_haste():
    truth = phantom.make(2).label_map

    def dice(strength):
        drawn = phantom.perturbed(truth, seed=5, strength=strength)
        return 2 * ((drawn > 0) & (truth > 0)).sum() / ((drawn > 0).sum() + (truth > 0).sum())

    assert 0.75 < dice(2.0) < dice(0.5) < 1
    np.testing.assert_array_equal(phantom.perturbed(truth, seed=5), phantom.perturbed(truth, seed=5))
