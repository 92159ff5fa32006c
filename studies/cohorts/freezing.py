"""How a cohort would be split: which patients belong together, what they are stratified by, and who goes where.

Nothing is written here; `studies.cohorts.services.freeze` does, and the pages show it before.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from django.db.models import Q

from studies.cohorts.clinical import ClinicalValue, ClinicalVariable
from studies.cohorts.errors import CohortError
from studies.cohorts.models import Case, Cohort, CohortPatient, ReferenceStandard, Split
from studies.cohorts.splits import DEFAULT_FRACTIONS, allot, by_source, checked_fractions, joined, stratified
from studies.duplicates import services as duplicates
from studies.models import Patient, Study

MOST_FOLDS = 20
MANUFACTURER = "manufacturer"  # of the scanner, as the images say it; other sources are variables


@dataclass(frozen=True)
class Design:
    """What is asked for.

    fractions: shares of patients; with `folds` only the share of `test` counts, which is held out of the folds.
    folds: 0 for a split by shares; k ≥ 2 for k folds. leave_source_out: one fold for each source.
    classes: a classification of this cohort, by whose classes the split is stratified. source: name of a variable, or
    `manufacturer`; `stratify_source` shares each source out like the classes.
    """

    fractions: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_FRACTIONS))
    seed: int = 1
    folds: int = 0
    leave_source_out: bool = False
    classes: ReferenceStandard | None = None
    source: str = ""
    stratify_source: bool = False


@dataclass
class Plan:
    """Where each patient goes. `method` is what the cohort keeps of the design."""

    places: list[CohortPatient]
    method: dict[str, Any]


def plan(cohort: Cohort, design: Design) -> Plan:
    """Raises `CohortError` (`empty`, `seed`, `fractions`, `folds`, `sources`, `too_few_patients`, `other_cohort`)."""
    if isinstance(design.seed, bool) or not isinstance(design.seed, int) or not 0 <= design.seed < 2**31:
        raise CohortError("seed", "The seed must be a whole number from 0 to 2147483647.", "For example 1.")
    places = list(cohort.patients.select_related("patient"))
    if not places:
        raise CohortError("empty", "The cohort has no cases.", "Add studies before it is frozen.")
    keys = {place.patient_id: _key(place.patient) for place in places}
    units = joined(keys.values(), [(keys[one], keys[other]) for one, other in _links(cohort)])
    strata = _Strata(cohort, design, {pk: units[key] for pk, key in keys.items()})
    method: dict[str, Any] = {"kind": "shares"}
    if design.leave_source_out:
        if not design.source:
            raise CohortError(
                "sources", "No source was chosen.", "Choose the variable that says where images come from."
            )
        sources = by_source(strata.of_units, strata.sources)
        names = sorted(set(sources.values()))
        sides: dict[str, Hashable] = {unit: names.index(name) for unit, name in sources.items()}
        method = {"kind": "sources", "sources": names}
    elif design.folds:
        sides, method = _folds(strata.of_units, design)
    elif design.classes or design.stratify_source:
        fractions: dict[Hashable, float] = dict(checked_fractions(design.fractions).items())
        _enough(len(strata.of_units), len(fractions))
        sides = stratified(strata.of_units, fractions, design.seed)
    else:
        sides = dict(allot(list(strata.of_units), design.fractions, design.seed))
    if not design.folds and not design.leave_source_out:
        method["fractions"] = {str(side): share for side, share in checked_fractions(design.fractions).items()}
    _place(places, {pk: units[key] for pk, key in keys.items()}, sides)
    if design.classes:
        method["classes"] = str(design.classes)
    if design.source and (design.stratify_source or design.leave_source_out):
        method["source"] = design.source
    method["groups"] = len({place.group for place in places if place.group is not None})
    return Plan(places, method)


def _key(patient: Patient) -> str:
    """What orders patients in a split: independent of the database's own numbers."""
    return f"{patient.patient_id}\x1f{patient.issuer_of_patient_id}"


def _links(cohort: Cohort) -> list[tuple[int, int]]:
    """Pairs of patients of whom images look the same, or are said to be copies."""
    studies = Study.objects.filter(cases__cohort=cohort)
    links = [(one, other) for one, other, _ in duplicates.standing_pairs(studies)]
    first: dict[tuple[int, str], int] = {}
    for (variable, name), patient in declared_groups(cohort):
        links.append((first.setdefault((variable, name), patient), patient))
    return links


def declared_groups(cohort: Cohort) -> list[tuple[tuple[int, str], int]]:
    """((variable, group), patient) of the cohort's cases whose images are said to be copies of each other."""
    members = Q(study__cases__cohort=cohort) | Q(study__isnull=True, patient__cohort_places__cohort=cohort)
    rows = (
        ClinicalValue.objects.filter(members, variable__role=ClinicalVariable.Role.GROUP)
        .order_by("variable_id", "text", "patient_id")
        .values_list("variable_id", "text", "patient_id")
        .distinct()
    )
    return [((variable, text), patient) for variable, text, patient in rows]


