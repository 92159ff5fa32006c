"""A study in OHIF: images, a model's result laid over them without a prompt, and who made what."""

from __future__ import annotations

import numpy as np
import pytest
from django.urls import reverse
from playwright.sync_api import Page, expect

from portal.accounts.models import Role
from studies.models import Origin
from tests.e2e.phantom import make_phantom
from tests.e2e.pixels import coloured_share, grey_share, viewport_pixels
from tests.factories import ProjectFactory, member

pytestmark = [pytest.mark.e2e, pytest.mark.django_db(transaction=True)]

DRAWN = """() => {
  if (!window.readroom?.overlays?.started) return false;
  const id = services.viewportGridService.getActiveViewportId();
  return id && services.segmentationService.getSegmentationRepresentations(id).length > 0 &&
    services.cornerstoneViewportService.getCornerstoneViewport(id)?.getImageIds?.().length > 0;
}"""


@pytest.fixture
def project(transactional_db):
    return ProjectFactory(slug="thorax")


def items(page: Page) -> dict[str, bool]:
    """Description → shown, of every segmentation in the panel."""
    return page.evaluate("Object.fromEntries(readroom.overlays.items.map((i) => [i.description, i.shown]))")


def settled(page: Page, measure) -> float:
    """A measure of the viewport once two looks agree."""
    before = -1.0
    for _ in range(40):
        page.wait_for_timeout(250)
        now = measure(viewport_pixels(page, page.main_frame))
        if abs(now - before) < 1e-3:
            return now
        before = now
    return before


def test_a_models_result_lies_over_the_images_at_opening(project, sign_in):
    phantom = make_phantom(project)
    phantom.add_segmentation(
        phantom.label_map, origin=Origin.MODEL, description="Lobes", provenance="Lobe U-Net version 3"
    )
    rita = member(project, Role.READER, username="rita")
    shifted = np.roll(phantom.label_map, 10, axis=1)
    phantom.add_segmentation(
        shifted, origin=Origin.ANNOTATION, description="Drawing", provenance="Campaign 1", created_by=rita
    )
    page = sign_in(member(project, Role.ENGINEER))
    page.goto(reverse("open_study", args=[phantom.series.study_id]))
    page.wait_for_function(DRAWN)

    # The images are there, and the overlay is, without a question asked.
    assert settled(page, grey_share) > 0.3
    overlay = settled(page, coloured_share)
    middle = phantom.label_map[4] > 0
    body_share = middle.sum() / middle.size  # of the image; the viewport shows the image's middle enlarged
    assert overlay > 0.5 * body_share
    assert page.get_by_role("dialog").count() == 0
    assert items(page) == {"Lobes": True, "Drawing": False}

    # It opened at the slice with most of the segmentation.
    counts = (phantom.label_map > 0).sum(axis=(1, 2))
    shown = page.evaluate(
        "services.cornerstoneViewportService.getCornerstoneViewport("
        "services.viewportGridService.getActiveViewportId()).getCurrentImageId()"
    )
    assert phantom.datasets[int(counts.argmax())].SOPInstanceUID in shown

    # The legend tells the model from the person.
    ai = page.locator("article[data-kind=model]")
    expect(ai).to_contain_text("Lobe U-Net version 3")
    expect(ai).to_contain_text("Left lobe")
    expect(ai).to_contain_text("Right lobe")
    expect(page.locator("article[data-kind=annotation]")).to_contain_text("rita")
    expect(page.get_by_text("Research use, not a medical device")).to_be_visible()

    # Off and on again, and the person's drawing on top.
    page.get_by_role("switch", name="Show Lobes").click()
    assert settled(page, coloured_share) < 0.1 * overlay
    page.get_by_role("switch", name="Show Drawing").click()
    page.wait_for_function("readroom.overlays.items.every((i) => i.shown === (i.description === 'Drawing'))")
    assert settled(page, coloured_share) > 0.3 * overlay


def test_a_study_without_results_says_so(project, sign_in):
    phantom = make_phantom(project)
    page = sign_in(member(project, Role.VIEWER))
    page.goto(reverse("open_study", args=[phantom.series.study_id]))
    expect(page.get_by_text("No segmentation belongs to this study yet")).to_be_visible()
    assert settled(page, grey_share) > 0.3
    assert settled(page, coloured_share) < 0.005


def test_the_same_study_in_two_projects_opens_in_its_own(project, sign_in):
    """Both have the UIDs; only one of them has a result."""
    other = ProjectFactory(slug="other")
    first = make_phantom(project)
    uids = {key: first.datasets[0][key].value for key in ("StudyInstanceUID", "SeriesInstanceUID")}
    make_phantom(other, **uids)
    first.add_segmentation(first.label_map, origin=Origin.MODEL, description="Lobes", provenance="Lobe U-Net 3")
    user = member(project, Role.ENGINEER)
    other.memberships.create(user=user, role=Role.ENGINEER)
    page = sign_in(user)
    page.goto(reverse("open_study", args=[other.studies.get().pk]))
    expect(page.get_by_text("No segmentation belongs to this study yet")).to_be_visible()
    page.goto(reverse("open_study", args=[first.series.study_id]))
    page.wait_for_function(DRAWN)
    assert items(page) == {"Lobes": True}
