"""Bringing studies from another system and sending them there, as jobs. One bad study never stops the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import models
from django.db.models import QuerySet

from inference.jobs.models import Job
from inference.jobs.services import submit
from portal.accounts.models import User
from studies.dimse import remote
from studies.dimse.errors import RemoteError, Unreachable
from studies.dimse.models import RemoteNode
from studies.models import Instance, Origin, Series, Study

MOST = 500  # studies of one job
Tick = Callable[[float, str], None]


class What(models.TextChoices):
    ALL = "all", "Images and results"
    IMAGES = "images", "Images only"
    RESULTS = "results", "AI results only"


ORIGINS = {
    What.ALL: [Origin.ACQUIRED, Origin.MODEL, Origin.ANNOTATION, Origin.REFERENCE],
    What.IMAGES: [Origin.ACQUIRED],
    What.RESULTS: [Origin.MODEL],
}


@dataclass
class Moved:
    """What became of one study. `name` carries no identity of a patient."""

    name: str
    objects: int = 0
    cause: str = ""
    next_step: str = ""
    broken: bool = False  # the remote could not be reached, or fell silent

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "objects": self.objects, "cause": self.cause, "next_step": self.next_step}


def start_retrieval(node: RemoteNode, uids: Sequence[str], *, by: User) -> Job:
    """Queue the retrieval of studies into the node's project. Raises RemoteError."""
    from portal.pacs.tasks import retrieve  # the task module imports this one

    wanted = list(dict.fromkeys(uids))
    _check(node, len(wanted))
    if any(not uid or len(uid) > 64 or set(uid) - set("0123456789.") for uid in wanted):
        raise RemoteError("A StudyInstanceUID has digits and dots only, 64 at most.", "Choose studies from a search.")
    title = f"Retrieve {_studies(len(wanted))} from {node}"
    return submit(retrieve, project=node.project, title=title, parameters={"node": node.pk, "studies": wanted}, by=by)


def start_sending(node: RemoteNode, studies: Sequence[Study], what: str, *, by: User) -> Job:
    """Queue sending what `by` may see of studies of the node's project. Raises RemoteError."""
    from portal.pacs.tasks import send

    _check(node, len(studies))
    if any(study.project_id != node.project_id for study in studies):
        raise RemoteError(
            f"{node} belongs to the project {node.project}, and a study to another one.",
            "Send to a node of its project.",
        )
    if what not in What.values:
        raise RemoteError("It is not clear what to send.", f"Choose one of {', '.join(What.values)}.")
    title = f"Send {_studies(len(studies))} to {node}"
    parameters = {"node": node.pk, "studies": [study.pk for study in studies], "what": what}
    return submit(send, project=node.project, title=title, parameters=parameters, by=by)


def send_series(node: RemoteNode, study: Study, series: Sequence[Series], *, by: User | None = None) -> Job:
    """Queue sending some series of a study of the node's project, such as a model's result. Raises RemoteError."""
    from portal.pacs.tasks import send

    _check(node, 1)
    if study.project_id != node.project_id:
        raise RemoteError(f"{node} belongs to another project than the study.", "Send to a node of its project.")
    parameters = {
        "node": node.pk,
        "studies": [study.pk],
        "what": What.ALL.value,
        "series": sorted(one.pk for one in series),
    }
    return submit(send, project=node.project, title=f"Send results to {node}", parameters=parameters, by=by)


def _check(node: RemoteNode, count: int) -> None:
    if not node.active:
        raise RemoteError(f"{node} is switched off.", "An administrator can switch it on.")
    if not count:
        raise RemoteError("No study is chosen.", "Choose at least one.")
    if count > MOST:
        raise RemoteError(f"{count} studies are too many for one job.", f"Choose {MOST} at most.")


def _studies(count: int) -> str:
    return "1 study" if count == 1 else f"{count} studies"


def retrieve_all(node: RemoteNode, uids: Sequence[str], *, by: User | None, tick: Tick) -> list[Moved]:
    """`tick(fraction, text)` may raise to stop."""

    def one(uid: str, progress: Tick) -> Moved:
        if (held := _held(node, uid)) and _count_at(node, uid) == held:
            return Moved(uid)
        done = remote.retrieve(node, uid, by=by, progress=progress)
        moved = Moved(uid, done.stored)
        if done.failed:
            first = next(iter(done.failed.values()))
            moved.cause = f"{_of(len(done.failed), 'series', 'series')} did not come: {first.cause}"
            moved.next_step = first.next_step
        elif done.refused:
            moved.cause = f"{_of(len(done.refused), 'object')} refused by the archive: {done.refused[0].reason}"
            moved.next_step = f"See import {done.batch.pk}."
        return moved

    return _each(list(uids), lambda uid: uid, one, tick)


def send_all(
    node: RemoteNode,
    studies: Sequence[Study],
    what: str,
    *,
    by: User | None,
    tick: Tick,
    series: Sequence[int] | None = None,
) -> list[Moved]:
    """series: primary keys of those to send, where it shall not be all of this kind."""

    def one(study: Study, progress: Tick) -> Moved:
        name = f"study {study.pk}"
        chosen = sendable(study, what, by)
        if series is not None:
            chosen = chosen.filter(series__in=series)
        if not chosen.exists():
            return Moved(name, cause="There is nothing of this kind to send.", next_step="Run a model, or send images.")
        sent = remote.send(node, chosen, progress=progress)
        moved = Moved(name, sent.sent)
        if sent.failed:
            reasons = sorted(set(sent.failed.values()))
            moved.cause = f"The remote did not take {_of(len(sent.failed), 'object')}: {reasons[0]}"
            moved.next_step = "See the remote's log, or send what it takes."
        return moved

    return _each(list(studies), lambda study: f"study {study.pk}", one, tick)


def sendable(study: Study, what: str, by: User | None) -> QuerySet[Instance]:
    """The objects that go out: what whoever sends them may see, never drafts."""
    found = Instance.objects.filter(series__study=study) if by is None else Instance.objects.visible_to(by)
    return found.filter(series__study=study, series__origin__in=ORIGINS[What(what)])


def _each(items: list[Any], name: Callable[[Any], str], one: Callable[[Any, Tick], Moved], tick: Tick) -> list[Moved]:
    moved: list[Moved] = []
    for number, item in enumerate(items):
        place = f"study {number + 1} of {len(items)}"

        def progress(fraction: float, text: str, number: int = number, place: str = place) -> None:
            tick((number + min(max(fraction, 0.0), 1.0)) / len(items), f"{place}: {text}" if text else place)

        progress(0.0, "")
        try:
            moved.append(one(item, progress))
        except RemoteError as error:
            moved.append(
                Moved(name(item), cause=error.cause, next_step=error.next_step, broken=isinstance(error, Unreachable))
            )
        if len(moved) >= 2 and moved[-1].broken and moved[-2].broken:
            moved += [Moved(name(left), cause=moved[-1].cause, next_step=moved[-1].next_step, broken=True)
                      for left in items[number + 1 :]]  # fmt: skip
            break
    return moved


def _held(node: RemoteNode, uid: str) -> int:
    """How many objects of the study have come in already."""
    return Instance.objects.filter(
        project=node.project, series__study__study_instance_uid=uid, series__origin=Origin.ACQUIRED
    ).count()


def _count_at(node: RemoteNode, uid: str) -> int | None:
    """How many objects of the study the remote says that it has; None where it does not say."""
    found, _ = remote.find(node, remote.Wanted(study_instance_uid=uid))
    return int(found[0].number_of_instances) if found and found[0].number_of_instances.isdecimal() else None


def _of(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"
