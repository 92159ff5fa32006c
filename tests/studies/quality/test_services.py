from __future__ import annotations

import io
import json

import numpy as np
import pytest
from django.core.management import call_command
from django.http import QueryDict
from django.urls import reverse
from django.utils import timezone

from portal.worklist.filters import StudyFilter
from portal.worklist.tasks import check_quality
from studies.cohorts import services as cohorts
from studies.dicom import phantom
from studies.models import Series
from studies.quality import services
from studies.quality.models import Check, Finding
from tests.factories import ProjectFactory, ct_slice, member, store_datasets

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    return ProjectFactory()


@pytest.fixture
def good(project):
    return store_datasets(project, phantom.make(3).datasets())


@pytest.fixture
def bad(project):
    """A phantom without two of its slices, one slice blank."""
    datasets = phantom.make(4).datasets()
    datasets[6].PixelData = np.zeros((datasets[6].Rows, datasets[6].Columns), "<i2").tobytes()
    return store_datasets(project, [one for k, one in enumerate(datasets) if k not in (3, 4)])


def settle():
    Series.objects.update(updated_at=timezone.now() - 2 * services.SETTLED)


def test_new_series_are_checked_once_they_are_at_rest(good, bad):
    check_quality()
    assert not Check.objects.exists()  # still coming in
    settle()
    check_quality()
    assert set(Check.objects.values_list("series", flat=True)) == {good.pk, bad.pk}
    found = {one.code: one.numbers for one in Finding.objects.all()}
    assert found["missing_slices"]["missing"] == 2
    assert found["blank"]["images"] == 1
    assert set(found) == {"missing_slices", "blank"}
    assert not services.pending(settled=False).exists()


def test_more_images_ask_for_another_look(project, bad):
    services.check_pending(settled=False)
    datasets = phantom.make(4).datasets()
    store_datasets(project, [datasets[3], datasets[4]])
    assert list(services.pending(settled=False)) == [bad]
    services.check_pending(settled=False)
    assert [one.code for one in Finding.objects.all()] == ["blank"]


def test_a_damaged_file_is_a_finding(good):
    from studies.ingest.staging import media

    media(good.instances.first().file).write_bytes(b"DICM nothing")
    services.check_pending(settled=False)
    assert Finding.objects.get(code="undecodable").numbers["images"] == 1


def test_the_worklist_filters_by_finding(project, good, bad):
    services.check_pending(settled=False)
    user = member(project)

    def studies(query):
        return list(StudyFilter.of(QueryDict(query)).apply(user, project, timezone.localdate()))

    assert studies("quality=any") == studies("quality=blank") == [bad.study]
    assert studies("quality=none") == [good.study]
    assert studies("quality=gantry_tilt") == []
    assert StudyFilter.of(QueryDict("quality=nonsense")).unknown == ("quality",)


def test_a_cohort_leaves_flagged_images_out_where_asked(project, good, bad):
    services.check_pending(settled=False)
    cohort = cohorts.create(project=project, name="Clean", by=None)
    added = cohorts.add_studies(cohort, [good.study, bad.study], without_findings=True)
    assert [case.study for case in added.cases] == [good.study]
    assert added.flagged == [bad.study]
    assert added.without_image == []
    again = cohorts.add_studies(cohort, [bad.study])
    assert [case.image for case in again.cases] == [bad]


def test_pages_show_the_reason(client, project, bad):
    services.check_pending(settled=False)
    client.force_login(member(project))
    page = client.get(reverse("study", args=[bad.study_id])).content.decode()
    assert "Missing slices" in page
    assert Finding.objects.get(code="missing_slices").reason in page
    assert "Missing slices" in client.get(reverse("studies")).content.decode()


def test_the_cohort_form_leaves_out(client, project, good, bad):
    services.check_pending(settled=False)
    client.force_login(member(project))
    form = {"study": [good.study_id, bad.study_id], "cohort": "", "name": "Sound", "without_findings": "on",
            "project": project.slug}  # fmt: skip
    page = client.post(reverse("cohort_create"), form, follow=True).content.decode()
    assert "1 study left out for quality findings" in page
    assert project.cohorts.get(name="Sound").cases.count() == 1


def test_the_command_tells_what_it_found(project):
    store_datasets(project, [ct_slice(k, StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.4") for k in (0, 1, 2, 5)])
    out = io.StringIO()
    call_command("check_quality", project=project.slug, json=True, stdout=out)
    answer = json.loads(out.getvalue())
    assert answer["checked"] == 1
    finding = next(one for one in answer["findings"] if one["code"] == "missing_slices")
    assert (finding["study"], finding["series"], finding["numbers"]["missing"]) == ("1.2.3", "1.2.3.4", 2)
