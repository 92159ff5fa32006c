"""Splits that keep copies together, are stratified, or come in folds; and that the database says no to a leak."""

from __future__ import annotations

from collections import Counter

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone
from hypothesis import given, settings
from hypothesis import strategies as st

from studies.cohorts import services
from studies.cohorts.errors import CohortError
from studies.cohorts.freezing import sides_of_fold
from studies.cohorts.models import ClinicalValue, ClinicalVariable, Cohort
from studies.cohorts.splits import joined, stratified
from studies.duplicates import services as duplicates
from studies.duplicates.models import Pair
from tests.factories import ProjectFactory, ct_pixels, make_ct_series, patient_pixels


@pytest.fixture(autouse=True)
def media(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path


@pytest.fixture
def project():
    return ProjectFactory()


def cohort_of(project, patients: list[str], **overrides):
    """One study for each entry."""
    cohort = services.create(project=project, name="Chests", by=None)
    services.add_studies(cohort, [make_ct_series(project, 1, PatientID=pid, **overrides).study for pid in patients])
    return cohort


def mark(project, name: str, texts: dict[int, str], role: str = "") -> ClinicalVariable:
    """A categorical variable with a value for each study."""
    variable = ClinicalVariable.objects.create(project=project, name=name, kind="category", role=role)
    for study, text in texts.items():
        patient = project.studies.get(pk=study).patient
        ClinicalValue.objects.create(variable=variable, patient=patient, study_id=study, text=text)
    return variable


def classes_of(cohort, names: list[str]):
    truths = [
        services.CaseTruth(case, values={"class": name})
        for case, name in zip(cohort.cases.order_by("name"), names, strict=True)
    ]
    return services.create_reference(
        cohort, name="Classes", source="import", labels=[], classes=sorted(set(names)), cases=truths, by=None
    )


counts = st.dictionaries(st.sampled_from("abc"), st.integers(1, 4), min_size=1)


@settings(max_examples=60)
@given(st.lists(counts, min_size=6, max_size=60), st.integers(2, 5), st.integers(0, 9))
def test_stratified_folds_hold_every_unit_once_and_none_is_empty(units, folds, seed):
    named = {f"u{n:03}": strata for n, strata in enumerate(units)}
    shares = dict.fromkeys(range(folds), 1 / folds)
    sides = stratified(named, shares, seed)
    assert set(sides) == set(named)
    assert set(sides.values()) == set(range(folds))
    assert stratified(dict(reversed(named.items())), shares, seed) == sides


def test_stratified_folds_of_single_cases_share_each_class_out_to_within_one_case():
    units = {f"u{n:03}": {("covid" if n < 23 else "none"): 1} for n in range(100)}
    sides = stratified(units, dict.fromkeys(range(5), 0.2), seed=4)
    covid = Counter(sides[unit] for unit, strata in units.items() if "covid" in strata)
    none = Counter(sides[unit] for unit, strata in units.items() if "none" in strata)
    assert sorted(covid.values()) == [4, 4, 5, 5, 5]
    assert sorted(none.values()) == [15, 15, 15, 16, 16]


def test_links_join_through_others():
    assert joined("abcdef", [("c", "b"), ("d", "c"), ("e", "f")]) == {
        "a": "a", "b": "b", "c": "b", "d": "b", "e": "e", "f": "e",
    }  # fmt: skip


@pytest.mark.django_db
@pytest.mark.parametrize("seed", range(4))
def test_copies_under_two_patients_stay_on_one_side(project, seed):
    cohort = cohort_of(project, ["P1", "P2", "P3", "P4", "P5"])
    twin = make_ct_series(project, 1, PatientID="P9")
    pair = copy_of(project, cohort, "P2", "P2 again")
    services.add_studies(cohort, [twin.study, pair.study])
    frozen = services.freeze(cohort, by=None, seed=seed, fractions={"train": 0.5, "test": 0.5})
    places = {place.patient.patient_id: place for place in frozen.patients.select_related("patient")}
    assert places["P2"].split == places["P2 again"].split
    assert places["P2"].group == places["P2 again"].group == 1
    assert places["P1"].group is None
    assert frozen.method["groups"] == 1


def copy_of(project, cohort, patient_id: str, other: str):
    """The same image under another PatientID."""
    pixels = patient_pixels(patient_id, ct_pixels(0)).astype("<i2").tobytes()
    return make_ct_series(project, 1, PatientID=other, PixelData=pixels)


@pytest.mark.django_db
def test_copies_that_a_person_dismissed_may_be_parted(project):
    cohort = cohort_of(project, ["P1", "P2"])
    services.add_studies(cohort, [copy_of(project, cohort, "P2", "P3").study])
    duplicates.compare_pending(settled=False)
    duplicates.dismiss(Pair.objects.get(), by=None)
    frozen = services.freeze(cohort, by=None, fractions={"train": 0.4, "validation": 0.3, "test": 0.3})
    assert sorted(frozen.patients.values_list("split", flat=True)) == ["test", "train", "validation"]


@pytest.mark.django_db
def test_declared_copies_stay_together(project):
    cohort = cohort_of(project, [f"P{n}" for n in range(8)])
    studies = list(cohort.cases.values_list("study", flat=True))
    mark(project, "dup_group", {studies[0]: "d1", studies[5]: "d1", studies[7]: "d1"}, role="group")
    services.freeze(cohort, by=None, folds=3, fractions={})
    folds = dict(cohort.cases.values_list("study", "cohort_patient__fold"))
    assert folds[studies[0]] == folds[studies[5]] == folds[studies[7]]
    assert set(folds.values()) == {0, 1, 2}


@pytest.mark.django_db
def test_sides_are_stratified_by_class(project):
    cohort = cohort_of(project, [f"P{n}" for n in range(20)])
    reference = classes_of(cohort, ["covid"] * 5 + ["none"] * 15)
    services.freeze(cohort, by=None, seed=3, fractions={"train": 0.6, "test": 0.4}, classes=reference)
    rows = cohort.cases.values_list("cohort_patient__split", "reference_labels__values")
    assert Counter((split, values["class"]) for split, values in rows) == {
        ("train", "covid"): 3, ("test", "covid"): 2, ("train", "none"): 9, ("test", "none"): 6,
    }  # fmt: skip
    assert cohort.reference_standards.get().kind == "classification"


@pytest.mark.django_db
def test_folds_with_a_part_held_out(project):
    cohort = cohort_of(project, [f"P{n}" for n in range(15)])
    services.freeze(cohort, by=None, folds=4, fractions={"test": 0.2})
    places = Counter(cohort.patients.values_list("split", "fold"))
    assert places[("test", None)] == 3
    assert {fold: n for (split, fold), n in places.items() if split == "train"} == {0: 3, 1: 3, 2: 3, 3: 3}
    sides = sides_of_fold(cohort, 2)
    assert {side: len(cases) for side, cases in sides.items()} == {"train": 9, "validation": 3, "test": 3}
    with pytest.raises(CohortError) as refused:
        sides_of_fold(cohort, 4)
    assert refused.value.code == "folds"


@pytest.mark.django_db
def test_one_source_left_out_at_a_time(project):
    cohort = cohort_of(project, ["P1", "P2", "P3", "P4"])
    studies = list(cohort.cases.values_list("study", flat=True))
    mark(project, "source", dict(zip(studies, ["b", "a", "b", "a"], strict=True)))
    services.freeze(cohort, by=None, leave_source_out=True, source="source")
    assert cohort.method == {} or Cohort.objects.get(pk=cohort.pk).method["sources"] == ["a", "b"]
    assert list(cohort.cases.values_list("cohort_patient__fold", flat=True)) == [1, 0, 1, 0]


@pytest.mark.django_db
@pytest.mark.parametrize("texts", [["a", "b", "a", None], ["a", "b", "a", "b"], ["a", "a", "a", "a"]])
def test_a_source_that_cannot_be_left_out_cleanly_is_refused(project, texts):
    """One case without source; a patient with images of two sources; only one source."""
    cohort = cohort_of(project, ["P1", "P1", "P3", "P4"])
    studies = list(cohort.cases.values_list("study", flat=True))
    mark(project, "source", {study: text for study, text in zip(studies, texts, strict=True) if text})
    with pytest.raises(CohortError) as refused:
        services.freeze(cohort, by=None, leave_source_out=True, source="source")
    assert refused.value.code == "sources"


@pytest.mark.django_db
@pytest.mark.parametrize("folds", [1, 21, 6])
def test_a_number_of_folds_that_makes_no_sense_is_refused(project, folds):
    cohort = cohort_of(project, ["P1", "P2", "P3"])
    with pytest.raises(CohortError) as refused:
        services.freeze(cohort, by=None, folds=folds, fractions={})
    assert refused.value.code in ("folds", "too_few_patients")


@pytest.mark.django_db
def test_the_same_design_gives_the_same_folds_again(project):
    folds = []
    for name in ("One", "Two"):
        cohort = services.create(project=project, name=name, by=None)
        found = project.studies.order_by("pk" if name == "One" else "-pk")
        studies = list(found) or [make_ct_series(project, 1, PatientID=f"P{n}").study for n in range(9)]
        services.add_studies(cohort, studies)
        services.freeze(cohort, by=None, folds=3, seed=8, fractions={})
        folds.append(dict(cohort.cases.values_list("study", "cohort_patient__fold")))
    assert folds[0] == folds[1]


def run(sql: str, *values) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql, values)


