"""Two readers read one case in the browser: nothing is lost, nothing is seen of the other, saved means read back."""

from __future__ import annotations

import contextlib
import re

import highdicom as hd
import numpy as np
import pytest
from django.conf import settings
from django.urls import reverse
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import Frame, Page, expect

from portal.accounts.models import Role, User
from portal.annotation import campaigns
from portal.annotation.design import QuestionSpec, SegmentSpec
from portal.annotation.models import Campaign, Draft, Read, Task
from studies.cohorts import services as cohorts
from studies.models import Origin, Series
from studies.volumes import load_label_map, load_volume
from tests.e2e.phantom import LABELS, Phantom, make_phantom
from tests.e2e.pixels import coloured_share, viewport_pixels
from tests.factories import ProjectFactory, member

pytestmark = [pytest.mark.e2e, pytest.mark.django_db(transaction=True)]

FOOT_IS_FREE = """() => {
  const covered = [], { x, y, width, height } = document.getElementById("submit").getBoundingClientRect();
  for (let i = 1; i < 20; i++) for (let j = 1; j < 6; j++) {
    const hit = document.elementFromPoint(x + i * width / 20, y + j * height / 6);
    if (!hit?.closest("#submit")) covered.push(hit?.outerHTML.slice(0, 80));
  }
  const text = document.querySelector("#save span").getBoundingClientRect();
  if (text.right > innerWidth) covered.push("the save state is cut off");
  return covered;
}"""
SAVED = re.compile(r"^Saved \d\d:\d\d:\d\d and read back$")


@pytest.fixture
def phantom(transactional_db) -> Phantom:
    made = make_phantom(ProjectFactory(slug="thorax"), PatientName="Secret^Person", PatientID="S-1")
    made.add_segmentation(made.label_map, origin=Origin.MODEL, description="Lobes", provenance="Lobe U-Net 3")
    return made


@pytest.fixture
def campaign(phantom) -> Campaign:
    project = phantom.series.study.project
    manager = member(project, Role.MANAGER, username="manager")
    readers = [member(project, Role.READER, username=name) for name in ("rita", "rolf")]
    cohort = cohorts.create(project=project, name="Phantoms", by=manager)
    cohorts.add_studies(cohort, [phantom.series.study])
    made = campaigns.create(
        project=project,
        by=manager,
        name="Lobe study",
        cohort=cohort,
        readers=readers,
        overlap=2,
        instructions="Draw both lobes.",
        questions=[
            QuestionSpec("Is there a lesion?", "yes_no"),
            QuestionSpec("Suspicion", "scale", ["none", "high"], required=False),
            QuestionSpec("Comment", "text", required=False),
        ],
        segments=[SegmentSpec(1, "Left lobe", "#5acce6", required=True), SegmentSpec(2, "Right lobe", "#d9b726")],
    )
    return campaigns.start(made, by=manager)


def task_of(campaign: Campaign, username: str) -> Task:
    return Task.objects.select_related("reader").get(campaign=campaign, reader__username=username)


def open_task(page: Page, task: Task) -> Frame:
    """The reading page, ready to draw; returns OHIF's frame."""
    page.goto(reverse("reading_task", args=[task.pk]))
    return ready(page)


def ready(page: Page) -> Frame:
    page.wait_for_selector(".label-row:not([disabled])")
    return next(frame for frame in page.frames if "/viewer/tasks/" in frame.url)


def stroke(page: Page, label: int, dx: int, dy: int) -> None:
    """Choose a label in our panel and draw a short line from the middle of the image plus (dx, dy)."""
    page.locator(f".label-row[data-label='{label}']").click()
    box = page.locator("#viewer").bounding_box()
    x, y = box["x"] + box["width"] / 2 + dx, box["y"] + box["height"] / 2 + dy
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 30, y + 20, steps=5)
    page.mouse.up()


def check_object(draft: Draft, phantom: Phantom) -> None:
    """The stored SEG as highdicom, the reference implementation of the standard, reads it."""
    instance = draft.segmentation.instances.get()
    seg = hd.seg.segread(settings.MEDIA_ROOT / instance.file)
    assert [(s.segment_number, s.segment_label, s.algorithm_type.value) for s in seg.SegmentSequence] == [
        (1, "Left lobe", "MANUAL"),
        (2, "Right lobe", "MANUAL"),
    ]
    assert seg.Manufacturer == "Readroom"
    positions = {d.SOPInstanceUID: [float(v) for v in d.ImagePositionPatient] for d in phantom.datasets}
    for frame in seg.PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        placed = [float(v) for v in frame.PlanePositionSequence[0].ImagePositionPatient]
        assert placed == pytest.approx(positions[source.ReferencedSOPInstanceUID])


def choose(page: Page, answer: str) -> None:
    page.locator(f"label.opt:has(input[value='{answer}'])").click()