class _Strata:
    """What each unit brings: cases by stratum, and its sources."""

    def __init__(self, cohort: Cohort, design: Design, units: Mapping[int, str]):
        classes = classes_of(cohort, design.classes) if design.classes else {}
        sources = sources_of(cohort, design.source) if design.source else {}
        self.of_units: dict[str, Counter[Hashable]] = {unit: Counter() for unit in units.values()}
        self.sources: dict[str, set[str]] = defaultdict(set)
        for case, patient in cohort.cases.values_list("pk", "cohort_patient__patient_id"):
            unit = units[patient]
            stratum = (classes.get(case, ""), sources.get(case, "") if design.stratify_source else "")
            self.of_units[unit][stratum] += 1
            if case in sources:
                self.sources[unit].add(sources[case])
            elif design.leave_source_out:
                self.sources[unit] |= {""}
        if design.leave_source_out:  # a unit with a case of unknown source has none that could be left out
            self.sources = {unit: found for unit, found in self.sources.items() if "" not in found}


def classes_of(cohort: Cohort, reference: ReferenceStandard) -> dict[int, str]:
    """Case → class. Raises `CohortError` (`other_cohort`)."""
    if reference.cohort_id != cohort.pk or reference.kind != ReferenceStandard.Kind.CLASSIFICATION:
        raise CohortError(
            "other_cohort",
            f"“{reference}” gives no classes for this cohort.",
            "Choose a classification that belongs to the cohort.",
        )
    return {case: values["class"] for case, values in reference.case_labels.values_list("case", "values")}


def sources_of(cohort: Cohort, source: str) -> dict[int, str]:
    """Case → where its image comes from. Raises `CohortError` (`sources`) where there is no such variable."""
    if source == MANUFACTURER:
        rows = cohort.cases.exclude(image__manufacturer="").values_list("pk", "image__manufacturer")
        return dict(rows)
    variable = ClinicalVariable.objects.filter(
        project=cohort.project, name=source, kind=ClinicalVariable.Kind.CATEGORY
    ).first()
    if variable is None:
        raise CohortError(
            "sources",
            f"The project has no categorical variable “{source}”.",
            "Choose one of its variables, or “manufacturer”.",
        )
    of_study: dict[int, str] = {}
    of_patient: dict[int, str] = {}
    for study, patient, text in variable.values.values_list("study_id", "patient_id", "text"):
        if study is None:
            of_patient[patient] = text
        else:
            of_study[study] = text
    found = {}
    for case, study, patient in cohort.cases.values_list("pk", "study_id", "cohort_patient__patient_id"):
        known = of_study.get(study) or of_patient.get(patient)
        if known:
            found[case] = known
    return found


def _folds(units: Mapping[str, Mapping[Hashable, int]], design: Design) -> tuple[dict[str, Hashable], dict[str, Any]]:
    """Unit → fold number, or the test side for those held out."""
    if isinstance(design.folds, bool) or not 2 <= design.folds <= MOST_FOLDS:
        raise CohortError("folds", f"The number of folds must be from 2 to {MOST_FOLDS}.", "Five is usual.")
    test = float(design.fractions.get(Split.TEST, 0) or 0)
    if not 0 <= test < 1:
        raise CohortError("fractions", "The share held out for testing must be from 0 to below 1.", "For example 0.2.")
    _enough(len(units), design.folds + (test > 0))
    share = (1 - test) / design.folds
    shares: dict[Hashable, float] = {number: share for number in range(design.folds)}
    if test:
        shares[Split.TEST] = test
    method = {"kind": "folds", "folds": design.folds, "fractions": {"test": test} if test else {}}
    return stratified(units, shares, design.seed), method


def _enough(units: int, sides: int) -> None:
    if units < sides:
        raise CohortError(
            "too_few_patients",
            f"The cohort has {units} patient{'' if units == 1 else 's'} that can be told apart; {sides} sides need at"
            f" least {sides}.",
            "Add studies of other patients, or ask for fewer sides.",
        )


def _place(places: list[CohortPatient], units: Mapping[int, str], sides: Mapping[str, Hashable]) -> None:
    """Set split, fold and group; groups are numbered in the order of their keys."""
    several = sorted(unit for unit, n in Counter(units.values()).items() if n > 1)
    numbers = {unit: number for number, unit in enumerate(several, start=1)}
    for place in places:
        unit = units[place.patient_id]
        side = sides[unit]
        place.group = numbers.get(unit)
        place.fold = side if isinstance(side, int) else None
        place.split = Split.TRAIN if isinstance(side, int) else Split(str(side))


def sides_of_fold(cohort: Cohort, fold: int) -> dict[str, list[Case]]:
    """The cases of a cohort that was frozen in folds, with fold number `fold` (from 0) for validation.

    Returns split → cases; held-out patients stay the test side. Raises `CohortError` (`folds`).
    """
    cases = list(cohort.cases.select_related("cohort_patient"))
    folds = {case.cohort_patient.fold for case in cases} - {None}
    if fold not in folds:
        raise CohortError(
            "folds",
            f"The cohort “{cohort.name}” has no fold {fold}.",
            "Freeze it in folds, and count them from 0.",
        )
    sides: dict[str, list[Case]] = {Split.TRAIN: [], Split.VALIDATION: [], Split.TEST: []}
    for case in cases:
        place = case.cohort_patient
        side = Split.TEST if place.fold is None else Split.VALIDATION if place.fold == fold else Split.TRAIN
        sides[side].append(case)
    return sides
