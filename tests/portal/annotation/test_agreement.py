"""Agreement and consensus of a campaign whose readings are constructed."""

import numpy as np
import pytest

from inference.jobs.models import Job
from portal.annotation import agreement, consensus, overlaps, segmentations, voting
from portal.annotation.design import QuestionSpec, SegmentSpec
from portal.annotation.errors import CampaignError, NotAdjudicable
from portal.annotation.models import Adjudication, Overlap
from studies.models import Origin
from studies.volumes import load_label_map, load_volume
from tests.portal.annotation.conftest import box, submit, task_of

QUESTIONS = [QuestionSpec("Nodule?", "yes_no"), QuestionSpec("Suspicion", "scale", required=False)]


@pytest.fixture
def campaign(world):
    """Three readers, three cases. Columns drawn: C-0001 all alike, C-0002 half shifted by carol, C-0003 alice alone."""
    campaign = world.campaign(
        readers=world.readers,
        overlap=3,
        questions=QUESTIONS,
        segments=[SegmentSpec(1, "Nodule"), SegmentSpec(2, "Lobe")],
    )
    plan = {
        "C-0001": [("yes", 5, box(slice(10, 20)))] * 3,
        "C-0002": [("yes", 4, box(slice(10, 20)))] * 2 + [("no", 2, box(slice(15, 25)))],
        "C-0003": [("no", 1, box(slice(0, 10))), ("no", 1, None), ("no", 2, None)],
    }
    for case, readings in plan.items():
        for reader, (answer, scale, drawn) in zip(world.readers, readings, strict=True):
            submit(task_of(campaign, reader, case), answer, scale, label_map=drawn)
    return campaign


def test_overlap_is_the_dice_of_the_drawn_voxels(world, campaign):
    assert overlaps.measure(campaign) == 9
    rows = {
        (
            o.first.task.case.name,
            frozenset({o.first.task.reader.username, o.second.task.reader.username}),
            o.number,
        ): o.dice
        for o in Overlap.objects.select_related("first__task__case", "first__task__reader", "second__task__reader")
    }
    assert rows["C-0001", frozenset({"alice", "bob"}), 1] == 1.0
    assert rows["C-0002", frozenset({"alice", "bob"}), 1] == 1.0
    assert rows["C-0002", frozenset({"alice", "carol"}), 1] == 0.5  # 5 of 10 columns shared
    assert rows["C-0003", frozenset({"alice", "bob"}), 1] == 0.0
    assert rows["C-0003", frozenset({"bob", "carol"}), 1] is None
    assert {dice for (_, _, number), dice in rows.items() if number == 2} == {None}
    assert overlaps.measure(campaign) == 0


def test_report_per_question_and_segment(world, campaign):
    assert agreement.report(campaign).pending == 9
    overlaps.measure(campaign)
    report = agreement.report(campaign)
    assert report.pending == 0
    nodule, suspicion, drawn, lobe = report.items
    # Fleiss by hand: P = 1, 1/3, 1 → 7/9; 5 yes of 9 → pe = (25 + 16)/81; κ = (63/81 − 41/81)/(40/81) = 0.55
    assert nodule.overall.estimate == pytest.approx(0.55)
    assert nodule.overall.n == 3
    assert nodule.few
    alice, bob, carol = (reader.pk for reader in world.readers)
    assert nodule.pairs[alice, bob].estimate == 1.0
    # alice yes yes no, carol yes no no: po = 2/3, pe = (2/3)(1/3) + (1/3)(2/3) = 4/9 → 0.4
    assert nodule.pairs[alice, carol].estimate == pytest.approx(0.4)
    assert suspicion.measure == "Cohen κ with quadratic weights"
    # Dice: C-0001 1; C-0002 mean(1, .5, .5); C-0003 mean(0, 0)
    assert drawn.overall.estimate == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert drawn.pairs[alice, carol].estimate == pytest.approx((1 + 0.5 + 0) / 3)
    assert lobe.overall.estimate is None


def test_disagreements_come_worst_first(world, campaign):
    overlaps.measure(campaign)
    found = agreement.report(campaign).disagreements
    assert [one.name for one in found] == ["C-0003", "C-0002"]
    assert found[0].texts[0] == "Nodule: Dice 0.00, lowest pair 0.00"
    assert "Nodule? 2 yes · 1 no" in found[1].texts


def test_the_newest_version_of_a_read_counts(world, campaign):
    overlaps.measure(campaign)
    submit(task_of(campaign, world.carol, "C-0002"), "yes", 4, label_map=box(slice(10, 20)))
    report = agreement.report(campaign)
    assert report.pending == 2
    overlaps.measure(campaign)
    report = agreement.report(campaign)
    assert report.items[0].overall.estimate == pytest.approx(1.0)
    assert [one.name for one in report.disagreements] == ["C-0003"]


def test_submitting_asks_for_the_measurement_once(world, campaign, django_capture_on_commit_callbacks):
    with django_capture_on_commit_callbacks(execute=True):
        submit(task_of(campaign, world.carol, "C-0001"), "no", 5)
        submit(task_of(campaign, world.bob, "C-0001"), "no", 5)
    assert Job.objects.filter(task="portal.annotation.tasks.measure_overlaps").count() == 1


