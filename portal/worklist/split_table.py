"""What lies on each side of a frozen cohort: patients, cases, classes and sources."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from studies.cohorts.clinical import ClinicalVariable
from studies.cohorts.errors import CohortError
from studies.cohorts.freezing import classes_of, sources_of
from studies.cohorts.models import Cohort, ReferenceStandard, Split

WORDS = {Split.TRAIN: "Training", Split.VALIDATION: "Validation", Split.TEST: "Test", Split.NONE: "Not split"}


@dataclass
class Side:
    """One row of the table; `key` narrows the list of cases to it."""

    key: str
    name: str
    patients: set[int] = field(default_factory=set)
    cases: int = 0
    classes: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)


@dataclass
class SplitTable:
    sides: list[Side]
    classes: list[str]
    sources: list[str]
    reference: ReferenceStandard | None = None
    source: str = ""
    total: Side = field(default_factory=lambda: Side("", "All"))


def of(cohort: Cohort, *, classes: bool = True) -> SplitTable:
    """In six queries at most. Classes are those of the newest classification, sources those of the split's source, or
    of the project's variable that says where images come from; neither without `classes`, as readers see it."""
    if not classes:
        return _counted(cohort, None, {}, "", {})
    reference = cohort.reference_standards.filter(kind=ReferenceStandard.Kind.CLASSIFICATION).order_by("-id").first()
    of_cases = classes_of(cohort, reference) if reference else {}
    source = cohort.method.get("source", "") or (
        ClinicalVariable.objects.filter(project=cohort.project, role=ClinicalVariable.Role.SOURCE)
        .values_list("name", flat=True)
        .first()
        or ""
    )
    try:
        sources = sources_of(cohort, source) if source else {}
    except CohortError:  # the variable was renamed or removed since
        sources = {}
    return _counted(cohort, reference, of_cases, source, sources)


def _counted(
    cohort: Cohort,
    reference: ReferenceStandard | None,
    classes: dict[int, str],
    source: str,
    sources: dict[int, str],
) -> SplitTable:
    names = cohort.method.get("sources", [])
    sides: dict[tuple[int, str], Side] = {}
    total = Side("", "All")
    order = {Split.TRAIN: 0, Split.VALIDATION: 1, Split.TEST: 2, Split.NONE: 3}
    rows = cohort.cases.values_list("pk", "cohort_patient_id", "cohort_patient__split", "cohort_patient__fold")
    for case, patient, split, fold in rows:
        if fold is None:
            place = (1000 + order[Split(split)], split)
            made = Side(split, WORDS[Split(split)])
        else:
            place = (fold, "")
            made = Side(f"fold-{fold}", f"Fold {fold + 1}" + (f": {names[fold]}" if fold < len(names) else ""))
        for side in (sides.setdefault(place, made), total):
            side.patients.add(patient)
            side.cases += 1
            side.classes[classes.get(case, "")] += 1
            side.sources[sources.get(case, "")] += 1
    return SplitTable(
        [sides[place] for place in sorted(sides)],
        [*(reference.classes if reference else []), *([""] if reference and total.classes[""] else [])],
        sorted(total.sources, key=lambda name: (not name, name))[:12] if any(total.sources) else [],
        reference,
        source if any(total.sources) else "",
        total,
    )