@pytest.mark.django_db
def test_raw_sql_cannot_freeze_a_cohort_with_copies_on_two_sides(project):
    cohort = cohort_of(project, ["P1", "P2"])
    services.add_studies(cohort, [copy_of(project, cohort, "P2", "P3").study])
    duplicates.compare_pending(settled=False)
    sides = dict(zip(cohort.patients.order_by("patient__patient_id"), ["train", "train", "test"], strict=True))
    for place, side in sides.items():
        run("UPDATE cohorts_cohortpatient SET split = %s WHERE id = %s", side, place.pk)
    with pytest.raises(IntegrityError, match="two sides"), transaction.atomic():
        run("UPDATE cohorts_cohort SET frozen_at = %s WHERE id = %s", timezone.now(), cohort.pk)
    run("UPDATE cohorts_cohortpatient SET split = 'train' WHERE cohort_id = %s", cohort.pk)
    run("UPDATE cohorts_cohort SET frozen_at = %s WHERE id = %s", timezone.now(), cohort.pk)


@pytest.mark.django_db
def test_raw_sql_cannot_freeze_a_cohort_with_declared_copies_on_two_sides(project):
    cohort = cohort_of(project, ["P1", "P2"])
    studies = list(cohort.cases.values_list("study", flat=True))
    mark(project, "dup_group", dict.fromkeys(studies, "d1"), role="group")
    first = cohort.patients.first()
    run("UPDATE cohorts_cohortpatient SET split = 'test' WHERE id = %s", first.pk)
    with pytest.raises(IntegrityError, match="two sides"), transaction.atomic():
        run("UPDATE cohorts_cohort SET frozen_at = now() WHERE id = %s", cohort.pk)