def test_consensus_becomes_a_reference_standard_with_segmentations(world, campaign):
    published = consensus.publish(campaign, by=world.manager, name="Agreed")
    reference = published.reference
    assert (reference.source, reference.version, reference.name) == ("consensus", 1, "Agreed")
    assert reference.labels == [{"number": 1, "name": "Nodule"}, {"number": 2, "name": "Lobe"}]
    truths = {label.case.name: label for label in reference.case_labels.select_related("case", "segmentation")}
    assert {name: truth.values for name, truth in truths.items()} == {
        "C-0001": {"Nodule?": "yes", "Suspicion": 5},
        "C-0002": {"Nodule?": "yes", "Suspicion": 4},
        "C-0003": {"Nodule?": "no", "Suspicion": 1},
    }
    expected = {
        "C-0001": box(slice(10, 20)),
        "C-0002": box(slice(10, 20)),  # two of three
        "C-0003": np.zeros((3, 32, 40), np.uint8),  # one of three
    }
    for name, truth in truths.items():
        assert truth.segmentation.origin == Origin.REFERENCE
        assert truth.segmentation.study_id == truth.case.study_id
        stored = load_label_map(truth.segmentation, like=load_volume(truth.case.image), labels=reference.labels)
        assert np.array_equal(stored, expected[name]), name
    assert reference.detail["left_out"] == []
    assert consensus.publish(campaign, by=world.manager, name="Agreed").reference.version == 2


def test_cases_without_enough_reads_or_with_a_tie_are_named(world):
    campaign = world.campaign(questions=QUESTIONS, segments=[])
    for reader, answer in ((world.alice, "yes"), (world.bob, "no")):
        submit(task_of(campaign, reader, "C-0001"), answer)
    submit(task_of(campaign, world.alice, "C-0002"), "yes")
    reasons = {planned.case.name: planned.reason for planned in consensus.plan(campaign)}
    assert reasons == {"C-0001": "a tie on “Nodule?”", "C-0002": "1 of 2 reads", "C-0003": "no reads"}
    with pytest.raises(CampaignError, match="No case has enough reads"):
        consensus.publish(campaign, by=world.manager, name="Agreed")
    reference = consensus.publish(campaign, by=world.manager, name="Agreed", minimum_reads=1).reference
    assert [label.case.name for label in reference.case_labels.select_related("case")] == ["C-0002"]
    assert {one["case"]: one["reason"] for one in reference.detail["left_out"]} == {
        "C-0001": "no majority",
        "C-0003": "no reads",
    }


def test_a_decision_goes_before_the_vote_and_earlier_ones_are_kept(world, campaign):
    case = task_of(campaign, world.alice, "C-0002").case
    question = str(campaign.questions.first().pk)
    carols = task_of(campaign, world.carol, "C-0002").reads.get()
    consensus.adjudicate(campaign, case, by=world.manager, reason="First thought", answers={question: "yes"})
    consensus.adjudicate(campaign, case, by=world.manager, reason="Seen in CT", answers={question: "no"}, read=carols)
    reference = consensus.publish(campaign, by=world.manager, name="Decided").reference
    truth = reference.case_labels.get(case=case)
    assert truth.values["Nodule?"] == "no"
    stored = load_label_map(truth.segmentation, like=load_volume(case.image), labels=reference.labels)
    assert np.array_equal(stored, box(slice(15, 25)))
    assert reference.detail["adjudicated"] == ["C-0002"]
    assert Adjudication.objects.count() == 2


def test_decisions_need_a_reason_and_something_decided(world, campaign):
    case = task_of(campaign, world.alice, "C-0002").case
    foreign = task_of(campaign, world.alice, "C-0001").reads.get()
    question = str(campaign.questions.first().pk)
    for change, words in (
        ({"reason": " ", "answers": {question: "no"}}, "no reason"),
        ({"reason": "Why", "answers": {}}, "Nothing is decided"),
        ({"reason": "Why", "answers": {}, "read": foreign}, "not one of the case"),
    ):
        with pytest.raises(NotAdjudicable, match=words):
            consensus.adjudicate(campaign, case, by=world.manager, **change)


def test_majority_ties_are_background_and_labels_stay_apart():
    a, b = np.array([1, 1, 2, 0, 2]), np.array([1, 2, 2, 0, 1])
    assert voting.majority_map([a, b], [1, 2]).tolist() == [1, 0, 2, 0, 0]
    c = np.array([1, 2, 0, 2, 1])
    assert voting.majority_map([a, b, c], [1, 2]).tolist() == [1, 2, 2, 0, 1]


def test_votes():
    assert voting.majority(["yes", "no", "yes"]) == "yes"
    assert voting.majority(["yes", "no"]) is None
    assert voting.majority([]) is None
    assert voting.middle([1, 5, 2]) == 2
    assert voting.middle([1, 2]) == 1.5
    assert voting.middle([]) is None


def test_staple_outvotes_a_careless_reader():
    """Two careful readers who differ by one voxel row and one who drew elsewhere: STAPLE follows the careful ones."""
    careful = np.zeros((1, 40, 40), np.uint8)
    careful[0, 10:30, 10:30] = 1
    other = careful.copy()
    other[0, 10, 10:30] = 0
    careless = np.zeros_like(careful)
    careless[0, 0:8, 0:8] = 1
    agreed = voting.staple_map([careful, other, careless], [1])
    assert agreed[0, 11:30, 10:30].all()
    assert not agreed[0, 0:8, 0:8].any()
    empty = np.zeros_like(careful)
    assert not voting.staple_map([empty, empty], [1]).any()
    assert np.array_equal(voting.staple_map([careful, careful], [1]), careful)


def test_the_grid_is_read_without_pixels(world, campaign):
    image = task_of(campaign, world.alice).case.image
    volume, grid = load_volume(image), segmentations.grid(image)
    assert grid.shape == volume.shape
    assert np.allclose(grid.affine, volume.affine)
