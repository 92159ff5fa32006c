"""Losses, the linear layer and the baselines on constructed data; figures of a classifier."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from inference.evaluation.classification import confounding, summarise
from inference.imaging import handcrafted
from inference.training import heads, losses
from inference.training.config import BASELINES


def blobs(classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    y = np.arange(60) % classes
    return random.normal(0, 1, (60, 12)) + 5 * np.repeat(np.eye(3)[y], 4, axis=1) + 10, y


@pytest.mark.parametrize("classes", [2, 3])
def test_the_linear_layer_is_logistic_regression_on_standardised_features(classes):
    x, y = blobs(classes)
    weight, bias = heads.linear_layer(x, y, classes, regularisation=0.5, balanced=False)
    scaler = StandardScaler().fit(x)
    expected = LogisticRegression(C=0.5, max_iter=3000).fit(scaler.transform(x), y).predict_proba(scaler.transform(x))
    logits = torch.from_numpy(x.astype(np.float32) @ weight.T + bias)
    assert torch.softmax(logits, dim=1).numpy() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("method", BASELINES)
def test_baselines_tell_blobs_apart_and_never_give_a_class_that_they_did_not_see(method):
    x, y = blobs(3)
    new, truth = blobs(3, seed=1)
    found = heads.probabilities(method, x, y, new, classes=4, seed=0)
    assert found.shape == (60, 4)
    assert found.sum(1) == pytest.approx(1)
    assert (found[:, 3] == 0).all()
    assert (found.argmax(1) == truth).mean() > 0.9
    assert (found == heads.probabilities(method, x, y, new, classes=4, seed=0)).all()


@pytest.mark.parametrize("method", BASELINES)
@pytest.mark.parametrize("counts", [(30, 2, 1), (30, 1)])
def test_baselines_live_with_classes_of_one_case(method, counts):
    x, y = blobs(3)
    rows = np.concatenate([np.flatnonzero(y == number)[:count] for number, count in enumerate(counts)])
    found = heads.probabilities(method, x[rows], y[rows], x, classes=3, seed=0)
    assert found.sum(1) == pytest.approx(1)
    assert (found[y == 0].argmax(1) == 0).mean() > 0.9


def test_dictionary_learning_recovers_planted_atoms():
    random = np.random.default_rng(0)
    planted = np.linalg.qr(random.normal(size=(20, 20)))[0][:6]
    codes = np.zeros((300, 6))
    for row in codes:
        row[random.choice(6, 2, replace=False)] = random.choice([-1, 1], 2) * random.uniform(1, 2, 2)
    atoms = heads.learn_atoms(codes @ planted, 6, 2, seed=0)
    assert (np.abs(planted @ atoms.T).max(axis=1) > 0.99).all()
    assert heads.residuals(codes @ planted, planted, 2) == pytest.approx(0, abs=1e-6)


def test_losses_equal_what_their_papers_say():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.5, 0.0]])
    numbers, ones = torch.tensor([0, 1, 1]), torch.ones(2)
    p = torch.softmax(logits, 1)[range(3), numbers]
    assert losses.cross_entropy(logits, numbers, ones).item() == pytest.approx(-p.log().mean().item())
    assert losses.focal(logits, numbers, ones).item() == pytest.approx((-((1 - p) ** 2) * p.log()).mean().item())
    share = torch.softmax(logits, 1)
    truth = torch.tensor([[1.0, 0], [0, 1], [0, 1]])
    soft = 2 * (share * truth).sum(0) / (share.sum(0) + truth.sum(0))
    assert losses.dice(logits, numbers, ones).item() == pytest.approx(1 - soft.mean().item())
    certain = torch.tensor([[50.0, 0], [0, 50.0], [0, 50.0]])
    for name, loss in losses.LOSSES.items():
        assert loss(certain, numbers, ones).item() == pytest.approx(0, abs=1e-6), name
    weights = losses.class_weights(numbers, 3)
    assert weights.tolist() == pytest.approx([3 / 3, 3 / 6, 0])


def test_a_missed_case_costs_tversky_more_than_a_false_one():
    numbers, ones = torch.tensor([0, 0, 0, 1]), torch.tensor([0.0, 1.0])  # class 1 alone counts
    missed = torch.tensor([[9.0, 0], [9, 0], [9, 0], [9, 0]])
    false = torch.tensor([[9.0, 0], [9, 0], [0, 9], [0, 9]])
    assert losses.tversky(missed, numbers, ones) > losses.tversky(false, numbers, ones)


def test_texture_by_hand():
    checkers = np.indices((32, 32)).sum(0) % 2
    vertical = handcrafted.co_occurrence(checkers.astype(float)).reshape(-1, 5)
    assert vertical[0].tolist() == pytest.approx(
        [225, -1, 0.5, 1 / 16, 1], rel=1e-4
    )  # the right neighbour is the other value
    assert vertical[2].tolist() == pytest.approx([0, 1, 0.5, 1, 1], rel=1e-4)  # the diagonal one is the same
    ramp = np.tile(np.arange(32.0), (32, 1))
    assert handcrafted.gradients(ramp).reshape(-1, 8)[:, 0] == pytest.approx(1)
    flat = handcrafted.features(np.zeros((1, 32, 32)))
    assert np.isfinite(flat).all()
    assert flat.shape == handcrafted.features(np.random.default_rng(0).normal(size=(1, 40, 32))).shape


def test_published_confusion_matrix_gives_the_published_figures():
    """Ozturk et al. 2020, one fold of three classes: accuracy 89.33 %, macro sensitivity 88.17, specificity 93.66."""
    classes = ["covid", "none", "pneumonia"]
    table = [[24, 1, 3], [0, 102, 7], [1, 12, 75]]
    truth, rows = [], []
    for a, counts in zip(classes, table, strict=True):
        for b, count in zip(classes, counts, strict=True):
            truth += [a] * count
            rows += [{name: 0.8 if name == b else 0.1 for name in classes}] * count
    found = summarise(classes, truth, rows, list(range(len(truth))))
    assert found["confusion"]["counts"] == table
    assert 100 * found["accuracy"]["estimate"] == pytest.approx(89.33, abs=0.01)
    for key, published in (("sensitivity", 88.17), ("specificity", 93.66)):
        values = [found["classes"][name][key]["estimate"] for name in classes]
        assert 100 * np.mean(values) == pytest.approx(published, abs=0.01)
    scores = [row["covid"] for row in rows]
    assert found["classes"]["covid"]["auc"]["estimate"] == pytest.approx(
        roc_auc_score([name == "covid" for name in truth], scores)
    )


def test_confounding_by_hand():
    told = confounding(["a"] * 10 + ["b"] * 10, ["x"] * 10 + ["y"] * 10, ["a", "b"])
    assert told["cramers_v"] == pytest.approx(1)
    assert "10 of 10 a cases come from x" in told["warning"]
    mixed = confounding(["a", "b"] * 10, ["x", "x", "y", "y"] * 5, ["a", "b"])
    assert (mixed["cramers_v"], mixed["warning"]) == (0, "")
