"""The rounds of a cross-validation: every method learns from the training cases of a round and speaks about its test
cases, which it has not seen. No database.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inference.imaging import handcrafted
from inference.training import classifier, heads, partitions
from inference.training.class_cases import ClassifiedCase
from inference.training.config import TITLES, Config
from inference.training.fit import Watcher, use_all_cores
from inference.training.partitions import INNER_SHARE, Round
from inference.training.parts import Part

Found = dict[tuple[str, str], dict[int, dict[str, float]]]


def held_out(
    config: Config,
    classes: Sequence[str],
    made: Mapping[str, Sequence[Round]],
    images: Mapping[int, ClassifiedCase],
    *,
    folder: Path,
    watcher: Watcher,
    began: Callable[[str, str], None] = lambda scheme, name: None,
) -> Found:
    """(scheme, method) → case id → class → probability. Rounds with a problem are left out. Raises `TrainingError`.

    began: called with scheme and name as each round begins.
    """
    use_all_cores()
    baselines = config["cross_validation"]["baselines"]
    features = {}
    if baselines:
        for number, (case, image) in enumerate(images.items()):
            watcher.check()
            watcher.progress(0.1 * number / len(images), f"measuring image {number + 1} of {len(images)}")
            features[case] = handcrafted.features(image.image[0].numpy())
    work = [(scheme, part) for scheme, parts in made.items() for part in parts if not part.problem]
    found: Found = {}
    for number, (scheme, part) in enumerate(work):
        watch = Part(watcher, 0.1 + 0.9 * number / len(work), 0.9 / len(work), f"{part.name}, {scheme}")
        began(scheme, part.name)
        training = [entry.case_id for entry in part.training]
        test = [entry.case_id for entry in part.test]
        share = Part(watch, 0, 0.6 if baselines else 1, "network")
        answers = {"network": _network(config, classes, images, part, folder, f"{scheme}-{part.name}", share)}
        x, y = None, np.array([images[case].number for case in training])
        for place, method in enumerate(baselines):
            watch.check()
            watch.progress(0.6 + 0.4 * place / len(baselines), TITLES[method].lower())
            x = np.stack([features[case] for case in training]) if x is None else x
            new = np.stack([features[case] for case in test])
            answers[method] = heads.probabilities(
                method, x, y, new, classes=len(classes), seed=config["training"]["seed"]
            )
        for method, rows in answers.items():
            found.setdefault((scheme, method), {}).update(
                {case: dict(zip(classes, map(float, row), strict=True)) for case, row in zip(test, rows, strict=True)}
            )
    return found


def _network(
    config: Config,
    classes: Sequence[str],
    images: Mapping[int, ClassifiedCase],
    part: Round,
    folder: Path,
    name: str,
    watcher: Watcher,
) -> np.ndarray:
    kept = folder.parent / "features"
    settings = config["training"]
    frozen = settings["strategy"] == "frozen"
    learn = part.training
    validate: list[Any] = []
    if settings["early_stopping"] and not frozen:
        # The patients of the test side must not decide when training ends.
        learn, validate = partitions.inner_split(
            part.training, share=INNER_SHARE, seed=settings["seed"], kind=lambda entry: str(entry.values["class"])
        )
        watcher.log(f"early stopping looks at {len(validate)} of the {len(part.training)} training cases")
    made = classifier.train(
        config,
        classes,
        [images[entry.case_id] for entry in learn],
        [images[entry.case_id] for entry in validate],
        folder / name.replace("/", "_"),
        kept,
        watcher,
    )
    test = [images[entry.case_id] for entry in part.test]
    return classifier.predict(made.network, test, config, kept if frozen else None, watcher)
