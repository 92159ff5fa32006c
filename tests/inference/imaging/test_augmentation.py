"""Properties that define the augmentation."""

from __future__ import annotations

import torch

from inference.imaging.augmentation import Augmentation


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    image = torch.zeros(2, 1, 12, 16, 20)
    image[:, :, 2:5, 3:9, 4:15] = 1.0
    return image, (image > 0.5).long()


def test_nothing_set_is_the_identity():
    images, labels = batch()
    found, marks = Augmentation({})(images, labels, torch.Generator().manual_seed(0))
    assert torch.equal(found, images)
    assert torch.equal(marks, labels)


def test_flip_mirrors_the_named_axis_only_and_labels_go_along():
    images, labels = batch()
    seen = set()
    for seed in range(12):
        found, marks = Augmentation({"flip": ["x"]})(images, labels, torch.Generator().manual_seed(seed))
        for before, after, mark in zip(images, found, marks, strict=True):
            mirrored = torch.allclose(after, before.flip(-1), atol=1e-4)
            assert mirrored or torch.allclose(after, before, atol=1e-4)
            assert torch.equal((after > 0.5).long(), mark)
            seen.add(mirrored)
    assert seen == {True, False}


def test_the_generator_decides_everything():
    settings = {"rotation": 20.0, "scale": 0.2, "shift": 0.1, "deformation": 1.0, "noise": 0.2, "gamma": 0.3}
    images, labels = batch()
    first = Augmentation(settings)(images, labels, torch.Generator().manual_seed(3))
    again = Augmentation(settings)(images, labels, torch.Generator().manual_seed(3))
    other = Augmentation(settings)(images, labels, torch.Generator().manual_seed(4))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.allclose(first[0], other[0])


def test_rotation_keeps_shape_in_millimetres():
    """A rotation in an anisotropic patch must not shear: a centred ball stays the same ball."""
    z, y, x = torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in (24, 32, 40)), indexing="ij")
    ball = ((z**2 + y**2 + x**2) < 9**2).float()[None, None]
    _, marks = Augmentation({"rotation": 45.0})(ball, ball.long(), torch.Generator().manual_seed(1))
    overlap = 2 * (marks * ball.long()).sum() / (marks.sum() + ball.sum())
    assert overlap > 0.95  # nearest-neighbour labels lose a little at the surface; a shear would lose half
