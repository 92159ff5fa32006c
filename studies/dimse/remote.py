"""What we ask of other systems: are you there, what have you got, send it to me, take this.

Each function takes a node of either kind. An attempt that fails because the connection broke or the remote fell silent
is repeated; what an attempt brought before it failed is thrown away, so a series is there whole or not at all.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import partial
from typing import TypeVar

from django.db.models import QuerySet

from portal.accounts.models import User
from studies.dimse import landing, objects, receive, scu, trace, web
from studies.dimse.errors import Incomplete, RemoteError, RemoteRefused, Unreachable
from studies.dimse.models import RemoteNode
from studies.ingest import store
from studies.ingest.outcome import Outcome, Refused
from studies.ingest.staging import Staged
from studies.models import ImportBatch, Instance

logger = logging.getLogger(__name__)
ATTEMPTS = 3
FIRST_PAUSE_SECONDS = 1.0
MAX_FOUND = 500
Progress = Callable[[float, str], None]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to look for; empty fields match everything, `*` and `?` are wildcards."""

    patient_id: str = ""
    patient_name: str = ""
    accession_number: str = ""
    modality: str = ""
    first_day: date | None = None
    last_day: date | None = None
    study_instance_uid: str = ""

    @property
    def study_date(self) -> str:
        """A DICOM range of dates."""
        if self.first_day is None and self.last_day is None:
            return ""
        first, last = (day.strftime("%Y%m%d") if day else "" for day in (self.first_day, self.last_day))
        return first if first == last else f"{first}-{last}"


@dataclass(frozen=True, slots=True)
class Found:
    """A study at a remote."""

    study_instance_uid: str
    patient_id: str = ""
    patient_name: str = ""
    study_date: str = ""
    study_description: str = ""
    accession_number: str = ""
    modalities: str = ""
    number_of_instances: str = ""

    @property
    def day(self) -> date | None:
        try:
            return datetime.strptime(self.study_date.strip()[:8], "%Y%m%d").date()
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class Retrieved:
    batch: ImportBatch
    stored: int
    duplicate: int
    refused: list[Outcome]
    failed: dict[str, RemoteError] = field(default_factory=dict)  # SeriesInstanceUID → why it did not come


@dataclass
class Sent:
    sent: int = 0
    failed: dict[str, str] = field(default_factory=dict)  # SOPInstanceUID → why


def _nothing(fraction: float, text: str) -> None:
    pass


def _repeated(node: RemoteNode, what: str, attempt: Callable[[], T]) -> T:
    for number in range(1, ATTEMPTS + 1):
        try:
            return attempt()
        except Unreachable as error:
            logger.warning(
                "a remote failed", extra={"node_id": node.pk, "what": what, "attempt": number, "cause": error.cause}
            )
            if number == ATTEMPTS:
                raise
            time.sleep(FIRST_PAUSE_SECONDS * 2 ** (number - 1))
    raise AssertionError


def echo(node: RemoteNode) -> float:
    """Seconds until the remote had answered. Raises RemoteError; tries once, because somebody is watching."""
    started = time.monotonic()
    (scu if node.is_dimse else web).echo(node)
    return time.monotonic() - started


def find(node: RemoteNode, wanted: Wanted, *, watched: bool = False) -> tuple[list[Found], bool]:
    """Studies at the remote, at most MAX_FOUND, and whether these are all. Raises RemoteError.

    With `watched` it tries once, because somebody waits for the answer.
    """
    keys = {
        "PatientID": wanted.patient_id,
        "PatientName": wanted.patient_name,
        "StudyDate": wanted.study_date,
        "AccessionNumber": wanted.accession_number,
        "ModalitiesInStudy": wanted.modality,
        "StudyInstanceUID": wanted.study_instance_uid,
    }
    edge = scu if node.is_dimse else web
    attempt = partial(edge.find, node, keys, MAX_FOUND + 1)
    rows = attempt() if watched else _repeated(node, "find", attempt)
    found = [
        Found(
            study_instance_uid=row["StudyInstanceUID"],
            patient_id=row.get("PatientID", ""),
            patient_name=row.get("PatientName", ""),
            study_date=row.get("StudyDate", ""),
            study_description=row.get("StudyDescription", ""),
            accession_number=row.get("AccessionNumber", ""),
            modalities=row.get("ModalitiesInStudy", "").replace("\\", ", "),
            number_of_instances=row.get("NumberOfStudyRelatedInstances", ""),
        )
        for row in rows
        if row.get("StudyInstanceUID")
    ]
    return found[:MAX_FOUND], len(found) <= MAX_FOUND