def wait_saved(page: Page, version: int) -> None:
    expect(page.locator("#version")).to_have_text(f"version {version}")
    expect(page.locator("#save")).to_have_text(SAVED)


def in_memory(frame: Frame) -> dict[str, dict[int, int]]:
    """SOPInstanceUID → {label: voxels}, as the viewer has it."""
    found = frame.evaluate(
        """() => [...readroom.drawing.labelMap()].map(([key, voxels]) => {
          const counts = {};
          for (const v of voxels) if (v) counts[v] = (counts[v] ?? 0) + 1;
          return [key.split("#")[0], counts];
        })"""
    )
    return {uid: {int(label): n for label, n in counts.items()} for uid, counts in found}


def in_archive(series: Series, phantom: Phantom) -> dict[str, dict[int, int]]:
    """The same from the stored SEG, read by the archive's own code."""
    volume = load_volume(phantom.series)
    label_map = load_label_map(series, like=volume, labels=LABELS)
    found = {}
    for z in np.unique(np.nonzero(label_map)[0]):
        numbers, counts = np.unique(label_map[z][label_map[z] > 0], return_counts=True)
        found[phantom.datasets[z].SOPInstanceUID] = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
    return found


def test_two_readers_draw_answer_and_submit_apart_from_each_other(campaign, phantom, sign_in):
    rita, rolf = task_of(campaign, "rita"), task_of(campaign, "rolf")

    # Rita draws both labels and answers by keyboard.
    page = sign_in(rita.reader)
    frame = open_task(page, rita)
    assert "Secret" not in page.content() + frame.content()
    assert frame.evaluate("readroom.overlays.items.length") == 0  # the campaign shows no model
    stroke(page, 1, -120, 0)
    stroke(page, 2, 120, 0)
    page.locator("h1").click()  # the focus leaves the panel's buttons
    page.keyboard.press("y")
    page.keyboard.press("4")
    page.wait_for_function("document.getElementById('viewer').contentWindow.readroom.drawing.labelMap().size === 1")
    expect(page.locator("#save")).to_have_text(SAVED)
    page.wait_for_timeout(4000)
    expect(page.locator("#save")).to_have_text(SAVED)

    # What the archive has is what she sees, voxel counts per slice and label.
    drawn = in_memory(frame)
    assert {label for counts in drawn.values() for label in counts} == {1, 2}
    draft = Draft.objects.filter(task=rita).order_by("-version").first()
    questions = {question.kind: str(question.pk) for question in campaign.questions.all()}
    assert draft.answers == {questions["yes_no"]: "yes", questions["scale"]: 4}
    assert in_archive(draft.segmentation, phantom) == drawn
    assert (draft.segmentation.origin, draft.segmentation.created_by) == (Origin.DRAFT, rita.reader)
    assert draft.segmentation.study.patient.patient_id == "S-1"  # under the patient's own identity again
    check_object(draft, phantom)

    # A reload restores answers and drawing, and the drawing can be seen.
    page.reload()
    frame = ready(page)
    assert in_memory(frame) == drawn
    expect(page.get_by_role("radio", name="Yes")).to_be_checked()
    assert coloured_share(viewport_pixels(page, frame)) > 0.002

    # Rolf sees nothing of it, and has the labels with their names and colours.
    other = sign_in(rolf.reader)
    other_frame = open_task(other, rolf)
    assert in_memory(other_frame) == {}
    assert other_frame.evaluate("readroom.overlays.items.length") == 0
    assert coloured_share(viewport_pixels(other, other_frame)) < 0.001
    expect(other.get_by_role("radio", name="Yes")).not_to_be_checked()
    segments = other_frame.evaluate(
        """() => Object.values(services.segmentationService.getSegmentation("readroom-drawing").segments)
          .filter(Boolean).map((s) => [s.label, services.segmentationService.getSegmentColor(
            services.viewportGridService.getActiveViewportId(), "readroom-drawing", s.segmentIndex).slice(0, 3)])"""
    )
    assert segments == [["Left lobe", [90, 204, 230]], ["Right lobe", [217, 183, 38]]]

    # Nothing drawn and nothing answered cannot be submitted; each gap is named where it is.
    other.keyboard.press("Control+Enter")
    expect(other.locator("#labels .error")).to_have_text("Draw “Left lobe”.")
    expect(other.locator("#questions .error")).to_have_text("Answer this question.")
    stroke(other, 1, -60, 40)
    choose(other, "no")
    other.keyboard.press("Control+Enter")
    other.wait_for_url(re.compile(r"/reading/$"))
    page.keyboard.press("Control+Enter")
    page.wait_for_url(re.compile(r"/reading/$"))

    reads = {read.task.reader.username: read for read in Read.objects.select_related("task__reader", "segmentation")}
    assert reads["rita"].answers[questions["yes_no"]] == "yes"
    assert reads["rolf"].answers[questions["yes_no"]] == "no"
    assert in_archive(reads["rita"].segmentation, phantom) == drawn
    assert reads["rolf"].segmentation.created_by == rolf.reader
    assert reads["rolf"].segmentation_id != reads["rita"].segmentation_id
    assert all(read.active_seconds > 0 for read in reads.values())


