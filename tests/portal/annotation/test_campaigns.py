"""Making and steering campaigns."""

import pytest

from portal.annotation import campaigns, reading, states
from portal.annotation.design import QuestionSpec, SegmentSpec
from portal.annotation.errors import CampaignError
from portal.annotation.models import Campaign, Task
from studies.cohorts import services as cohorts
from studies.models import Embargo
from tests.factories import ProjectFactory, member
from tests.portal.annotation.conftest import answers_of, submit, task_of

State = Task.State


def test_start_assigns_every_case_to_overlap_readers(world):
    campaign = world.campaign(readers=world.readers, overlap=2)
    assert campaign.state == Campaign.State.READING
    assert campaign.tasks.count() == 3 * 2
    for case in world.cohort.cases.all():
        assert campaign.tasks.filter(case=case).values("reader").distinct().count() == 2
    for reader in world.readers:
        positions = list(campaign.tasks.filter(reader=reader).order_by("position").values_list("position", flat=True))
        assert positions == [1, 2]


def test_start_puts_every_study_under_embargo_for_each_reader_and_close_lifts_it(world):
    campaign = world.campaign()
    held = set(Embargo.objects.values_list("user__username", "study_id"))
    studies = set(world.cohort.cases.values_list("study_id", flat=True))
    assert held == {(name, study) for name in ("alice", "bob") for study in studies}
    campaigns.close(campaign, by=world.manager)
    assert not Embargo.objects.exists()


def test_two_campaigns_hold_their_embargoes_apart(world):
    first = world.campaign()
    world.campaign(name="Second")
    campaigns.close(first, by=world.manager)
    assert Embargo.objects.count() == 2 * 3


@pytest.mark.parametrize(
    ("overrides", "field", "words"),
    [
        ({"overlap": 3}, "overlap", "Only 2 readers are chosen"),
        ({"overlap": 0}, "overlap", "at least one read"),
        ({"questions": [], "segments": []}, "questions", "nothing to read"),
        ({"readers": [], "overlap": 1}, "readers", "No reader"),
        ({"name": "  "}, "name", "no name"),
        ({"questions": [QuestionSpec("", "yes_no")]}, "questions-1", "no text"),
        (
            {"questions": [QuestionSpec("A?", "yes_no"), QuestionSpec("B?", "choice", ["x"])]},
            "questions-2",
            "two or more",
        ),
        ({"questions": [QuestionSpec("A?", "scale", ["low"])]}, "questions-1", "scale"),
        ({"questions": [QuestionSpec("A?", "guess")]}, "questions-1", "unknown kind"),
        ({"segments": [SegmentSpec(0, "Lung")]}, "segments-1", "number"),
        ({"segments": [SegmentSpec(1, "Lung"), SegmentSpec(2, "lung")]}, "segments-1", "shares"),
        ({"segments": [SegmentSpec(1, "Lung", "blue")]}, "segments-1", "colour"),
    ],
)
def test_errors_are_in_words_and_name_the_field(world, overrides, field, words):
    with pytest.raises(CampaignError, match=words) as caught:
        world.campaign(**overrides)
    assert caught.value.field == field
    assert caught.value.next_step
    assert not Campaign.objects.exists()


def test_readers_need_the_right_to_read(world):
    for person in (world.viewer, world.engineer, world.outsider):
        with pytest.raises(CampaignError, match="may not read in this project"):
            world.campaign(readers=[world.alice, person])


def test_empty_cohort_and_foreign_cohort(world):
    empty = cohorts.create(project=world.project, name="Empty", by=world.manager)
    with pytest.raises(CampaignError, match="has no cases"):
        world.campaign(cohort=empty)
    other = ProjectFactory()
    foreign = cohorts.create(project=other, name="Foreign", by=member(other))
    with pytest.raises(CampaignError, match="another project"):
        world.campaign(cohort=foreign)


def test_a_name_is_used_once_in_a_project(world):
    world.campaign(started=False)
    with pytest.raises(CampaignError, match="already has a campaign"):
        world.campaign(started=False)


