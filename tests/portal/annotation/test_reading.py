"""Drafts and reads: versions, idempotence, reading back, what is missing, and that nothing can be overwritten."""

import hashlib
from pathlib import Path

import pytest
from django.db import DatabaseError, connection, transaction

from portal.annotation import campaigns, reading, segmentations
from portal.annotation.design import SegmentSpec
from portal.annotation.errors import Incomplete, NotReadable, NotStored, StaleDraft
from portal.annotation.models import Draft, Read
from tests.portal.annotation.conftest import answers_of, box, draw, submit, task_of

X = slice(10, 20)


def save(task, base, *values, sop=None, seconds=1):
    return reading.save_draft(
        task, base_version=base, answers=answers_of(task, *values), segmentation_sop_uid=sop, active_seconds=seconds
    )


@pytest.fixture
def task(world):
    return task_of(world.campaign(), world.alice)


def test_versions_grow_and_all_are_kept(task):
    assert save(task, 0, "yes").record.version == 1
    assert save(task, 1, "no").record.version == 2
    assert list(Draft.objects.filter(task=task).order_by("version").values_list("answers", flat=True)) == [
        answers_of(task, "yes"),
        answers_of(task, "no"),
    ]


def test_same_content_twice_is_one_draft(task):
    first = save(task, 0, "yes", seconds=10)
    again = save(task, 0, "yes", seconds=25)  # the answer to the first was lost on the way
    assert (again.record.version, again.digest) == (1, first.digest)
    assert Draft.objects.count() == 1
    task.refresh_from_db()
    assert task.active_seconds == 25


def test_a_stale_base_is_refused_with_the_newest_draft(task):
    save(task, 0, "yes")
    save(task, 1, "no")
    with pytest.raises(StaleDraft) as caught:
        save(task, 1, "yes", 3)
    assert caught.value.newest.version == 2
    assert Draft.objects.count() == 2


def test_time_at_the_case_never_shrinks(task):
    save(task, 0, "yes", seconds=100)
    save(task, 1, "no", seconds=3)
    assert reading.newest_draft(task).active_seconds == 100


def test_the_digest_covers_the_bytes_on_the_disk(task):
    instance = draw(task, box(X))
    saved = save(task, 0, "yes", sop=instance.sop_instance_uid)
    path = segmentations.file_of(instance)
    assert saved.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    content = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert not reading.read_back(reading.newest_draft(task)).intact
    with pytest.raises(NotStored, match="differs"):
        reading.submit(task, base_version=1)
    assert not Read.objects.exists()


def test_a_file_that_is_gone_is_not_saved(task):
    instance = draw(task, box(X))
    Path(segmentations.file_of(instance)).unlink()
    with pytest.raises(NotStored, match="cannot be read back"):
        save(task, 0, "yes", sop=instance.sop_instance_uid)
    assert not Draft.objects.exists()


def test_only_own_segmentations_of_this_task_count(world):
    campaign = world.campaign()
    mine, theirs = task_of(campaign, world.alice), task_of(campaign, world.bob)
    other_case = task_of(campaign, world.alice, "C-0002")
    for foreign in (draw(theirs, box(X)), draw(other_case, box(X))):
        with pytest.raises(NotStored, match="not in the archive"):
            save(mine, 0, "yes", sop=foreign.sop_instance_uid)


def test_wrong_answers_are_named(task):
    yes_no, scale = task.campaign.questions.all()
    with pytest.raises(Incomplete) as caught:
        reading.save_draft(
            task,
            base_version=0,
            answers={str(yes_no.pk): "maybe", str(scale.pk): 6, "999999": "x"},
            segmentation_sop_uid=None,
            active_seconds=0,
        )
    assert set(caught.value.errors) == {str(yes_no.pk), str(scale.pk), "999999"}


