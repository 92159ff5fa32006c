"""DIMSE as the asking side. One attempt each; `studies.dimse.remote` repeats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.presentation import build_context, build_role

from studies.dimse import network, objects
from studies.dimse.errors import Incomplete, RemoteRefused
from studies.dimse.landing import Landing
from studies.dimse.models import RemoteNode
from studies.dimse.objects import Outgoing
from studies.dimse.sop_classes import IMAGES, OTHERS, STUDY_ROOT_FIND, STUDY_ROOT_GET, STUDY_ROOT_MOVE, VERIFICATION

RETURNED = (
    "StudyDescription",
    "StudyTime",
    "NumberOfStudyRelatedInstances",
)
MAX_SERIES = 1000  # of one study
Progress = Callable[[float, str], None]
_PENDING = frozenset({0xFF00, 0xFF01})
_WARNINGS = frozenset({0xB000, 0xB006, 0xB007})
_WORDS = {
    0x0122: "it does not offer this service",
    0x0124: "we are not allowed to",
    0x0111: "it holds another object with this UID",
    0xA700: "it is out of space",
    0xA701: "it cannot count what matches",
    0xA702: "it cannot send",
    0xA801: "it does not know where to send; enter our AE title, host and port there",
    0xA900: "it does not understand the query",
    0xFE00: "it cancelled",
}


def _refusal(status: int) -> RemoteRefused:
    words = _WORDS.get(status, "see its log")
    return RemoteRefused(f"The remote answered with status 0x{status:04X}: {words}.", "Ask its administrator.")


def _accepted(assoc: Association, sop_class: str, what: str) -> None:
    if not any(context.abstract_syntax == sop_class for context in assoc.accepted_contexts):
        raise RemoteRefused(f"The remote does not offer {what} to us.", "Allow it there.")


def echo(node: RemoteNode) -> None:
    with network.association(node, [build_context(VERIFICATION, network.NATIVE)]) as assoc:
        _accepted(assoc, VERIFICATION, "C-ECHO")
        status = assoc.send_c_echo()
        if "Status" not in status:
            raise network.fell_silent("the C-ECHO")
        if status.Status:
            raise _refusal(status.Status)


def find(node: RemoteNode, keys: dict[str, str], limit: int) -> list[dict[str, str]]:
    """Studies as keyword → text."""
    return _find(node, "STUDY", dict.fromkeys(RETURNED, "") | keys, limit)


def find_series(node: RemoteNode, study_instance_uid: str) -> list[str]:
    """SeriesInstanceUIDs of a study."""
    keys = {"StudyInstanceUID": study_instance_uid, "SeriesInstanceUID": "", "SeriesNumber": ""}
    rows = _find(node, "SERIES", keys, MAX_SERIES)
    return [row["SeriesInstanceUID"] for row in rows if row.get("SeriesInstanceUID")]


def _find(node: RemoteNode, level: str, keys: dict[str, str], limit: int) -> list[dict[str, str]]:
    identifier = Dataset()
    identifier.SpecificCharacterSet = "ISO_IR 192"
    identifier.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(identifier, keyword, value)
    found: list[dict[str, str]] = []
    with network.association(node, [build_context(STUDY_ROOT_FIND, network.NATIVE)]) as assoc:
        _accepted(assoc, STUDY_ROOT_FIND, "searches (C-FIND)")
        for status, answer in assoc.send_c_find(identifier, STUDY_ROOT_FIND):
            if "Status" not in status:
                raise network.fell_silent("the search")
            if status.Status in _PENDING:
                if answer is not None and len(found) < limit:
                    found.append({element.keyword: _text(element.value) for element in answer})
                    if len(found) == limit:
                        assoc.send_c_cancel(1, query_model=STUDY_ROOT_FIND)
            elif status.Status not in (0x0000, 0xFE00):
                raise _refusal(status.Status)
    return found


def _text(value: Any) -> str:
    if isinstance(value, MultiValue | list):
        return "\\".join(str(one) for one in value)
    return "" if value is None else str(value)


def _wanted(study_instance_uid: str, series_instance_uid: str) -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "SERIES" if series_instance_uid else "STUDY"
    identifier.StudyInstanceUID = study_instance_uid
    if series_instance_uid:
        identifier.SeriesInstanceUID = series_instance_uid
    return identifier


def get(node: RemoteNode, study: str, place: Landing, progress: Progress, *, series: str = "") -> None:
    """C-GET a study, or one series of it, into `place`."""
    images = [build_context(uid, syntaxes) for uid in IMAGES for syntaxes in (network.COMPRESSED, network.NATIVE)]
    others = [build_context(uid, network.NATIVE) for uid in OTHERS]
    contexts = [build_context(STUDY_ROOT_GET, network.NATIVE), *images, *others][: network.MAX_CONTEXTS]
    roles = [build_role(uid, scp_role=True) for uid in dict.fromkeys(str(c.abstract_syntax) for c in contexts[1:])]
    problems: list[Exception] = []
    arrived = 0

    def store(event: Any) -> int:
        nonlocal arrived
        try:
            if problems:
                return 0xA700
            place.take(Path(event.dataset_path))
            arrived += 1
            progress(0.0, f"{arrived} objects arrived")
        except Exception as error:  # told to the caller below; pynetdicom would log its text
            problems.append(error)
            return 0xA700
        return 0x0000

    handlers = [(evt.EVT_C_STORE, store)]
    with network.association(node, contexts, handlers=handlers, roles=roles) as assoc:
        _accepted(assoc, STUDY_ROOT_GET, "C-GET")
        for status, _ in assoc.send_c_get(_wanted(study, series), STUDY_ROOT_GET):
            if problems:
                raise problems[0]
            _settle(status, arrived, progress)


def move(node: RemoteNode, study: str, place: Landing, progress: Progress, *, series: str = "") -> None:
    """C-MOVE a study, or one series of it, to our listener, which puts it into `place`."""
    completed, before = 0, len(place.files())
    with network.association(node, [build_context(STUDY_ROOT_MOVE, network.NATIVE)]) as assoc:
        _accepted(assoc, STUDY_ROOT_MOVE, "C-MOVE")
        for status, _ in assoc.send_c_move(_wanted(study, series), node.called_ae_title, STUDY_ROOT_MOVE):
            completed = int(status.get("NumberOfCompletedSuboperations", completed) or 0)
            _settle(status, completed, progress)
    there = len(place.files()) - before
    if there < completed:
        raise RemoteRefused(
            f"The remote says that it sent {completed} objects, and {there} arrived.",
            "Enter this portal's listener (DIMSE_HOST, DIMSE_PORT) there, and see that `manage.py dimse` runs.",
        )


def _settle(status: Dataset, arrived: int, progress: Progress) -> None:
    """Go on, or end, by the status of one answer to C-GET or C-MOVE."""
    if "Status" not in status:
        raise network.fell_silent(f"after {arrived} objects")
    if status.Status in _PENDING:
        remaining = int(status.get("NumberOfRemainingSuboperations", 0) or 0)
        total = arrived + remaining
        progress(0.9 * arrived / total if total else 0.0, f"{arrived} of {total} objects arrived")
        return
    failed = int(status.get("NumberOfFailedSuboperations", 0) or 0)
    if failed:
        raise Incomplete(
            f"The remote could not send {failed} object{'' if failed == 1 else 's'}.",
            "It may hold them in a form that it does not convert. Try the other way to retrieve.",
        )
    if status.Status != 0x0000 and status.Status not in _WARNINGS:
        raise _refusal(status.Status)


def send(node: RemoteNode, chosen: list[Outgoing], told: Callable[[str, str], None]) -> None:
    """C-STORE each object; `told(uid, problem)` when one is settled."""
    with network.association(node, network.contexts_for(objects.kinds(chosen))) as assoc:
        for one in chosen:
            try:
                status = objects.send(assoc, assoc.send_c_store, one)
            except (objects.NotTransferable, ValueError):
                told(one.sop_instance_uid, "The remote does not take this kind of object.")
                continue
            if "Status" not in status:
                raise network.fell_silent("while objects were sent")
            code = status.Status
            fine = code == 0x0000 or code in _WARNINGS
            told(one.sop_instance_uid, "" if fine else f"0x{code:04X}: {_WORDS.get(code, 'see its log')}")