@pytest.mark.django_db
@pytest.mark.parametrize("change", ["split = 'test'", "fold = 3"])
def test_raw_sql_cannot_part_a_group_of_an_open_cohort(project, change):
    cohort = cohort_of(project, ["P1", "P2"])
    run('UPDATE cohorts_cohortpatient SET "group" = 1 WHERE cohort_id = %s', cohort.pk)
    run("SET CONSTRAINTS ALL IMMEDIATE")
    with pytest.raises(IntegrityError, match="one side"), transaction.atomic():
        run(f"UPDATE cohorts_cohortpatient SET {change} WHERE id = %s", cohort.patients.first().pk)


@pytest.mark.django_db
def test_raw_sql_cannot_put_a_patient_on_a_second_side(project):
    cohort = cohort_of(project, ["P1", "P2"])
    place = cohort.patients.first()
    with pytest.raises(IntegrityError, match="patient_once_in_cohort"), transaction.atomic():
        run(
            "INSERT INTO cohorts_cohortpatient (cohort_id, patient_id, split) VALUES (%s, %s, 'test')",
            cohort.pk,
            place.patient_id,
        )


@pytest.mark.django_db
@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE cohorts_cohort SET method = '{}' WHERE id = %s",
        'UPDATE cohorts_cohortpatient SET "group" = 7 WHERE cohort_id = %s',
        "UPDATE cohorts_cohortpatient SET fold = 1 WHERE cohort_id = %s",
        "DELETE FROM cohorts_cohortpatient WHERE cohort_id = %s",
    ],
)
def test_raw_sql_cannot_change_a_frozen_split(project, sql):
    cohort = cohort_of(project, ["P1", "P2", "P3"])
    services.freeze(cohort, by=None)
    with pytest.raises(IntegrityError, match=r"is frozen|violates"), transaction.atomic():
        run(sql, cohort.pk)


@pytest.mark.django_db
def test_a_class_that_the_reference_lacks_is_refused_also_by_the_database(project):
    cohort = cohort_of(project, ["P1", "P2", "P3"])
    with pytest.raises(CohortError) as refused:
        services.create_reference(
            cohort, name="X", source="import", labels=[], classes=["a", "b"], by=None,
            cases=[services.CaseTruth(cohort.cases.first(), values={"class": "c"})],
        )  # fmt: skip
    assert refused.value.code == "classes"
    reference = classes_of(cohort, ["a", "b", "a"])
    run("DELETE FROM cohorts_referencelabel WHERE case_id = %s", cohort.cases.first().pk)
    with pytest.raises(IntegrityError, match="does not fit"), transaction.atomic():
        reference.case_labels.create(case=cohort.cases.first(), values={"class": "c"})


@pytest.mark.django_db
def test_values_fit_their_variable_whoever_writes_them(project):
    patient = make_ct_series(project, 1).study.patient
    foreign = make_ct_series(ProjectFactory(), 1).study
    number = ClinicalVariable.objects.create(project=project, name="CRP", kind="number", unit="mg/L")
    survival = ClinicalVariable.objects.create(project=project, name="OS", kind="survival", unit="d")
    for variable, values in (
        (number, {"patient": foreign.patient, "number": 1.0}),
        (number, {"patient": patient, "study": foreign, "number": 1.0}),
        (number, {"patient": patient, "text": "high"}),
        (survival, {"patient": patient, "number": 12.0}),
    ):
        with pytest.raises(IntegrityError), transaction.atomic():
            ClinicalValue.objects.create(variable=variable, **values)
    ClinicalValue.objects.create(variable=number, patient=patient, number=1.5)
    with pytest.raises(IntegrityError, match="clinical_value_once"), transaction.atomic():
        ClinicalValue.objects.create(variable=number, patient=patient, number=1.5)