def test_what_the_network_lost_is_saved_when_it_is_back(campaign, sign_in):
    task = task_of(campaign, "rita")
    page = sign_in(task.reader)
    frame = open_task(page, task)
    page.context.set_offline(True)
    stroke(page, 1, -100, 0)
    choose(page, "yes")
    expect(page.locator("#save")).to_contain_text("Not saved: the server cannot be reached, next try in")
    # On a low screen the questions scroll below the foot of the panel: none may catch its clicks, no word is cut off.
    page.set_viewport_size({"width": 1000, "height": 560})
    assert page.evaluate(FOOT_IS_FREE) == []
    assert not Draft.objects.filter(task=task).exists()
    page.context.set_offline(False)
    expect(page.locator("#save")).to_have_text(SAVED)
    draft = Draft.objects.filter(task=task).order_by("-version").first()
    assert list(draft.answers.values()) == ["yes"]
    assert draft.segmentation is not None
    assert in_memory(frame)


def test_answers_that_never_reached_the_server_come_back_in_the_same_browser(campaign, sign_in):
    task = task_of(campaign, "rita")
    page = sign_in(task.reader)
    open_task(page, task)
    context = page.context
    blocked = [True]
    context.route("**/draft/", lambda route: route.abort() if blocked[0] else route.continue_())
    page.get_by_label("Comment").fill("seen once, kept for ever")
    expect(page.locator("#save")).to_contain_text("Not saved")
    with contextlib.suppress(PlaywrightError):
        page.goto("chrome://crash")  # no event reaches the page any more
    page = context.new_page()
    page.goto(reverse("reading_task", args=[task.pk]))
    expect(page.get_by_text("Answers brought back")).to_be_visible()
    assert not Draft.objects.filter(task=task).exists()
    blocked[0] = False
    wait_saved(page, 1)
    assert list(Draft.objects.get(task=task).answers.values()) == ["seen once, kept for ever"]


def test_strokes_that_never_reached_the_server_come_back_in_the_same_browser(campaign, phantom, sign_in):
    task = task_of(campaign, "rita")
    page = sign_in(task.reader)
    frame = open_task(page, task)
    stroke(page, 1, -120, 0)
    expect(page.locator("#save")).to_have_text(SAVED)
    blocked = [True]
    page.context.route("**/dicomweb/tasks/*/studies", lambda route: route.abort() if blocked[0] else route.continue_())
    stroke(page, 2, 120, 0)
    drawn = in_memory(frame)
    assert {label for counts in drawn.values() for label in counts} == {1, 2}
    page.once("dialog", lambda dialog: dialog.accept())  # the browser warns; the reader goes all the same
    page.reload()
    frame = ready(page)
    expect(page.get_by_text("Drawing brought back")).to_be_visible()
    assert in_memory(frame) == drawn
    stored = Draft.objects.filter(task=task).order_by("-version").first()
    assert {label for counts in in_archive(stored.segmentation, phantom).values() for label in counts} == {1}
    blocked[0] = False
    page.wait_for_function("!document.getElementById('save').textContent.startsWith('Not')")
    expect(page.locator("#save")).to_have_text(SAVED)
    newest = Draft.objects.filter(task=task).order_by("-version").first()
    assert in_archive(newest.segmentation, phantom) == drawn

    # What reached the server is not kept in the browser.
    page.reload()
    assert in_memory(ready(page)) == drawn
    expect(page.get_by_text("Drawing brought back")).not_to_be_visible()


def test_a_second_window_is_told_and_neither_state_is_lost(campaign, sign_in):
    task = task_of(campaign, "rita")
    first = sign_in(task.reader)
    open_task(first, task)
    second = first.context.new_page()
    open_task(second, task)
    choose(second, "no")
    wait_saved(second, 1)
    choose(first, "yes")
    expect(first.get_by_text("This case was saved in another window")).to_be_visible()
    assert [draft.version for draft in Draft.objects.filter(task=task)] == [1]
    first.get_by_role("button", name="Go on with mine").click()
    wait_saved(first, 2)
    answers = dict(Draft.objects.filter(task=task).values_list("version", "answers"))
    assert [list(answers[version].values()) for version in (1, 2)] == [["no"], ["yes"]]


def test_only_the_reader_gets_in(campaign, sign_in, client):
    task = task_of(campaign, "rita")
    for username in ("rolf", "manager"):
        client.force_login(User.objects.get(username=username))
        assert client.get(reverse("reading_task", args=[task.pk])).status_code == 404
        assert client.get(f"/dicomweb/tasks/{task.pk}/studies").status_code == 404
