"""Figures of detection against published values: the toolkit of Padilla et al., MONAI, and RJafroc."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from monai.metrics import compute_froc_curve_data, compute_froc_score

from inference.evaluation.detection import at_threshold, compare, froc_score
from inference.evaluation.metrics import detection
from inference.evaluation.metrics.detection import Marks
from inference.evaluation.summary import CaseFigures
from tests.inference import shared


def marks(scores, hit, lesions, again=None) -> Marks:
    order = np.argsort(-np.asarray(scores, float), kind="stable")
    again = np.zeros(len(scores), bool) if again is None else np.asarray(again)
    return Marks(np.asarray(scores, float)[order], np.asarray(hit)[order], again[order], lesions)


def box(*corners):
    return np.array(corners, float).reshape(2, 3)


def test_average_precision_is_that_of_the_published_example():
    """24 detections of 15 objects in 7 images: AP 24.57 % (Padilla et al., IWSSIP 2020, all points)."""
    right = "TFTFFFFFFTFTTTFFFFFFFFTF"
    scores = [.95, .95, .91, .88, .84, .80, .78, .74, .71, .70, .67, .62, .54, .48, .45, .45, .44, .44, .43, .38, .35,
              .23, .18, .14]  # fmt: skip
    hit = [number if letter == "T" else -1 for number, letter in enumerate(right)]
    assert detection.average_precision([marks(scores, hit, 15)]) == pytest.approx(0.2457, abs=5e-5)


def test_the_froc_curve_and_its_score_are_those_of_monai():
    random = np.random.default_rng(3)
    images = []
    for _ in range(12):
        lesions = int(random.integers(0, 4))
        scores = random.random(6).round(2)
        hit = np.full(6, -1)
        found = int(random.integers(0, lesions + 1))
        hit[:found] = range(found)
        images.append(marks(scores, hit, lesions))
    x, y, _ = detection.froc(images)
    hits = np.concatenate([image.scores[image.hit >= 0] for image in images])
    false = np.concatenate([image.scores[image.hit < 0] for image in images])
    lesions = sum(image.lesions for image in images)
    fps, sensitivity = compute_froc_curve_data(false, hits, lesions, len(images))
    # MONAI writes the strict end last and from the threshold 0.
    for rate, value in zip(fps, sensitivity, strict=True):
        assert any(np.isclose(x, rate) & np.isclose(y, value))
    theirs = compute_froc_score(fps, sensitivity, detection.RATES)
    assert detection.mean_sensitivity(images) == pytest.approx(theirs, abs=1e-9)


def test_the_interval_of_the_froc_score_draws_patients_and_a_label_without_lesions_has_no_score():
    perfect, missed = marks([0.9], [0], 1), marks([], [], 1)
    told = froc_score([perfect] * 4, ["a", "a", "b", "c"])
    assert (told["estimate"], told["lower"], told["upper"], told["n"]) == (1, 1, 1, 4)
    assert told["method"].startswith("percentile bootstrap over 3 patients")
    # Two patients, one found and one missed: of 1000 draws a quarter each hold the one or the other alone.
    told = froc_score([perfect, missed], ["a", "b"])
    assert (told["estimate"], told["lower"], told["upper"]) == (0.5, 0, 1)
    alone = froc_score([perfect, missed], ["a", "a"])
    assert (alone["estimate"], alone["lower"], alone["upper"]) == (0.5, None, None)
    assert froc_score([marks([0.9], [-1], 0)], ["a"]) == {
        "estimate": None, "lower": None, "upper": None, "n": 1, "reason": "none of the 1 cases has a lesion"
    }  # fmt: skip


@pytest.mark.shared
def test_froc_points_and_afroc_of_the_federica_study_are_those_of_rjafroc():
    expected = shared.reference("froc_federica.json")["expected"]
    lesions: dict[int, int] = {}
    with shared.path("reference/froc_federica_lesions.csv").open() as file:
        for row in csv.DictReader(file):
            lesions[int(row["case"])] = lesions.get(int(row["case"]), 0) + 1
    rows: dict[tuple[str, str], dict[int, list[tuple[float, int]]]] = {}
    with shared.path("reference/froc_federica_marks.csv").open() as file:
        for row in csv.DictReader(file):
            hit = int(row["lesion"]) - 1 if row["kind"] == "LL" else -1
            reading = rows.setdefault((row["modality"], row["reader"]), {})
            reading.setdefault(int(row["case"]), []).append((float(row["rating"]), hit))
    readings = {
        key: [
            marks([r for r, _ in cases.get(n, [])], [h for _, h in cases.get(n, [])], lesions.get(n, 0))
            for n in range(1, 201)
        ]
        for key, cases in rows.items()
    }
    for point in expected["froc_points_all"]:
        x, y, _ = detection.froc(readings[point["modality"], point["reader"]])
        theirs = sorted(set(zip(point["nlf"], point["llf"], strict=True)))
        np.testing.assert_allclose(sorted(set(zip(x, y, strict=True))), theirs, atol=1e-9)
    for row in expected["fom"]["AFROC"]:
        for reader in "1345":
            found = detection.afroc(readings[row["modality"], reader])
            assert found == pytest.approx(row[f"rdr{reader}"], abs=1e-6)


def test_each_lesion_is_hit_once_by_its_most_probable_box_and_neighbours_may_each_have_one():
    lesions = np.stack([box(0, 0, 0, 4, 10, 10), box(0, 0, 8, 4, 10, 18)])
    boxes = np.stack(
        [box(0, 0, 1, 4, 10, 10), box(0, 0, 0, 4, 10, 9), box(0, 0, 9, 4, 10, 19), box(20, 20, 20, 24, 24, 24)]
    )
    found = detection.match(boxes, [0.5, 0.9, 0.4, 0.7], lesions, overlap=0.5)
    assert found.scores.tolist() == [0.9, 0.7, 0.5, 0.4]
    assert found.hit.tolist() == [0, -1, 0, 1]
    assert found.again.tolist() == [False, False, True, False]
    assert found.lesions == 2
    # 0.9 is a hit, 0.7 a false positive, 0.5 nothing, 0.4 the second hit.
    x, y, _ = detection.froc([found])
    assert (x.tolist(), y.tolist()) == ([0, 0, 1, 1], [0, 0.5, 0.5, 1])


def test_too_little_overlap_is_no_hit_and_a_point_hits_where_it_lies_within():
    lesion = box(0, 0, 0, 10, 10, 10)[None]
    # A third of the union: shared 500, union 1500.
    half = box(0, 0, 5, 10, 10, 15)[None]
    assert detection.match(half, [0.5], lesion, overlap=0.33).hit.tolist() == [0]
    assert detection.match(half, [0.5], lesion, overlap=0.34).hit.tolist() == [-1]
    assert detection.match(box(3, 3, 3, 3, 3, 3)[None], [0.5], lesion).hit.tolist() == [0]
    assert detection.match(lesion, [0.5], box(11, 3, 3, 11, 3, 3)[None]).hit.tolist() == [-1]


def test_without_a_box_nothing_is_found_and_without_a_lesion_there_is_no_curve():
    nothing = detection.match(np.zeros((0, 2, 3)), [], box(0, 0, 0, 1, 1, 1)[None])
    assert detection.mean_sensitivity([nothing]) == 0
    assert detection.average_precision([nothing]) == 0
    with pytest.raises(ValueError, match="lesions"):
        detection.froc([marks([0.5], [-1], 0)])


def test_no_false_positive_in_forty_images_does_not_mean_that_there_never_is_one():
    """The upper bound of R's poisson.test(0): 3.688879 for the sum of all images."""
    values = compare(np.zeros((0, 2, 3)), [], np.zeros((0, 2, 3)), 0.5)
    cases = [CaseFigures(f"C{number}", number, False, False, 0.0, values) for number in range(40)]
    entry = at_threshold(cases, 0.5)["false_positives_per_image"]
    assert (entry["estimate"], entry["lower"]) == (0, 0)
    assert entry["upper"] == pytest.approx(3.688879 / 40, abs=1e-6)
    assert "Poisson" in entry["method"]