def test_submit_needs_required_answers_and_a_draft(task):
    with pytest.raises(Incomplete) as caught:
        reading.submit(task, base_version=0)
    assert "draft" in caught.value.errors
    yes_no = task.campaign.questions.first()
    save(task, 0, None, 3)
    with pytest.raises(Incomplete) as caught:
        reading.submit(task, base_version=1)
    assert set(caught.value.errors) == {str(yes_no.pk)}


def test_a_required_segment_must_hold_a_voxel(world):
    campaign = world.campaign(segments=[SegmentSpec(1, "Left", required=True), SegmentSpec(2, "Right", required=True)])
    task = task_of(campaign, world.alice)
    save(task, 0, "yes")
    with pytest.raises(Incomplete) as caught:
        reading.submit(task, base_version=1)
    assert set(caught.value.errors) == {"segment-1", "segment-2"}
    save(task, 1, "yes", sop=draw(task, box(X, 2)).sop_instance_uid)
    with pytest.raises(Incomplete) as caught:
        reading.submit(task, base_version=2)
    assert set(caught.value.errors) == {"segment-1"}
    both = box(X, 2) + box(slice(25, 30), 1)
    save(task, 2, "yes", sop=draw(task, both).sop_instance_uid)
    assert reading.submit(task, base_version=3).record.version == 1


def test_pressing_submit_twice_gives_one_read(task):
    save(task, 0, "yes")
    first = reading.submit(task, base_version=1)
    second = reading.submit(task, base_version=1)
    assert first.record.pk == second.record.pk
    assert Read.objects.count() == 1


def test_submitting_again_after_a_change_makes_the_next_version(task):
    submit(task, "yes")
    submit(task, "no")
    assert list(Read.objects.filter(task=task).order_by("version").values_list("version", "answers")) == [
        (1, answers_of(task, "yes")),
        (2, answers_of(task, "no")),
    ]
    task.refresh_from_db()
    assert task.state == "submitted"


def test_a_submitted_case_stays_submitted_while_it_is_revised(task):
    submit(task, "yes")
    save(task, 1, "no")
    task.refresh_from_db()
    assert task.state == "submitted"
    assert reading.newest_read(task).answers == answers_of(task, "yes")


@pytest.mark.parametrize(("step", "words"), [("pause", "paused"), ("close", "closed")])
def test_nothing_can_be_done_while_paused_or_closed(world, step, words):
    campaign = world.campaign()
    task = task_of(campaign, world.alice)
    save(task, 0, "yes")
    getattr(campaigns, step)(campaign, by=world.manager)
    for act in (
        lambda: save(task, 1, "no"),
        lambda: reading.submit(task, base_version=1),
        lambda: reading.skip(task),
        lambda: reading.flag(task, "x"),
    ):
        with pytest.raises(NotReadable, match=words):
            act()
    assert Draft.objects.count() == 1


@pytest.mark.parametrize("table", ["annotation_draft", "annotation_read"])
@pytest.mark.parametrize("statement", ["UPDATE {} SET active_seconds = 0", "DELETE FROM {}"])
def test_the_database_refuses_to_change_or_delete(task, table, statement):
    submit(task, "yes")
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement.format(table))
    assert Draft.objects.count() == Read.objects.count() == 1


def test_order_of_cases_skipped_ones_last(world):
    campaign = world.campaign()
    tasks = list(campaign.tasks.filter(reader=world.alice).order_by("position"))
    assert reading.next_task(campaign, world.alice) == tasks[0]
    reading.skip(tasks[0])
    assert reading.next_task(campaign, world.alice) == tasks[1]
    assert reading.next_task(campaign, world.alice, after=tasks[1]) == tasks[2]
    submit(task_of(campaign, world.alice, tasks[2].case.name), "yes")
    assert reading.next_task(campaign, world.alice, after=tasks[2]) == tasks[1]
    submit(task_of(campaign, world.alice, tasks[1].case.name), "yes")
    assert reading.next_task(campaign, world.alice, after=tasks[1]) == tasks[0]
    submit(task_of(campaign, world.alice, tasks[0].case.name), "yes")
    assert reading.next_task(campaign, world.alice) is None
