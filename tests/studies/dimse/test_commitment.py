"""Storage commitment, asked by a modality that pynetdicom plays (dcmtk has none)."""

from __future__ import annotations

import queue
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, evt

from studies.dimse import commitment, nodes
from studies.dimse.models import Commitment
from studies.ingest import store
from studies.models import Instance
from tests.factories import CT_IMAGE_STORAGE, make_ct_series

pytestmark = pytest.mark.django_db(transaction=True)
PUSH_MODEL, WELL_KNOWN = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"


class Modality:
    """Asks for commitment, and takes the answer where it comes: on the same association or as a server."""

    def __init__(self, node, listener) -> None:
        self.node, self.listener = node, listener
        self.reports: queue.Queue[tuple[int, Dataset, bool]] = queue.Queue()
        self.ae = AE("DCMTK")
        self.ae.add_requested_context(PUSH_MODEL)
        self.ae.add_supported_context(PUSH_MODEL, scu_role=True, scp_role=True)
        self.server = None

    def _reported(self, event) -> tuple[int, None]:
        self.reports.put((event.request.EventTypeID, event.event_information, event.assoc.is_acceptor))
        return 0x0000, None

    def serve(self) -> None:
        self.server = self.ae.start_server(
            ("127.0.0.1", self.node.port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, self._reported)]
        )

    def ask(self, references: list[tuple[str, str]], *, wait: bool = False, uid: str = "") -> int:
        information = Dataset()
        information.TransactionUID = uid or generate_uid()
        information.ReferencedSOPSequence = []
        for sop_class, instance in references:
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, instance
            information.ReferencedSOPSequence.append(item)
        assoc = self.ae.associate(
            "127.0.0.1", self.listener.port, ae_title="READROOM",
            evt_handlers=[(evt.EVT_N_EVENT_REPORT, self._reported)],
        )  # fmt: skip
        assert assoc.is_established
        try:
            status, _ = assoc.send_n_action(information, 1, PUSH_MODEL, WELL_KNOWN)
            if wait:
                self.report()
        finally:
            assoc.release()
        return status.Status

    def report(self) -> tuple[int, Dataset, bool]:
        self.last = self.reports.get(timeout=30)
        return self.last


@pytest.fixture
def modality(node, listener):
    one = Modality(node, listener)
    yield one
    one.ae.shutdown()


@pytest.fixture
def references(project) -> list[tuple[str, str]]:
    series = make_ct_series(project, 3)
    return [(row.sop_class_uid, row.sop_instance_uid) for row in Instance.objects.filter(series=series)]


def uids(items) -> set[str]:
    return {item.ReferencedSOPInstanceUID for item in items}


def test_a_modality_that_waits_hears_it_on_its_own_association(modality, references):
    assert modality.ask(references, wait=True) == 0x0000
    event_type, information, by_new_association = modality.last
    assert event_type == 1
    assert not by_new_association
    assert uids(information.ReferencedSOPSequence) == {uid for _, uid in references}
    assert "FailedSOPSequence" not in information


def test_a_modality_that_leaves_is_called(modality, references, project):
    modality.serve()
    missing = (CT_IMAGE_STORAGE, "1.2.3.4")
    wrong_class = ("1.2.840.10008.5.1.4.1.1.4", references[0][1])
    lost = Instance.objects.get(sop_instance_uid=references[1][1])
    Path(store.absolute_path(lost.file)).unlink()
    assert modality.ask([missing, wrong_class, *references[1:]]) == 0x0000
    event_type, information, by_new_association = modality.report()
    assert event_type == 2
    assert by_new_association
    assert uids(information.ReferencedSOPSequence) == {references[2][1]}
    reasons = {item.ReferencedSOPInstanceUID: item.FailureReason for item in information.FailedSOPSequence}
    # PS3.4 J.3.3.1.1: no such object, class and instance conflict, processing failure
    assert reasons == {"1.2.3.4": 0x0112, references[0][1]: 0x0119, references[1][1]: 0x0110}


def test_an_answer_that_does_not_arrive_is_sent_again(modality, references, settings):
    """Nobody listens at first; the promise waits in the database and outlives the listener."""
    assert modality.ask(references) == 0x0000
    one = Commitment.objects.get()
    modality.listener.process.terminate()
    modality.listener.process.wait(20)
    one.refresh_from_db()
    assert one.state == Commitment.State.PENDING
    modality.serve()
    Commitment.objects.update(due_at=one.created_at)
    assert commitment.send_due() == 1
    assert modality.report()[0] == 1
    one.refresh_from_db()
    assert one.state == Commitment.State.REPORTED


def test_it_is_given_up_in_the_end(node, references, settings):
    settings.DIMSE_TIMEOUT_SECONDS = 0.5
    one = Commitment.objects.create(
        node=node, transaction_uid="1.2", references=references, due_at="2020-01-01T00:00Z",
        attempts=commitment.MAX_ATTEMPTS - 1,
    )  # fmt: skip
    assert commitment.send_due() == 1
    one.refresh_from_db()
    assert one.state == Commitment.State.GIVEN_UP
    assert commitment.send_due() == 0


def test_wrong_and_repeated_requests(modality, references):
    assert modality.ask([]) == 0x0115  # invalid argument value
    assert modality.ask(references, uid="1.2.3") == 0x0000
    assert modality.ask(references, uid="1.2.3") == 0x0131  # duplicate transaction UID


def test_a_node_without_the_right_may_not_ask(modality, node):
    nodes.change(node, services=["store"])
    assoc = modality.ae.associate("127.0.0.1", modality.listener.port, ae_title="READROOM")
    assert not assoc.is_established or not assoc.accepted_contexts
