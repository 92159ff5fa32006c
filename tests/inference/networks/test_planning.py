"""The self-configuring U-Net against plans that nnU-Net published, and by its own rules."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from inference.errors import NetworkError
from inference.networks import planning, table
from inference.networks.planning import Fingerprint


def test_two_stages_are_refused_in_words():
    with pytest.raises(NetworkError, match="three stages at least"):
        table.check("nnunet", {"strides": [[1, 1, 1], [2, 2, 2]], "kernels": [[3, 3, 3]] * 2})


def test_hippocampus_gets_the_published_plan():
    """Isensee et al. 2021, supplement: 40×56×40 voxels of 1 mm, three halvings on every axis."""
    plan = planning.plan(Fingerprint([(36, 50, 35)] * 200, [(1, 1, 1)] * 200), outputs=3, bytes_available=4 << 30)
    assert (plan.spacing, plan.patch) == ([1.0, 1.0, 1.0], [40, 56, 40])
    assert plan.parameters["strides"] == [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]]
    assert plan.batch_size >= 2


def test_thick_slices_are_halved_late_and_filtered_flat():
    """As published for the prostate (Task 05): 20×320×256 voxels of 3.6×0.62×0.62 mm."""
    kernels, strides, patch = planning.topology([20, 320, 256], [3.6, 0.62, 0.62])
    assert patch == [20, 320, 256]
    assert strides == [[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2], [1, 2, 2]]
    assert kernels == [[1, 3, 3], [1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]]


def test_spacing_is_the_median_and_finer_where_slices_are_far_apart():
    spacings = [(5.0, 0.8, 0.8)] * 8 + [(1.0, 0.7, 0.7)] * 2
    assert planning.target_spacing(Fingerprint([(90, 512, 512)] * 10, spacings)) == pytest.approx([1.0, 0.8, 0.8])
    assert planning.target_spacing(Fingerprint([(90, 90, 90)] * 3, [(1, 1, 1), (2, 1, 1), (2, 1, 1)])) == (
        pytest.approx([2, 1, 1])
    )


def test_less_memory_makes_the_patch_smaller_and_one_slice_makes_it_flat():
    fingerprint = Fingerprint([(64, 64, 64)] * 50, [(1, 1, 1)] * 50)
    much = planning.plan(fingerprint, outputs=2, bytes_available=2 << 30, features=8)
    little = planning.plan(fingerprint, outputs=2, bytes_available=40 << 20, features=8)
    assert np.prod(little.patch) < np.prod(much.patch)
    flat = planning.plan(Fingerprint([(1, 64, 48)] * 50, [(1, 1, 1)] * 50), outputs=2, bytes_available=1 << 30)
    assert flat.patch == [1, 64, 48]
    network = table.build("nnunet", dimensions=2, in_channels=1, out_channels=2, parameters=flat.parameters)
    assert network(torch.zeros(1, 1, 64, 48)).shape == (1, 2, 64, 48)