ALLOWED = {
    "draft": {"discard", "start", "change_readers"},
    "reading": {"pause", "close", "change_readers", "adjudicate", "publish"},
    "paused": {"resume", "close", "change_readers", "adjudicate", "publish"},
    "closed": {"adjudicate", "publish"},
}


@pytest.mark.parametrize("state", ALLOWED)
def test_transition_table(state):
    campaign = Campaign(state=state)
    assert set(states.steps_of(campaign)) == ALLOWED[state]
    for step in set(states.CAMPAIGN_STEPS) - ALLOWED[state]:
        with pytest.raises(CampaignError, match="cannot do this"):
            states.after(campaign, step)


def test_pause_resume_close(world):
    campaign = world.campaign()
    assert campaigns.pause(campaign, by=world.manager).state == "paused"
    with pytest.raises(CampaignError):
        campaigns.pause(campaign, by=world.manager)
    assert campaigns.resume(campaign, by=world.manager).state == "reading"
    closed = campaigns.close(campaign, by=world.manager)
    assert closed.state == "closed"
    assert closed.closed_at is not None
    with pytest.raises(CampaignError):
        campaigns.start(campaign, by=world.manager)


def test_a_removed_reader_keeps_reads_and_drafts(world):
    campaign = world.campaign()
    submit(task_of(campaign, world.alice, "C-0001"), "yes")
    drafted = task_of(campaign, world.alice, "C-0002")
    reading.save_draft(
        drafted, base_version=0, answers=answers_of(drafted, "no"), segmentation_sop_uid=None, active_seconds=5
    )
    withdrawn = campaigns.remove_reader(campaign, world.alice, by=world.manager)
    assert withdrawn == 2
    states_now = dict(campaign.tasks.filter(reader=world.alice).values_list("case__name", "state"))
    assert states_now == {"C-0001": "submitted", "C-0002": "withdrawn", "C-0003": "withdrawn"}
    assert task_of(campaign, world.alice, "C-0001").reads.count() == 1
    assert drafted.drafts.count() == 1
    assert not Embargo.objects.filter(user=world.alice).exists()


def test_reassigning_fills_what_a_removed_reader_left(world):
    campaign = world.campaign()
    submit(task_of(campaign, world.alice, "C-0001"), "yes")
    campaigns.remove_reader(campaign, world.alice, by=world.manager)
    assert campaigns.add_reader(campaign, world.carol, by=world.manager) == 2  # C-0001 has both its reads
    assert set(campaign.tasks.filter(reader=world.carol).values_list("case__name", flat=True)) == {"C-0002", "C-0003"}
    assert campaigns.reassign_open(campaign, by=world.manager) == 0


def test_a_reader_who_returns_finds_the_draft_again(world):
    campaign = world.campaign()
    task = task_of(campaign, world.alice)
    reading.save_draft(
        task, base_version=0, answers=answers_of(task, "no"), segmentation_sop_uid=None, active_seconds=5
    )
    campaigns.remove_reader(campaign, world.alice, by=world.manager)
    assert campaigns.add_reader(campaign, world.alice, by=world.manager) == 3
    task.refresh_from_db()
    assert task.state == State.STARTED
    assert reading.newest_draft(task).version == 1
    assert set(campaign.tasks.filter(reader=world.alice).values_list("state", flat=True)) == {"started", "open"}


def test_untouched_cases_of_a_slow_reader_go_to_others(world):
    campaign = world.campaign(readers=world.readers, overlap=1)
    slow = campaign.tasks.first().reader
    before = campaign.tasks.filter(reader=slow).count()
    assert campaigns.reassign_open(campaign, by=world.manager, reader=slow) == before
    assert set(campaign.tasks.filter(reader=slow).values_list("state", flat=True)) == {"withdrawn"}
    in_force = campaign.tasks.exclude(state="withdrawn")
    assert in_force.count() == 3
    assert in_force.values("case").distinct().count() == 3


def test_draft_can_be_discarded_a_started_campaign_cannot(world):
    campaigns.discard(world.campaign(started=False), by=world.manager)
    assert not Campaign.objects.exists()
    with pytest.raises(CampaignError):
        campaigns.discard(world.campaign(), by=world.manager)
