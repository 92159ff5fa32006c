"""Lesions that a detector cannot learn as they stand: what is mended, what is told, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from inference.errors import TrainingError
from inference.imaging import boxes
from inference.training import detection, detection_cases
from inference.training.data import PreparedCase
from studies.cohorts import services as cohorts
from studies.cohorts.models import ReferenceStandard
from studies.dicom.errors import ImageError
from studies.volumes import load_image
from tests.factories import ProjectFactory
from tests.inference.models_factory import LABELS, ball_cohort
from tests.inference.training.test_detection import NAMES, case, settings
from tests.inference.training.test_fit import Watch

PATCH = [16, 32, 32]


@pytest.fixture
def entry(media, db):
    """A case of 12×16×20 voxels without lesions; give it some by `values`."""
    cohort, _ = ball_cohort(ProjectFactory(), patients=1, freeze=False)
    truth = cohorts.CaseTruth(cohort.cases.get(), values={"boxes": []})
    how = {"name": "Boxes", "source": ReferenceStandard.Source.PHANTOM, "labels": LABELS, "by": None}
    return cohorts.create_reference(cohort, cases=[truth], **how).case_labels.select_related("case__image").get()


def lesion(entry, low, high, label="Ball"):
    """Between two corners in voxels (z, y, x), where voxel i reaches from i - 0.5 to i + 0.5."""
    affine = load_image(entry.case.image).affine
    return {"label": label, "corners": [(affine @ [*corner[::-1], 1])[:3].tolist() for corner in (low, high)]}


def found(entry):
    volume = load_image(entry.case.image)
    return [one.box(volume) for one in detection_cases.lesions(entry, volume, LABELS)]


def test_a_box_without_thickness_or_smaller_than_a_voxel_becomes_one_voxel_and_a_point_stays_one(entry):
    entry.values["boxes"] = [
        lesion(entry, (5, 3.5, 2.5), (5, 8.5, 9.5)),
        lesion(entry, (5.9, 4, 4), (6.1, 4.2, 4.2)),
        lesion(entry, (7, 8, 9), (7, 8, 9)),
    ]
    flat, tiny, point = found(entry)
    np.testing.assert_allclose(flat, [[4.5, 3.5, 2.5], [5.5, 8.5, 9.5]], atol=1e-6)
    np.testing.assert_allclose(tiny, [[5.5, 3.6, 3.6], [6.5, 4.6, 4.6]], atol=1e-6)
    np.testing.assert_allclose(point, [[7, 8, 9], [7, 8, 9]], atol=1e-6)


def test_points_alone_are_learned_as_boxes_of_the_configured_size(entry):
    volume = load_image(entry.case.image)
    entry.values["boxes"] = [lesion(entry, (6, 8, 5), (6, 8, 5)), lesion(entry, (6, 8, 15), (6, 8, 15), "Dim ball")]
    size = 4 * min(volume.spacing)
    config = {"preprocessing": [], "detection": {"point_size": size}}
    painted = boxes.of_numbers(detection_cases.load_case(entry, config, LABELS).labels.numpy())
    assert sorted(painted) == [1 + 0 * 2 + 0, 1 + 1 * 2 + 1]
    for (low, high), x in zip(painted.values(), (5, 15), strict=True):
        np.testing.assert_allclose((low + high) / 2, [6, 8, x], atol=0.5)
        assert ((high - low) * volume.spacing >= size - 1e-6).all()


def test_a_lesion_outside_the_image_is_refused_with_both_places_and_one_across_its_edge_is_cut(entry):
    entry.values["boxes"] = [lesion(entry, (-3, 4, 4), (2.5, 9, 9))]
    config = {"preprocessing": [], "detection": {"point_size": 5}}
    (box,) = boxes.of_numbers(detection_cases.load_case(entry, config, LABELS).labels.numpy()).values()
    assert box[:, 0].tolist() == [-0.5, 2.5]
    entry.values["boxes"] = [lesion(entry, (-9, 4, 4), (-5, 9, 9))]
    with pytest.raises(
        ImageError, match=r"“Ball” at \(.*\) mm lies outside the image, which reaches over x "
    ) as caught:
        found(entry)
    assert "LPS mm" in caught.value.next_step
    with pytest.raises(TrainingError, match=f"Case {entry.case.name}: A lesion “Ball”"):
        detection_cases.load_cases([entry], config, LABELS, tick=lambda name: None)


def test_a_lesion_that_a_step_cuts_away_is_counted_and_told(entry):
    entry.values["boxes"] = [lesion(entry, (2, 2, 2), (4, 4, 4)), lesion(entry, (8, 12, 15), (10, 14, 17))]
    steps = [{"name": "crop", "start": [0, 0, 0], "size": [6, 16, 20]}]
    config = {"preprocessing": steps, "detection": {"point_size": 5}}
    made = detection_cases.load_case(entry, config, LABELS)
    assert (made.left_out, sorted(boxes.of_numbers(made.labels.numpy()))) == (1, [1])
    said = detection.check_cases([made], [], patch=[6, 16, 16], structures=["Ball"])
    assert any("cuts away, left out: 1" in line for line in said)


def without_lesions(name: str) -> PreparedCase:
    one = case(0)
    return PreparedCase(name, one.image, torch.zeros_like(one.labels))


def test_validation_patients_without_a_lesion_are_told_and_training_goes_on(tmp_path):
    empty = [without_lesions("C-8"), without_lesions("C-9")]
    said = detection.check_cases([case(0)], empty, patch=PATCH, structures=NAMES)
    assert any("None of the 2 validation cases shows a lesion of Bright, Dark" in line for line in said)
    trained = detection.train(settings(epochs=1, early_stopping=1), NAMES, [case(0)], empty, tmp_path, Watch())
    assert trained.validation == {"Bright": [], "Dark": []}


def test_training_patients_without_a_lesion_are_refused():
    with pytest.raises(TrainingError, match="None of the 1 training cases shows a lesion of Bright, Dark") as caught:
        detection.check_cases([without_lesions("C-8")], [case(0)], patch=PATCH, structures=NAMES)
    assert "freeze the cohort with another seed" in caught.value.next_step


def test_hundreds_of_lesions_in_one_image_are_learned_and_small_ones_told(tmp_path):
    places = [np.array([[z, y, x], [z + 2, y + 2, x + 2]]) - 0.5 for z in range(0, 15, 3) for y in range(0, 30, 3) for x in range(0, 39, 3)]  # fmt: skip # noqa: E501
    numbers = [1 + number * 2 + number % 2 for number in range(len(places))]
    assert len(places) > 600
    image = torch.randn(1, 16, 32, 40, generator=torch.Generator().manual_seed(0))
    many = PreparedCase("C-1", image, torch.from_numpy(boxes.paint(places, numbers, (16, 32, 40))))
    kept, classes = detection.boxes_of(many.labels, 2, 3)
    np.testing.assert_allclose(kept.numpy(), np.array(places).reshape(-1, 6) + 0.5)
    assert classes.tolist() == [number % 2 for number in range(len(places))]
    said = detection.check_cases([many], [], patch=PATCH, structures=NAMES)
    assert any(f"{len(places)} of {len(places)} lesions are smaller than 4 voxels" in line for line in said)
    trained = detection.train(settings(epochs=1), NAMES, [many, case(0)], [many], tmp_path, Watch())
    assert np.isfinite(trained.train_loss)


def test_more_lesions_than_a_map_can_number_are_refused_with_their_count(entry, monkeypatch):
    monkeypatch.setattr(boxes, "MOST_IN_MAP", 4)
    entry.values["boxes"] = [lesion(entry, (2, 2, 2), (4, 4, 4))] * 3
    with pytest.raises(TrainingError, match="has 3 lesions; at most 2 can be learned"):
        detection_cases.load_case(entry, {"preprocessing": [], "detection": {"point_size": 5}}, LABELS)