def retrieve(
    node: RemoteNode, study_instance_uid: str, *, by: User | None = None, progress: Progress = _nothing
) -> Retrieved:
    """Bring a study into the node's project, after all of it has arrived.

    Where the remote cannot send single objects, the series are asked for one by one; those that do not come whole are
    in `Retrieved.failed`. `progress(fraction, text)` is called often and may raise to stop. Raises RemoteError.
    """
    with landing.opened(node, study_instance_uid) as place:
        failed: dict[str, RemoteError] = {}
        try:
            _bring(node, study_instance_uid, place, progress)
        except Incomplete as error:
            failed = _by_series(node, study_instance_uid, place, progress, error)
        place.close()
        files = place.files()
        if not files:
            raise RemoteRefused("The remote sent nothing.", "Look whether it still has the study.")
        progress(0.9, f"{len(files)} objects arrived; they are stored")
        batch = store.open_batch(node.project, ImportBatch.Source.DIMSE, by, sending_ae_title=node.ae_title)

        def entries() -> Iterator[Staged | tuple[str, Refused]]:
            for path in files:
                entry = receive.stage(path)
                if isinstance(entry, Staged) and entry.header.study_instance_uid != study_instance_uid:
                    yield "", Refused("wrong_study", "The remote sent an object of another study.", keep=False)
                else:
                    yield entry

        outcomes = list(receive.store_entries(entries(), batch))
    batch.refresh_from_db()
    return Retrieved(batch, batch.stored, batch.duplicate, [one for one in outcomes if one.refused], failed)


def _bring(node: RemoteNode, study: str, place: landing.Landing, progress: Progress, series: str = "") -> None:
    """A study or series into `place`, whole or not at all; what lies there already stays."""
    before = place.files()
    way = web.retrieve if not node.is_dimse else scu.move if node.retrieve_by == RemoteNode.Retrieve.MOVE else scu.get

    def attempt() -> None:
        place.clear(keep=before)
        way(node, study, place, progress, series=series)

    try:
        _repeated(node, "retrieve", attempt)
    except RemoteError:
        place.clear(keep=before)
        raise


def _by_series(
    node: RemoteNode, study: str, place: landing.Landing, progress: Progress, error: RemoteError
) -> dict[str, RemoteError]:
    """Each series by itself, so that a bad one does not keep the others away. Raises `error` where none comes."""
    edge = scu if node.is_dimse else web
    every = _repeated(node, "find", lambda: edge.find_series(node, study))
    failed: dict[str, RemoteError] = {}
    for series in every:
        try:
            _bring(node, study, place, progress, series)
        except RemoteRefused as why:
            failed[series] = why
    if len(failed) == len(every):
        raise error
    return failed


def send(node: RemoteNode, instances: QuerySet[Instance], *, progress: Progress = _nothing) -> Sent:
    """Send objects to a node by C-STORE or STOW-RS; after a broken connection it goes on with what is left.

    Objects that the remote refuses are told in `Sent.failed`. Raises RemoteError where the connection cannot be kept.
    """
    trace.exported(instances, node, "send")
    left = {one.sop_instance_uid: one for one in objects.outgoing(instances)}
    if not left:
        raise RemoteError("There is nothing to send.", "Choose a study with objects.")
    total, sent = len(left), Sent()

    def told(uid: str, problem: str) -> None:
        """One object is settled."""
        left.pop(uid, None)
        if problem:
            sent.failed[uid] = problem
        else:
            sent.sent += 1
        progress((total - len(left)) / total, f"{sent.sent} of {total} objects sent")

    edge = scu if node.is_dimse else web
    _repeated(node, "send", lambda: edge.send(node, list(left.values()), told))
    return sent
