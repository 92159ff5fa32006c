from __future__ import annotations

import pytest

from studies.cohorts import changes, services
from studies.models import Origin
from studies.quality.models import Finding
from tests.factories import ProjectFactory, make_ct_series

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def media(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path


@pytest.fixture
def case():
    project = ProjectFactory()
    series = make_ct_series(project, 2)
    make_ct_series(project, 1, StudyInstanceUID=series.study.study_instance_uid, SeriesDescription="Scout")
    cohort = services.create(project=project, name="A", by=None)
    (case,) = services.add_studies(cohort, [series.study]).cases
    return case


def more(case, n=1, **overrides):
    return make_ct_series(case.cohort.project, n, StudyInstanceUID=case.study.study_instance_uid, **overrides)


def test_an_untouched_study_has_not_changed(case):
    assert changes.of([case]) == {}


def test_new_series_and_images_are_named(case):
    more(case, SeriesDescription="Later")
    more(case, 3, SeriesInstanceUID=case.image.series_instance_uid)
    assert changes.of([case]) == {case.pk: ["1 new series", "3 new images"]}


def test_results_of_models_and_readers_are_no_change(case):
    more(case, origin=Origin.MODEL)
    assert changes.of([case]) == {}


def test_deleted_series_and_quality_findings_are_named_after_the_freeze_too(case):
    services.freeze(case.cohort, by=None, fractions={"test": 1})
    case.study.series.exclude(pk=case.image_id).delete()
    Finding.objects.create(series=case.image, code="missing_slices", reason="Two slices are missing.")
    ((words,),) = [changes.of([case]).values()]
    assert words[0] == "1 series deleted"
    assert words[1].startswith("quality: ")


def test_a_case_of_which_nothing_was_noted_is_not_said_to_have_changed(case):
    case.as_added = None
    more(case)
    assert changes.of([case]) == {}
