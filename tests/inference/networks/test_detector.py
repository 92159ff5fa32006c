"""The one-stage detector: which cell answers for which box, decoding, and that it learns to find squares and cubes."""

from __future__ import annotations

import pytest
import torch

from inference.networks import detector, table


@pytest.fixture(autouse=True)
def _one_thread():
    """Maps this small cost more in threads that wait for each other than in arithmetic."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build(dimensions: int) -> torch.nn.Module:
    torch.manual_seed(0)
    return table.build(
        "detector",
        dimensions=dimensions,
        in_channels=1,
        out_channels=2,
        parameters={"channels": [8, 16, 16, 16], "pyramid": 16, "depth": 1},
    )


def test_the_smallest_box_around_a_cell_owns_it_but_not_at_the_corners():
    centres = torch.tensor([[10.0, 10.0], [26.0, 26.0], [30.0, 30.0], [60.0, 60.0]])
    boxes = torch.tensor([[0.0, 0, 32, 32], [5.0, 5, 15, 15]])
    levels = torch.zeros(4, dtype=torch.long)
    # (26, 26) lies within the circle of radius 16 about (16, 16), (30, 30) in its box alone.
    assert detector.assign(centres, levels, boxes).tolist() == [1, 0, -1, -1]
    assert detector.assign(centres, levels, boxes[:0]).tolist() == [-1, -1, -1, -1]


def test_a_lesion_smaller_than_a_cell_is_learned_by_the_nearest_one():
    answers = [torch.zeros(1, 1 + 6 + 1, *[16 // stride] * 3) for stride in detector.STRIDES]
    centres, levels = detector.cells(answers)
    boxes = torch.tensor([[3.5, 7.5, 7.6, 4.5, 8.5, 8.4], [0.0, 0, 0, 1, 1, 1], [12.0, 12, 12, 12, 12, 12]])
    owners = detector.assign(centres, levels, boxes)
    for number, middle in enumerate(([4.0, 8, 8], [0.5, 0.5, 0.5], [12.0, 12, 12])):
        mine = torch.nonzero(owners == number)[:, 0]
        assert len(mine) == 1
        assert levels[mine[0]] == 0
        assert (centres[mine[0]] - torch.tensor(middle)).abs().max() <= 2
    answers[0].requires_grad_()
    value = detector.loss(answers, [boxes], [torch.zeros(3, dtype=torch.long)])
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(answers[0].grad).all()


def test_images_without_a_lesion_do_not_outweigh_those_with_one():
    """The same answers; without any lesion each cell is wrong by as much, and the loss stays of the same size."""
    torch.manual_seed(0)
    answers = [torch.randn(2, 1 + 6 + 1, *[32 // stride] * 3) for stride in detector.STRIDES]
    for level in answers:
        level[:, 1:7] = level[:, 1:7].abs() + 1
    classes = torch.zeros(1, dtype=torch.long)
    none, no_class = torch.zeros(0, 6), torch.zeros(0, dtype=torch.long)
    large = torch.tensor([[4.0, 4, 4, 28, 28, 28]])
    with_one = detector.loss(answers, [large, none], [classes, no_class])
    without = detector.loss(answers, [none, none], [no_class, no_class])
    assert without < 10 * with_one


@pytest.mark.parametrize("dimensions", [2, 3])
def test_answers_written_by_hand_decode_to_the_boxes(dimensions):
    size = [32] * dimensions
    empty = [torch.full((1, 2 + 2 * dimensions + 1, *[32 // s] * dimensions), -20.0) for s in detector.STRIDES]
    place = (0, slice(None), *[2] * dimensions)  # centre at pixel 10 of the finest map
    empty[0][place] = torch.tensor([-20.0, 5.0, *[3.0] * dimensions, *[6.0] * dimensions, 5.0])
    for level in empty:
        level[:, 2:-1].clamp_(min=1)
    found = detector.decode(empty, size)[0]
    assert found.boxes.tolist() == [[7.0] * dimensions + [16.0] * dimensions]
    assert found.labels.tolist() == [1]


def scene(dimensions: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A bright and a dark block in noise; which is which is the class."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(1, *[32] * dimensions, generator=generator) * 0.1
    boxes = []
    for number, value in enumerate((2.0, -2.0)):
        corner = torch.randint(2, 18, (dimensions,), generator=generator)
        corner[0] = 2 if number else 18
        image[(0, *[slice(int(c), int(c) + 11) for c in corner])] = value
        boxes.append([*corner.tolist(), *(corner + 11).tolist()])
    return image, torch.tensor(boxes, dtype=torch.float32), torch.tensor([0, 1])


@pytest.mark.parametrize(("dimensions", "steps"), [(2, 50), (3, 30)])
def test_it_learns_to_find_blocks_and_to_tell_them_apart(dimensions, steps):
    network = build(dimensions).train()
    scenes = [scene(dimensions, seed) for seed in range(4)]
    images = torch.stack([image for image, _, _ in scenes])
    optimiser = torch.optim.AdamW(network.parameters(), lr=5e-3)
    for _ in range(steps):
        optimiser.zero_grad()
        value = detector.loss(network(images), [boxes for _, boxes, _ in scenes], [labels for _, _, labels in scenes])
        value.backward()
        optimiser.step()
    network.eval()
    with torch.no_grad():
        found = detector.decode(network.train()(images), images.shape[2:], threshold=0.3)
    for finding, (_, boxes, labels) in zip(found, scenes, strict=True):
        for box, label in zip(boxes, labels, strict=True):
            mine = finding.boxes[finding.labels == label]
            near = torch.maximum(mine[:, :dimensions], box[:dimensions])
            far = torch.minimum(mine[:, dimensions:], box[dimensions:])
            shared = (far - near).clamp(min=0).prod(1)
            whole = (mine[:, dimensions:] - mine[:, :dimensions]).prod(1) + 11**dimensions - shared
            assert (shared / whole).max() > 0.5
