"""Classical classifiers on feature vectors: one of them becomes the last layer of a network, the others are baselines.

Everything is fitted on the training rows alone, standardisation and dictionaries included.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import sparse_encode
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

ATOMS = 12  # of each class
NONZERO = 4  # atoms that may take part in one sample
ROUNDS = 15  # of learning atoms


def linear_layer(
    x: np.ndarray, y: np.ndarray, classes: int, *, regularisation: float, balanced: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Logistic regression on standardised rows as weight [classes, features] and bias [classes] for the plain rows.

    regularisation: scikit-learn's C; smaller is stronger. A class without a row gets a bias that it never wins with.
    """
    scaler = StandardScaler().fit(x)
    model = _logistic(regularisation, balanced).fit(scaler.transform(x), y)
    coefficients, intercepts = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # one row: the logit of the second class
        coefficients, intercepts = np.stack([-coefficients[0], coefficients[0]]) / 2, np.r_[-intercepts, intercepts] / 2
    weight, bias = np.zeros((classes, x.shape[1])), np.full(classes, -1e4)
    weight[model.classes_] = coefficients / scaler.scale_
    bias[model.classes_] = intercepts - (coefficients / scaler.scale_) @ scaler.mean_
    return weight.astype(np.float32), bias.astype(np.float32)


def probabilities(method: str, x: np.ndarray, y: np.ndarray, new: np.ndarray, *, classes: int, seed: int) -> np.ndarray:
    """Class probabilities [rows, classes] for the rows `new`, learned from rows x and their classes y (from 0)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = MODELS[method](seed).fit(x, y)
        found = model.predict_proba(new)
    made = np.zeros((len(new), classes))
    made[:, model.classes_] = found
    return made


def _logistic(regularisation: float, balanced: bool) -> LogisticRegression:
    return LogisticRegression(C=regularisation, class_weight="balanced" if balanced else None, max_iter=3000)


class VectorMachine:
    """A support vector machine with a radial kernel; probabilities by Platt's method on three parts of the training
    rows, or a softmax of the votes where a class has fewer than three rows."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def fit(self, x: np.ndarray, y: np.ndarray) -> VectorMachine:
        plain = make_pipeline(StandardScaler(), SVC(C=3.0, decision_function_shape="ovr", random_state=self.seed))
        self.calibrated = min(np.unique(y, return_counts=True)[1]) >= 3
        self.model = CalibratedClassifierCV(plain, cv=3, ensemble=False) if self.calibrated else plain
        self.model.fit(x, y)
        self.classes_ = self.model.classes_
        return self

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        if self.calibrated:
            return self.model.predict_proba(x)
        votes = self.model.decision_function(x)
        if votes.ndim == 1:
            votes = np.stack([-votes, votes], axis=1) / 2
        share = np.exp(votes - votes.max(axis=1, keepdims=True))
        return share / share.sum(axis=1, keepdims=True)


class SparseClassifier:
    """A dictionary for each class; a sample belongs to the class whose atoms leave the smallest residual.

    Wright et al., IEEE TPAMI 2009;31:210, with learned atoms and orthogonal matching pursuit.
    Probabilities are a softmax of the residuals, scaled by their median on the training rows.
    """

    def __init__(self, seed: int, *, atoms: int = ATOMS, nonzero: int = NONZERO) -> None:
        self.seed, self.atoms, self.nonzero = seed, atoms, nonzero

    def fit(self, x: np.ndarray, y: np.ndarray) -> SparseClassifier:
        self.scaler = StandardScaler().fit(x)
        rows = _unit(self.scaler.transform(x))
        self.classes_ = np.unique(y)
        self.dictionaries = [learn_atoms(rows[y == c], self.atoms, self.nonzero, self.seed) for c in self.classes_]
        self.scale = max(float(np.median(self._residuals(rows))), 1e-9)
        return self

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        logits = -self._residuals(_unit(self.scaler.transform(x))) / self.scale * 4
        share = np.exp(logits - logits.max(axis=1, keepdims=True))
        return share / share.sum(axis=1, keepdims=True)

    def _residuals(self, rows: np.ndarray) -> np.ndarray:
        return np.stack([residuals(rows, atoms, self.nonzero) for atoms in self.dictionaries], axis=1)


def learn_atoms(rows: np.ndarray, atoms: int, nonzero: int, seed: int) -> np.ndarray:
    """Unit atoms [atoms, features] of which at most `nonzero` make up each row: K-SVD (Aharon et al., IEEE TSP 2006).

    Starts from rows; an atom that no row uses is replaced by the row that is explained worst.
    """
    atoms = min(atoms, len(rows))
    if atoms == len(rows):
        return _unit(rows)
    made = _unit(rows[np.random.default_rng(seed).permutation(len(rows))[:atoms]])
    for _ in range(ROUNDS):
        codes = _codes(rows, made, nonzero)
        for number in range(atoms):
            users = np.flatnonzero(codes[:, number])
            if not len(users):
                worst = int(np.linalg.norm(rows - codes @ made, axis=1).argmax())
                made[number] = _unit(rows[worst : worst + 1])[0]
                continue
            codes[users, number] = 0
            left = rows[users] - codes[users] @ made
            u, strength, v = np.linalg.svd(left, full_matrices=False)
            made[number], codes[users, number] = v[0], u[:, 0] * strength[0]
    return made


def residuals(rows: np.ndarray, atoms: np.ndarray, nonzero: int) -> np.ndarray:
    """Norm of what `nonzero` atoms leave of each row."""
    return np.linalg.norm(rows - _codes(rows, atoms, nonzero) @ atoms, axis=1)


def _codes(rows: np.ndarray, atoms: np.ndarray, nonzero: int) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # atoms that depend on each other
        return sparse_encode(rows, atoms, algorithm="omp", n_nonzero_coefs=min(nonzero, len(atoms)))


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


MODELS: dict[str, Callable[[int], Any]] = {
    "logistic_regression": lambda seed: make_pipeline(StandardScaler(), _logistic(0.1, False)),
    "svm": VectorMachine,
    "random_forest": lambda seed: RandomForestClassifier(300, min_samples_leaf=2, random_state=seed, n_jobs=1),
    "sparse": SparseClassifier,
}
