"""The listener: C-ECHO, C-STORE, C-FIND, C-MOVE, C-GET and storage commitment for known callers.

Whoever is not written down as a node is rejected before anything is negotiated. Handlers run in a thread for each
association; they parse, call one service and answer. No exception leaves them: pynetdicom would log its text.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import close_old_connections, connection
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.presentation import AllStoragePresentationContexts

from studies.dicom.vr import DEFLATED_LE, EXPLICIT_BE
from studies.dicomweb.problems import Problem
from studies.dimse import commitment, find, landing, network, nodes, objects, receive, sop_classes, trace
from studies.dimse.errors import NodeError
from studies.dimse.models import RemoteNode
from studies.ingest import store
from studies.ingest.staging import Staged
from studies.models import ImportBatch

logger = logging.getLogger(__name__)
Service = RemoteNode.Service
PENDING, CANCELLED = 0xFF00, 0xFE00
UNABLE, UNKNOWN_DESTINATION = 0xC000, 0xA801
FOUND_BY = {
    sop_classes.PATIENT_ROOT_FIND: Service.FIND,
    sop_classes.STUDY_ROOT_FIND: Service.FIND,
    sop_classes.PATIENT_ROOT_MOVE: Service.MOVE,
    sop_classes.STUDY_ROOT_MOVE: Service.MOVE,
    sop_classes.PATIENT_ROOT_GET: Service.GET,
    sop_classes.STUDY_ROOT_GET: Service.GET,
    sop_classes.STORAGE_COMMITMENT: Service.COMMIT,
}


class Archive(AE):
    """Our application entity. For C-MOVE, pynetdicom calls `associate` in the thread of the association that asks."""

    def __init__(self, ae_title: str) -> None:
        super().__init__(ae_title)
        self.moving = threading.local()

    def associate(self, *args: Any, **options: Any) -> Association:
        options["evt_handlers"] = [*(options.get("evt_handlers") or []), network.NEVER_WAIT_FOR_EVER]
        made = super().associate(*args, **options)
        originator = getattr(self.moving, "originator", None)
        extra = {"originator_aet": originator} if originator else {}
        made.send_c_store = objects.unpacking(made, **extra)  # type: ignore[method-assign]
        return made


def archive() -> Archive:
    ae = Archive(settings.DIMSE_AE_TITLE)
    network.with_timeouts(ae)
    ae.maximum_associations = settings.DIMSE_ASSOCIATIONS
    ae.add_supported_context(sop_classes.VERIFICATION, network.NATIVE)
    syntaxes = [*network.NATIVE, DEFLATED_LE, EXPLICIT_BE, *network.COMPRESSED]
    for context in AllStoragePresentationContexts:
        ae.add_supported_context(context.abstract_syntax, syntaxes, scu_role=True, scp_role=True)  # type: ignore[arg-type]
    for sop_class in FOUND_BY:
        ae.add_supported_context(sop_class, network.NATIVE)
    return ae


def listen(ae: Archive) -> list[network.Server]:
    """Start listening on the ports of the settings. Raises NodeError where that is not possible."""
    wanted: list[tuple[int, Any]] = []
    if settings.DIMSE_PORT:
        wanted.append((settings.DIMSE_PORT, None))
    if settings.DIMSE_TLS_PORT:
        if not settings.DIMSE_TLS_CERTIFICATE:
            raise NodeError("DIMSE_TLS_PORT is set, and DIMSE_TLS_CERTIFICATE is not.", "Name the certificate's file.")
        try:
            wanted.append((settings.DIMSE_TLS_PORT, network.server_tls()))
        except OSError as error:
            raise NodeError("The TLS certificate or key cannot be used.", "Check DIMSE_TLS_….") from error
    servers: list[network.Server] = []
    for port, context in wanted:
        try:
            address = (settings.DIMSE_HOST, port)
            bound = handlers(context is not None)
            server = ae.make_server(
                address, evt_handlers=bound, ssl_context=context, server_class=network.Server
            )  # fmt: skip
        except OSError as error:
            raise NodeError(f"Port {port} cannot be opened: {error.strerror}.", "Give another one.") from None
        assert isinstance(server, network.Server)
        ae._servers.append(server)  # `ae.shutdown` ends these
        threading.Thread(target=server.serve_forever, name=f"listener {port}", daemon=True).start()
        servers.append(server)
    return servers


def handlers(tls: bool) -> list[Any]:
    return [
        network.NEVER_WAIT_FOR_EVER,
        (evt.EVT_REQUESTED, _requested, [tls]),
        (evt.EVT_RELEASED, _ended),
        (evt.EVT_ABORTED, _ended),
        (evt.EVT_CONN_CLOSE, _closed),
        (evt.EVT_C_ECHO, _echo),
        (evt.EVT_C_STORE, _store),
        (evt.EVT_C_FIND, _find),
        (evt.EVT_C_MOVE, _move),
        (evt.EVT_C_GET, _get),
        (evt.EVT_N_ACTION, _commit),
    ]


class Conversation:
    """What belongs to one association: who calls, and the import that it opens with its first object."""

    def __init__(self, node: RemoteNode) -> None:
        self.node = node
        self._batch: ImportBatch | None = None
        self.only_asks = True  # nothing was stored on this association so far

    def batch(self) -> ImportBatch:
        if self._batch is None:
            self._batch = store.open_batch(
                self.node.project, ImportBatch.Source.DIMSE, sending_ae_title=self.node.ae_title
            )
        return self._batch

    def may(self, service: Service) -> bool:
        return service in self.node.services


def _requested(event: Any, tls: bool) -> None:
    """Let a known caller in, with the services that it may use; reject everybody else."""
    assoc = event.assoc
    try:
        close_old_connections()
        request = assoc.requestor.primitive
        calling, called = request.calling_ae_title, request.called_ae_title
        node = nodes.caller(calling, called, assoc.requestor.address, tls=tls)
    except Exception as error:
        logger.error("a caller could not be looked up", extra={"kind": type(error).__name__})
        node = None
    if node is None:
        logger.warning("an unknown caller was rejected", extra={"address": assoc.requestor.address, "tls": tls})
        assoc.acse.send_reject(0x01, 0x01, 0x03)
        assoc.is_rejected = True
        connection.close()
        assoc.kill()
        return
    assoc.conversation = Conversation(node)
    assoc.acceptor.ae_title = called
    assoc.acceptor.supported_contexts = [
        context
        for context in assoc.acceptor.supported_contexts
        if (service := FOUND_BY.get(context.abstract_syntax)) is None or service in node.services
    ]


def _ended(event: Any) -> None:
    """In the association's own thread: its database connection is not needed any more."""
    connection.close()


