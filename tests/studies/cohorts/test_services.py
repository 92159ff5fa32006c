from __future__ import annotations

import threading

import numpy as np
import pytest
from django.db import IntegrityError, connection, transaction

from studies.cohorts import services
from studies.cohorts.errors import CohortError
from studies.cohorts.models import Case, Cohort, CohortPatient, ReferenceLabel
from studies.dicom import segmentation
from studies.models import Origin
from studies.volumes import load_label_map, load_volume, source_datasets
from tests.factories import ProjectFactory, UserFactory, make_ct_series, store_datasets

LABELS = [{"number": 1, "name": "Box"}]


@pytest.fixture(autouse=True)
def media(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path


@pytest.fixture
def project():
    return ProjectFactory()


@pytest.fixture
def studies(project):
    """Six studies of five patients: P0 has two."""
    return [make_ct_series(project, 2, PatientID=f"P{n % 5}").study for n in range(6)]


@pytest.fixture
def cohort(project, studies):
    cohort = services.create(project=project, name="Chests", by=None)
    services.add_studies(cohort, studies)
    return cohort


def reference_series(case, *, origin=Origin.REFERENCE):
    sources = source_datasets(case.image)
    mask = np.zeros((2, 32, 40), np.uint8)
    mask[0, 8:16, 10:20] = 1
    return store_datasets(case.cohort.project, [segmentation.write(sources, mask, LABELS)], origin=origin)


@pytest.mark.django_db
def test_studies_become_cases_with_pseudonyms_in_order(cohort, studies):
    assert [(case.name, case.study_id) for case in cohort.cases.all()] == [
        (f"C-{n:04d}", study.pk) for n, study in enumerate(studies, start=1)
    ]
    assert cohort.patients.count() == 5
    again = services.add_studies(cohort, studies[:2])
    assert not again.cases
    assert [case.study_id for case in again.already] == [study.pk for study in studies[:2]]


@pytest.mark.django_db
def test_the_image_series_with_most_images_is_picked(project):
    few = make_ct_series(project, 1, SeriesDescription="Localiser")
    study = few.study
    many = make_ct_series(project, 4, StudyInstanceUID=study.study_instance_uid)
    assert many.study_id == study.pk
    cohort = services.create(project=project, name="A", by=None)
    (case,) = services.add_studies(cohort, [study]).cases
    assert case.image_id == many.pk


@pytest.mark.django_db
def test_a_study_without_images_is_reported_and_not_added(project):
    series = make_ct_series(project, 1, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11", PixelData=None, Modality="SR")
    cohort = services.create(project=project, name="A", by=None)
    assert services.add_studies(cohort, [series.study]).without_image == [series.study]
    assert not cohort.cases.exists()


@pytest.mark.django_db
def test_a_study_of_another_project_is_refused(cohort):
    with pytest.raises(CohortError) as refused:
        services.add_studies(cohort, [make_ct_series(ProjectFactory(), 1).study])
    assert refused.value.code == "other_project"


@pytest.mark.django_db
def test_a_name_is_taken_once(cohort, project):
    with pytest.raises(CohortError) as refused:
        services.create(project=project, name=" Chests ", by=None)
    assert refused.value.code == "name_taken"
    services.create(project=ProjectFactory(), name="Chests", by=None)


@pytest.mark.django_db
def test_freezing_splits_by_patient_and_ends_all_change(cohort, project):
    user = UserFactory()
    frozen = services.freeze(cohort, by=user, fractions={"train": 0.6, "validation": 0.2, "test": 0.2}, seed=7)
    assert (frozen.seed, frozen.frozen_by, len(frozen.digest)) == (7, user, 64)
    splits = list(cohort.patients.values_list("split", flat=True))
    assert sorted(splits) == ["test", "train", "train", "train", "validation"]
    first, last = cohort.cases.get(name="C-0001"), cohort.cases.get(name="C-0006")
    assert first.cohort_patient_id == last.cohort_patient_id  # both studies of P0
    for change in (
        lambda: services.freeze(cohort, by=user),
        lambda: services.add_studies(cohort, [make_ct_series(project, 1, PatientID="P9").study]),
        lambda: services.remove(first),
    ):
        with pytest.raises(CohortError) as refused:
            change()
        assert refused.value.code == "frozen"


@pytest.mark.django_db
def test_the_same_patients_and_seed_give_the_same_split_in_another_cohort(cohort, project, studies):
    other = services.create(project=project, name="Again", by=None)
    services.add_studies(other, studies[::-1])
    for one in (cohort, other):
        services.freeze(one, by=None, seed=3)
    splits = [dict(one.cases.values_list("study_id", "cohort_patient__split")) for one in (cohort, other)]
    assert splits[0] == splits[1]
    assert Cohort.objects.get(pk=cohort.pk).digest == Cohort.objects.get(pk=other.pk).digest


@pytest.mark.django_db
def test_a_cohort_of_one_patient_and_an_empty_one_cannot_be_split(project):
    cohort = services.create(project=project, name="One", by=None)
    with pytest.raises(CohortError) as empty:
        services.freeze(cohort, by=None)
    assert empty.value.code == "empty"
    services.add_studies(cohort, [make_ct_series(project, 1, PatientID="P1").study for _ in range(5)])
    with pytest.raises(CohortError) as refused:
        services.freeze(cohort, by=None)
    assert refused.value.code == "too_few_patients"
    cohort.refresh_from_db()
    assert not cohort.frozen


@pytest.mark.django_db
@pytest.mark.parametrize(
    "tamper",
    [
        lambda cohort: CohortPatient.objects.filter(cohort=cohort).update(split="train"),
        lambda cohort: CohortPatient.objects.filter(cohort=cohort).first().delete(),
        lambda cohort: Case.objects.filter(cohort=cohort).update(name="C-9"),
        lambda cohort: Case.objects.filter(cohort=cohort).delete(),
        lambda cohort: Cohort.objects.filter(pk=cohort.pk).update(frozen_at=None),
        lambda cohort: Cohort.objects.filter(pk=cohort.pk).update(seed=99),
        lambda cohort: cohort.delete(),
        lambda cohort: CohortPatient.objects.create(
            cohort=cohort, patient=make_ct_series(cohort.project, 1, PatientID="P9").study.patient
        ),
    ],
)
def test_the_database_itself_refuses_changes_of_a_frozen_cohort(cohort, tamper):
    services.freeze(cohort, by=None)
    with pytest.raises(IntegrityError, match="is frozen"), transaction.atomic():
        tamper(cohort)
    Cohort.objects.filter(pk=cohort.pk).update(description="May still be described")


@pytest.mark.django_db
def test_the_database_refuses_a_case_on_another_patients_side(cohort):
    case = cohort.cases.get(name="C-0001")
    other = cohort.cases.get(name="C-0002")
    for change in (
        {"cohort_patient": other.cohort_patient},
        {"image": other.image},
        {"study": make_ct_series(cohort.project, 1, PatientID="P9").study},
    ):
        with pytest.raises(IntegrityError, match="does not fit"), transaction.atomic():
            Case.objects.filter(pk=case.pk).update(**change)
    with pytest.raises(IntegrityError, match="is in a cohort"), transaction.atomic():
        type(case.study).objects.filter(pk=case.study_id).update(patient=other.study.patient)
    with pytest.raises(IntegrityError, match="keeps its patient"), transaction.atomic():
        CohortPatient.objects.filter(pk=case.cohort_patient_id).update(
            patient=make_ct_series(cohort.project, 1, PatientID="P9").study.patient
        )


@pytest.mark.django_db(transaction=True)
def test_a_member_cannot_slip_in_while_the_cohort_is_being_frozen(cohort, project):
    """An insert that starts during the freeze waits for it, and is refused."""
    patient = make_ct_series(project, 1, PatientID="P9").study.patient
    outcome = []

    def slip_in():
        try:
            CohortPatient.objects.create(cohort_id=cohort.pk, patient=patient)
            outcome.append("stored")
        except IntegrityError:
            outcome.append("refused")
        finally:
            connection.close()

    thread = threading.Thread(target=slip_in)
    with transaction.atomic():
        services.freeze(cohort, by=None)
        thread.start()
        thread.join(timeout=0.5)
        assert not outcome, "the insert did not wait"
    thread.join(timeout=10)
    assert outcome == ["refused"]


@pytest.mark.django_db
def test_removing_the_last_case_of_a_patient_removes_the_patient(cohort):
    services.remove(cohort.cases.get(name="C-0002"))
    assert cohort.patients.count() == 4
    services.remove(cohort.cases.get(name="C-0001"))  # P0 has another study
    assert cohort.patients.count() == 4
    added = services.add_studies(cohort, [make_ct_series(cohort.project, 1, PatientID="P9").study])
    assert added.cases[0].name not in {"C-0003", "C-0004", "C-0005", "C-0006"}


@pytest.mark.django_db
def test_reference_standards_are_versioned_and_never_change(cohort):
    cases = list(cohort.cases.all())
    truths = [services.CaseTruth(case, reference_series(case)) for case in cases[:2]]
    first = services.create_reference(
        cohort, name="Experts", source="import", labels=LABELS, cases=truths, by=None, detail={"files": 2}
    )
    second = services.create_reference(
        cohort, name="Experts", source="import", labels=LABELS, cases=truths[:1], by=None
    )
    assert (first.version, second.version) == (1, 2)
    assert first.case_labels.count() == 2
    for change in (
        lambda: type(first).objects.filter(pk=first.pk).update(labels=[]),
        lambda: ReferenceLabel.objects.filter(reference=first).update(segmentation=None),
    ):
        with pytest.raises(IntegrityError, match="never changes"), transaction.atomic():
            change()


@pytest.mark.django_db
def test_a_reference_of_another_study_or_one_that_readers_see_is_refused(cohort):
    first, second = cohort.cases.all()[:2]
    for truth, code in (
        (services.CaseTruth(first, reference_series(second)), "wrong_segmentation"),
        (services.CaseTruth(first, first.image), "wrong_segmentation"),
        (services.CaseTruth(first, reference_series(first, origin=Origin.MODEL)), "wrong_segmentation"),
    ):
        with pytest.raises(CohortError) as refused:
            services.create_reference(cohort, name="X", source="import", labels=LABELS, cases=[truth], by=None)
        assert refused.value.code == code
    for kwargs, code in (({"cases": []}, "empty"), ({"cases": [services.CaseTruth(first)], "name": ""}, "name")):
        with pytest.raises(CohortError) as refused:
            services.create_reference(cohort, **{"name": "X", "source": "import", "labels": [], "by": None, **kwargs})
        assert refused.value.code == code


@pytest.mark.django_db
def test_what_is_stored_loads_as_volume_and_label_map(cohort):
    case = cohort.cases.first()
    volume = load_volume(case.image)
    assert volume.shape == (2, 32, 40)
    assert volume.spacing == (2.5, 0.8, 0.7)
    assert volume.array[1, 0, 0] == 1001 - 1024  # background of slice 1, rescaled
    label_map = load_label_map(reference_series(case), volume, LABELS)
    expected = np.zeros((2, 32, 40), np.uint8)
    expected[0, 8:16, 10:20] = 1
    np.testing.assert_array_equal(label_map, expected)
