"""Deep learning against traditional methods: the cross-validation that one click starts.

Nobody has to write a configuration: the images decide the network, the frozen cohort the rounds, and every classical
baseline takes part.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path

from django.db.models import Sum

from inference.errors import TrainingError
from inference.imaging import preprocessing
from inference.training import class_cases, partitions
from inference.training.config import BASELINES, Config, load
from studies.cohorts.clinical import ClinicalVariable
from studies.cohorts.freezing import MANUFACTURER
from studies.cohorts.models import Cohort, ReferenceStandard

PRESETS = Path(__file__).parent / "presets"
FLAT, DEEP = "chest-xray", "volume-classifier"
INNER_WAIT = 5  # validations without gain on the inner validation patients, where a network is trained whole


def configuration(cohort: Cohort, reference: ReferenceStandard, like: Config | None = None) -> Config:
    """A checked configuration for this cohort, with every baseline.

    like: settings of a run that is compared; left out, a preset that suits the images. Raises `TrainingError` where the
    cohort cannot be gone through in rounds, or the reference standard gives no classes.
    """
    class_cases.choose_classes(reference, like["data"]["structures"] if like else [])
    config = copy.deepcopy(like) if like else load(PRESETS / f"{preset(reference)}.toml")
    if like is None:
        config["name"] = f"{re.sub(r'[^A-Za-z0-9_-]+', '-', cohort.name).strip('-')[:60] or 'cohort'}-contest"
    if not cohort.frozen:
        raise TrainingError(
            f"The cohort “{cohort.name}” is not frozen, so it has no folds yet.", "Freeze it in folds on its page."
        )
    schemes, source = rounds_of(cohort)
    if not schemes:
        raise TrainingError(
            f"The cohort “{cohort.name}” was frozen in shares, not in folds, and its images come from one source only, "
            "so there are no rounds to go through.",
            "Make a cohort of the same studies and freeze it in folds; five are usual.",
        )
    config["cross_validation"] = {"schemes": schemes, "source": source, "baselines": list(BASELINES)}
    # A scale knows the run's training patients, whom the rounds will test.
    config["preprocessing"] = preprocessing.without_scales(config["preprocessing"])
    if config["training"]["strategy"] != "frozen" and not config["training"]["early_stopping"]:
        config["training"]["early_stopping"] = INNER_WAIT
    return config


def preset(reference: ReferenceStandard) -> str:
    """For single pictures a pretrained network in 2-D, for volumes one that starts fresh in 3-D."""
    deepest = (
        reference.case_labels.annotate(frames=Sum("case__image__instances__number_of_frames"))
        .order_by("-frames")
        .values_list("frames", flat=True)
        .first()
    )
    return DEEP if (deepest or 0) > 1 else FLAT


def rounds_of(cohort: Cohort) -> tuple[list[str], str]:
    """The schemes that the cohort allows, and the variable that says where images come from, or ""."""
    schemes = []
    if cohort.patients.filter(fold__isnull=False).values("fold").distinct().count() > 1:
        schemes.append("folds")
    for source in sources(cohort):
        if len(set(partitions.sources_of(cohort, source).values())) > 1:
            return [*schemes, "sources"], source
    return schemes, ""


def sources(cohort: Cohort) -> list[str]:
    """Names of what may say where an image comes from, the surest first."""
    variables = ClinicalVariable.objects.filter(project=cohort.project, kind=ClinicalVariable.Kind.CATEGORY)
    marked = list(variables.filter(role=ClinicalVariable.Role.SOURCE).values_list("name", flat=True))
    named = str(cohort.method.get("source", ""))
    known = set(variables.values_list("name", flat=True)) | {MANUFACTURER}
    return list(dict.fromkeys(name for name in (named, *marked, MANUFACTURER) if name in known))