def _closed(event: Any) -> None:
    network.forget_partial(event.assoc)


def _guarded(failure: Any) -> Callable[..., Any]:
    """Answer `failure` where a handler fails, and tell the log what kind of error it was."""

    def decorate(handler: Callable[[Any, Conversation], Any]) -> Callable[[Any], Any]:
        @wraps(handler)
        def guarded(event: Any) -> Any:
            conversation = getattr(event.assoc, "conversation", None)
            if conversation is None:
                return failure
            try:
                close_old_connections()
                return handler(event, conversation)
            except Exception as error:
                _log_failure(handler.__name__, conversation, error)
                return failure

        return guarded

    return decorate


def _log_failure(name: str, conversation: Conversation, error: Exception) -> None:
    extra = {"service": name.strip("_"), "node_id": conversation.node.pk}
    logger.error("a DICOM request failed", extra=extra, exc_info=error)


def _with_comment(status: int, comment: str) -> Dataset:
    answer = Dataset()
    answer.Status = status
    answer.ErrorComment = comment[:64]
    return answer


@_guarded(0x0122)
def _echo(event: Any, conversation: Conversation) -> int:
    return receive.SUCCESS


@_guarded(receive.PROCESSING_FAILURE)
def _store(event: Any, conversation: Conversation) -> int | Dataset:
    arrived = Path(event.dataset_path)
    conversation.only_asks = False
    node = conversation.node
    if not conversation.may(Service.STORE):
        arrived.unlink(missing_ok=True)
        return _with_comment(receive.NOT_AUTHORISED, "This node may not store here.")
    try:
        entry = receive.stage(arrived)
        if isinstance(entry, Staged):
            if entry.header.sop_instance_uid != str(event.request.AffectedSOPInstanceUID):
                entry.path.unlink(missing_ok=True)
                return _with_comment(receive.MISMATCH, "The object has another SOPInstanceUID than the request.")
            if landing.land(node, entry.header.study_instance_uid, entry.path):
                return receive.SUCCESS
            if str(event.request.MoveOriginatorApplicationEntityTitle or "").strip() == node.called_ae_title:
                entry.path.unlink(missing_ok=True)
                return _with_comment(receive.OUT_OF_RESOURCES, "The retrieval has ended.")
        outcome = next(receive.store_entries([entry], conversation.batch()))
    except OSError:
        arrived.unlink(missing_ok=True)
        logger.error("an object could not be written", extra={"node_id": node.pk})
        return _with_comment(receive.OUT_OF_RESOURCES, "The object could not be written.")
    if not outcome.refused:
        return receive.SUCCESS
    logger.info("an object was refused", extra={"node_id": node.pk, "code": outcome.code})
    return _with_comment(receive.status_of(outcome), f"Refused: {outcome.code}")


