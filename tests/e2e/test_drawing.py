"""Two labels on one slice: each stroke has the label that was chosen, and what is stored is what is drawn.

The frames of these images do not end with a whole byte.
"""

from __future__ import annotations

import numpy as np
import pytest
from playwright.sync_api import expect

from portal.accounts.models import Role
from portal.annotation import campaigns
from portal.annotation.design import SegmentSpec
from portal.annotation.models import Draft, Task
from studies.cohorts import services as cohorts
from studies.volumes import load_label_map, load_volume
from tests.e2e.phantom import LABELS, make_phantom
from tests.e2e.test_reading import SAVED, open_task, stroke
from tests.factories import ProjectFactory, member

pytestmark = [pytest.mark.e2e, pytest.mark.django_db(transaction=True)]

ROWS, COLUMNS = 49, 34  # 1,666 voxels: the second frame of a BINARY Segmentation begins in the middle of a byte


def test_two_labels_on_a_slice_are_drawn_as_chosen_and_stored_as_drawn(sign_in):
    project = ProjectFactory(slug="thorax")
    phantom = make_phantom(project, rows=ROWS, columns=COLUMNS)
    manager, reader = member(project, Role.MANAGER), member(project, Role.READER)
    cohort = cohorts.create(project=project, name="Phantoms", by=manager)
    cohorts.add_studies(cohort, [phantom.series.study])
    segments = [SegmentSpec(label["number"], label["name"], "#5acce6") for label in LABELS]
    made = campaigns.create(
        project=project, by=manager, name="Lobes", cohort=cohort, readers=[reader], overlap=1, segments=segments
    )
    campaigns.start(made, by=manager)
    task = Task.objects.select_related("reader").get(campaign=made)

    page = sign_in(reader)
    frame = open_task(page, task)
    stroke(page, 1, -120, 0)
    page.locator(".label-row[data-label='2']").click()
    # OHIF measures what was drawn meanwhile and writes back what it knew before.
    page.wait_for_timeout(2000)
    assert frame.evaluate("cornerstoneTools.segmentation.segmentIndex.getActiveSegmentIndex('readroom-drawing')") == 2
    stroke(page, 2, 120, 0)
    page.wait_for_timeout(4000)  # longer than a drawing waits to be saved
    expect(page.locator("#save")).to_have_text(SAVED)

    drawn = frame.evaluate(
        "() => [...readroom.drawing.labelMap()].map(([key, voxels]) => [key.split('#')[0], Array.from(voxels)])"
    )
    expected = np.zeros((len(phantom.datasets), ROWS, COLUMNS), np.uint8)
    for uid, voxels in drawn:
        place = next(k for k, dataset in enumerate(phantom.datasets) if dataset.SOPInstanceUID == uid)
        expected[place] = np.reshape(voxels, (ROWS, COLUMNS))
    assert set(np.unique(expected)) == {0, 1, 2}
    draft = Draft.objects.filter(task=task).order_by("-version").first()
    volume = load_volume(phantom.series)
    np.testing.assert_array_equal(load_label_map(draft.segmentation, like=volume, labels=LABELS), expected)
