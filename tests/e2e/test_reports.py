"""A model's report in OHIF: boxes over the images at opening, the list of findings, classes, OHIF's own reading."""

from __future__ import annotations

import numpy as np
import pytest
from django.urls import reverse
from playwright.sync_api import Page, expect

from inference.prediction.models import Prediction
from portal.accounts.models import Role
from portal.annotation import campaigns
from portal.annotation.design import QuestionSpec
from studies.cohorts import services as cohorts
from studies.dicom import structured_report
from studies.dicom.segmentation import Algorithm
from studies.dicom.structured_report import Finding, Value
from studies.dicom.volume import from_datasets
from studies.models import Origin
from tests.e2e.phantom import make_phantom
from tests.factories import ProjectFactory, member, store_datasets
from tests.inference.models_factory import threshold_version

pytestmark = [pytest.mark.e2e, pytest.mark.django_db(transaction=True)]

BOXES = """() => [...document.querySelectorAll('svg[data-readroom=findings] polygon')].map((p) =>
  p.getAttribute('points').split(' ').map((pair) => pair.split(',').map(Number)))"""
# Where a place in the patient is drawn in the active viewport, in the coordinates of the drawing.
CANVAS = """(worlds) => { const v = services.cornerstoneViewportService.getCornerstoneViewport(
  services.viewportGridService.getActiveViewportId()); return worlds.map((w) => [...v.worldToCanvas(w)]); }"""
SHOWN = """services.cornerstoneViewportService.getCornerstoneViewport(
  services.viewportGridService.getActiveViewportId()).getCurrentImageId()"""


@pytest.fixture
def project(transactional_db):
    return ProjectFactory(slug="thorax")


def corners(phantom, low, high) -> np.ndarray:
    """LPS mm of the box from voxel `low` to voxel `high` (x, y, z), both whole within it."""
    affine = from_datasets(phantom.datasets).affine
    ends = np.array([[*(np.array(low) - 0.5), 1], [*(np.array(high) + 0.5), 1]])
    return (ends @ affine.T)[:, :3]


def add_report(phantom, description="Nodules 2 report", origin=Origin.MODEL, **content):
    dataset = structured_report.write(
        phantom.datasets, algorithm=Algorithm("Nodules", "2"), series_description=description, **content
    )
    return store_datasets(phantom.series.study.project, [dataset], origin=origin, provenance="Nodules 2")


def open_study(page: Page, phantom) -> None:
    page.goto(reverse("open_study", args=[phantom.series.study_id]))
    page.wait_for_function("() => window.readroom?.reports?.opened")


def test_boxes_of_a_detector_lie_over_the_images_at_opening_and_the_list_leads_to_each(project, sign_in):
    phantom = make_phantom(project)
    first, second = corners(phantom, (25, 35, 3), (40, 54, 5)), corners(phantom, (58, 44, 0), (70, 60, 1))
    faint = corners(phantom, (5, 5, 3), (9, 9, 5))
    add_report(
        phantom,
        findings=[Finding("Nodule", 0.93, first), Finding("Nodule", 0.62, second), Finding("Nodule", 0.2, faint)],
    )
    page = sign_in(member(project, Role.READER))
    open_study(page, phantom)
    page.wait_for_function(f"() => ({BOXES})().length === 2")  # a dark rim below the coloured line

    # At the slice through the middle of the most certain finding, at its place.
    assert phantom.datasets[4].SOPInstanceUID in page.evaluate(SHOWN)
    z = from_datasets(phantom.datasets).affine @ [0, 0, 4, 1]
    ends = [[first[0][0], first[0][1], z[2]], [first[1][0], first[1][1], z[2]]]
    wanted = np.array(page.evaluate(CANVAS, ends))
    drawn = np.array(page.evaluate(BOXES)[0])
    np.testing.assert_allclose(drawn.min(axis=0), wanted.min(axis=0), atol=0.6)
    np.testing.assert_allclose(drawn.max(axis=0), wanted.max(axis=0), atol=0.6)
    expect(page.locator("svg[data-readroom=findings] text")).to_have_text("Nodule 93 %")
    assert page.get_by_role("dialog").count() == 0

    report = page.locator("article[data-report]")
    expect(report).to_contain_text("Nodules 2 report")
    expect(report).to_contain_text("2 of 3 findings")
    lengths = np.round(np.abs(np.diff(first, axis=0))[0])
    expect(report).to_contain_text(" × ".join(f"{length:.0f}" for length in lengths) + " mm, image ")
    expect(page.get_by_text("Research use, not a medical device")).to_be_visible()
    page.get_by_role("button", name="Go to Nodule 62 %").click()
    page.wait_for_function("([uid]) => (" + SHOWN + ").includes(uid)", arg=[phantom.datasets[0].SOPInstanceUID])
    expect(page.locator("svg[data-readroom=findings] text")).to_have_text("Nodule 62 %")

    # Fainter ones when asked for, and all of it off.
    slider = page.get_by_label("Least certainty of the findings shown")
    slider.focus()
    for _ in range(4):
        slider.press("PageDown")
    expect(report).to_contain_text("3 of 3 findings")
    page.get_by_role("switch", name="Show Nodules 2 report").click()
    page.wait_for_function(f"() => ({BOXES})().length === 0")
    # What a model found is no measurement of the reader's.
    assert page.evaluate("services.measurementService.getMeasurements().length") == 0