def _find(event: Any) -> Iterator[tuple[int, Dataset | None]]:
    conversation = getattr(event.assoc, "conversation", None)
    if conversation is None or not conversation.may(Service.FIND):
        yield receive.NOT_AUTHORISED, None
        return
    try:
        close_old_connections()
        trace.searched(conversation.node, event.assoc.requestor.address)
        for answer in find.find(nodes.scope_of(conversation.node), event.identifier):
            if event.is_cancelled:
                yield CANCELLED, None
                return
            answer.RetrieveAETitle = conversation.node.called_ae_title
            yield PENDING, answer
    except (find.BadIdentifier, Problem):
        yield receive.MISMATCH, None
    except Exception as error:
        _log_failure("_find", conversation, error)
        yield UNABLE, None


def _get(event: Any) -> Iterator[Any]:
    conversation = getattr(event.assoc, "conversation", None)
    if conversation is None or not conversation.may(Service.GET):
        yield 1
        yield receive.NOT_AUTHORISED, None
        return
    try:
        close_old_connections()
        rows = find.instances_of(nodes.scope_of(conversation.node), event.identifier)
        trace.exported(rows, conversation.node, "get", event.assoc.requestor.address)
        chosen = objects.outgoing(rows)
    except find.BadIdentifier:
        yield 1
        yield receive.MISMATCH, None
        return
    except Exception as error:
        _log_failure("_get", conversation, error)
        yield 1
        yield UNABLE, None
        return
    event.assoc.send_c_store = objects.unpacking(event.assoc)
    yield len(chosen)
    yield from _parcels(event, chosen)


def _move(event: Any) -> Iterator[Any]:
    conversation = getattr(event.assoc, "conversation", None)
    try:
        close_old_connections()
        if conversation is None or not conversation.may(Service.MOVE):
            yield None, None
            return
        node = conversation.node
        to = RemoteNode.objects.filter(
            project=node.project, kind=RemoteNode.Kind.DIMSE, active=True, ae_title=str(event.move_destination).strip()
        ).first()
        if to is None:
            yield None, None
            return
        rows = find.instances_of(nodes.scope_of(node), event.identifier)
        trace.exported(rows, to, "move", event.assoc.requestor.address)
        chosen = objects.outgoing(rows)
        options: dict[str, Any] = {"contexts": network.contexts_for(objects.kinds(chosen))}
        if to.tls:
            options["tls_args"] = (network.client_tls(), to.host)
    except find.BadIdentifier:
        yield "127.0.0.1", 9, {}  # not called: the answer comes before
        yield 1
        return
    except Exception as error:
        _log_failure("_move", conversation, error)  # type: ignore[arg-type]
        yield None, None
        return
    event.assoc.ae.moving.originator = event.assoc.requestor.ae_title
    yield to.host, to.port, options
    yield len(chosen)
    yield from _parcels(event, chosen)


def _parcels(event: Any, chosen: list[objects.Outgoing]) -> Iterator[tuple[int, Dataset | None]]:
    for one in chosen:
        if event.is_cancelled:
            yield CANCELLED, None
            return
        yield PENDING, objects.Parcel(one)


@_guarded((receive.PROCESSING_FAILURE, None))
def _commit(event: Any, conversation: Conversation) -> tuple[int, Dataset | None]:
    if not conversation.may(Service.COMMIT):
        return receive.NOT_AUTHORISED, None
    if event.request.ActionTypeID != 1:
        return 0x0123, None
    # Whoever stores and asks on one association goes on storing: our report would cross the next object.
    in_place = conversation.only_asks
    status, one = commitment.request(conversation.node, event.action_information, in_place=in_place)
    if one is not None and in_place:
        threading.Thread(target=commitment.report_on, args=[event.assoc, one], daemon=True).start()
    return status, None
