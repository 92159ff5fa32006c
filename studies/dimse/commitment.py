"""Storage commitment: a promise is given only for what lies on disk, and its answer is sent until it arrives.

The answer goes out on the association of the request where that stays open, else on one of our own.
"""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from typing import Any

from django.db import connection, transaction
from django.utils import timezone
from pydicom.dataset import Dataset
from pynetdicom.association import Association
from pynetdicom.presentation import build_context, build_role

from studies.dimse import network
from studies.dimse.errors import RemoteError
from studies.dimse.models import Commitment, RemoteNode
from studies.dimse.sop_classes import STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
from studies.ingest import store
from studies.models import Instance

logger = logging.getLogger(__name__)
MAX_ATTEMPTS = 8
FIRST_PAUSE = timedelta(seconds=20)  # then twice as long each time: about 85 minutes in all
# A node that asked on an association of its own may wait for the answer there, or release it at once.
STAYS_OPEN = timedelta(seconds=0.5)
NO_SUCH_OBJECT = 0x0112
CLASS_CONFLICT = 0x0119
PROCESSING_FAILURE = 0x0110
INVALID_ARGUMENT = 0x0115
DUPLICATE_TRANSACTION = 0x0131
MAX_REFERENCES = 100_000


def request(node: RemoteNode, information: Dataset, *, in_place: bool = False) -> tuple[int, Commitment | None]:
    """Write a request down (N-ACTION, action type 1); returns the status to answer, and what was written.

    With `in_place` somebody is about to call `report_on`, and `send_due` leaves the answer alone for that long.
    """
    uid = str(information.get("TransactionUID", "") or "")
    references = [
        [str(item.get("ReferencedSOPClassUID", "")), str(item.get("ReferencedSOPInstanceUID", ""))]
        for item in information.get("ReferencedSOPSequence", None) or []
    ]
    if not uid or len(uid) > 64 or not references or len(references) > MAX_REFERENCES:
        return INVALID_ARGUMENT, None
    due_at = timezone.now() + (FIRST_PAUSE if in_place else timedelta(0))
    one, new = Commitment.objects.get_or_create(
        node=node, transaction_uid=uid, defaults={"references": references, "due_at": due_at}
    )
    return (0x0000, one) if new else (DUPLICATE_TRANSACTION, None)


def report_on(assoc: Association, one: Commitment) -> None:
    """Answer on the association of the request if it is still open; if not, or if that fails, the answer is due now.

    Runs in a thread of its own: the association's own thread has to send its answer to the request first.
    """
    try:
        time.sleep(STAYS_OPEN.total_seconds())
        if assoc.is_established:
            _send(assoc, *answer(one.node, one.transaction_uid, one.references))
            Commitment.objects.filter(pk=one.pk).update(state=Commitment.State.REPORTED)
            return
    except Exception as error:
        logger.info(
            "a storage commitment goes out by itself", extra={"node_id": one.node_id, "error": repr(type(error))}
        )
    finally:
        Commitment.objects.filter(pk=one.pk, state=Commitment.State.PENDING).update(due_at=timezone.now())
        connection.close()


def send_due() -> int:
    """Send the answers that are due; returns how many were tried."""
    done = 0
    while True:
        with transaction.atomic():
            one = (
                Commitment.objects.select_for_update(skip_locked=True, of=("self",))
                .filter(state=Commitment.State.PENDING, due_at__lte=timezone.now())
                .select_related("node")
                .order_by("due_at")
                .first()
            )
            if one is None:
                return done
            # Claimed by moving the next attempt away: no lock is held while the remote is waited for.
            one.attempts += 1
            one.due_at = timezone.now() + FIRST_PAUSE * 2 ** (one.attempts - 1)
            one.save(update_fields=["attempts", "due_at"])
        done += 1
        _try(one)


def _try(one: Commitment) -> None:
    try:
        _report(one.node, one.transaction_uid, one.references)
        one.state = Commitment.State.REPORTED
    except RemoteError as error:
        logger.warning("a storage commitment was not delivered", extra={"node_id": one.node_id, "cause": error.cause})
        if one.attempts >= MAX_ATTEMPTS:
            one.state = Commitment.State.GIVEN_UP
    one.save(update_fields=["state"])


def _report(node: RemoteNode, transaction_uid: str, references: list[list[str]]) -> None:
    event_type, information = answer(node, transaction_uid, references)
    context = build_context(STORAGE_COMMITMENT, network.NATIVE)
    role = build_role(STORAGE_COMMITMENT, scu_role=False, scp_role=True)
    with network.association(node, [context], roles=[role]) as assoc:
        _send(assoc, event_type, information)


def _send(assoc: Association, event_type: int, information: Dataset) -> None:
    """N-EVENT-REPORT. Raises RemoteError where it was not taken."""
    try:
        status, _ = assoc.send_n_event_report(information, event_type, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE)
    except (ValueError, RuntimeError):
        raise RemoteError("The remote takes no answers to storage commitment from us.") from None
    if "Status" not in status:
        raise network.fell_silent("while it was told what is stored")
    if status.Status != 0x0000:
        raise RemoteError(f"The remote answered 0x{status.Status:04X} to storage commitment.")


def answer(node: RemoteNode, transaction_uid: str, references: list[list[str]]) -> tuple[int, Dataset]:
    """Event type (1: all, 2: failures exist) and information (PS3.4 table J.3.3-1)."""
    uids = [uid for _, uid in references]
    rows = Instance.objects.filter(project_id=node.project_id, sop_instance_uid__in=uids)
    held = {row[0]: row[1:] for row in rows.values_list("sop_instance_uid", "sop_class_uid", "file", "file_size")}
    good: list[Dataset] = []
    bad: list[Dataset] = []
    for sop_class, uid in references:
        reason = _why_not(held.get(uid), sop_class)
        (bad if reason else good).append(_item(sop_class, uid, reason))
    information = Dataset()
    information.TransactionUID = transaction_uid
    information.ReferencedSOPSequence = good
    if bad:
        information.FailedSOPSequence = bad
    return (2 if bad else 1), information


def _why_not(held: tuple[Any, ...] | None, sop_class: str) -> int:
    if held is None:
        return NO_SUCH_OBJECT
    kind, file, size = held
    if kind != sop_class:
        return CLASS_CONFLICT
    try:
        return 0 if store.absolute_path(file).stat().st_size == size else PROCESSING_FAILURE
    except OSError:
        return PROCESSING_FAILURE


def _item(sop_class: str, uid: str, reason: int) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class
    item.ReferencedSOPInstanceUID = uid
    if reason:
        item.FailureReason = reason
    return item