def test_ohif_takes_the_report_over_as_its_own_rectangles(project, sign_in):
    """What another hospital's OHIF would make of it: a rectangle on the right slice. Where pixels are not square OHIF
    takes the spacing of rows for that of columns; ours does not, see the first test."""
    phantom = make_phantom(project, PixelSpacing=[0.7, 0.7])
    add_report(
        phantom, findings=[Finding("Nodule", 0.93, corners(phantom, (25, 35, 3), (40, 54, 5)))], scores={"Mass": 0.1}
    )
    page = sign_in(member(project, Role.READER))
    open_study(page, phantom)
    measurements = page.evaluate(
        """async () => {
          const [set] = services.displaySetService.getActiveDisplaySets().filter((s) => s.Modality === 'SR');
          await set.load();
          commandsManager.runCommand('hydrateStructuredReport', { displaySetInstanceUID: set.displaySetInstanceUID });
          return services.measurementService.getMeasurements().map((m) => ({
            tool: m.toolName, sop: m.SOPInstanceUID, rehydratable: set.isRehydratable,
            points: m.points.map((p) => [...p]) }));
        }"""
    )
    (made,) = measurements
    assert (made["tool"], made["rehydratable"]) == ("RectangleROI", True)
    assert made["sop"] == phantom.datasets[4].SOPInstanceUID
    low, high = corners(phantom, (25, 35, 4), (40, 54, 4))
    np.testing.assert_allclose(np.min(made["points"], axis=0)[:2], np.minimum(low, high)[:2], atol=1e-3)
    np.testing.assert_allclose(np.max(made["points"], axis=0)[:2], np.maximum(low, high)[:2], atol=1e-3)


def test_a_classifiers_answer_stands_beside_the_images(project, sign_in):
    phantom = make_phantom(project)
    add_report(
        phantom,
        "Chest 1 report",
        scores={"Pneumonia": 0.84, "Normal": 0.16},
        present={"Pneumonia": True, "Normal": False},
        values=[Value("Age", 61.25, "a")],
    )
    page = sign_in(member(project, Role.READER))
    open_study(page, phantom)
    report = page.locator("article[data-report]")
    expect(report).to_contain_text("Pneumonia")
    expect(report).to_contain_text("84.0 %")
    expect(report.locator("li", has_text="Pneumonia")).to_contain_text("present")
    expect(report.locator("li", has_text="Normal")).to_contain_text("absent")
    expect(report).to_contain_text("61.25 a")
    assert page.evaluate(BOXES) == []
    # Opened by hand in OHIF it must not break the page, though it has no place on an image.
    page.evaluate("() => services.displaySetService.getActiveDisplaySets().find((s) => s.Modality === 'SR').load()")


def test_a_campaign_that_shows_a_detector_leads_its_reader_to_each_finding(project, sign_in):
    phantom = make_phantom(project, PatientName="Secret^Person", PatientID="S-1")
    report = add_report(phantom, findings=[Finding("Nodule", 0.93, corners(phantom, (25, 35, 3), (40, 54, 5)))])
    manager, rita = member(project, Role.MANAGER), member(project, Role.READER)
    version = threshold_version(project)
    Prediction.objects.create(
        version=version, study=phantom.series.study, image=phantom.series, report=report, scores={"Nodule": 0.93}
    )
    cohort = cohorts.create(project=project, name="Phantoms", by=manager)
    cohorts.add_studies(cohort, [phantom.series.study])
    campaign = campaigns.create(
        project=project, by=manager, name="With AI", cohort=cohort, readers=[rita], overlap=1, ai_version=version,
        questions=[QuestionSpec("Is there a lesion?", "yes_no")],
    )  # fmt: skip
    campaigns.start(campaign, by=manager)
    page = sign_in(rita)
    page.goto(reverse("reading_task", args=[campaign.tasks.get().pk]))
    page.get_by_role("button", name="Nodule 93 %").click()
    frame = next(frame for frame in page.frames if "/viewer/tasks/" in frame.url)
    frame.wait_for_function(f"() => ({BOXES})().length === 2")
    assert phantom.datasets[4].SOPInstanceUID in frame.evaluate(SHOWN)
    assert "Secret" not in page.content() + frame.content()
    page.get_by_role("switch", name="Findings").click()
    frame.wait_for_function(f"() => ({BOXES})().length === 0")
