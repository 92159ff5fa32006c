"""pynetdicom as we use it: silent about patients, object by object through the disk, and never waiting for ever."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from django.conf import settings
from pynetdicom import AE, _config, dimse_messages, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.transport import ThreadedAssociationServer

from studies.dicom.vr import EXPLICIT_LE, IMPLICIT_LE
from studies.dimse.errors import NodeError, RemoteRefused, Unreachable
from studies.dimse.models import RemoteNode
from studies.ingest.staging import incoming

logger = logging.getLogger(__name__)
NATIVE = [EXPLICIT_LE, IMPLICIT_LE]
COMPRESSED = [
    "1.2.840.10008.1.2.4.70",  # JPEG lossless
    "1.2.840.10008.1.2.4.57",
    "1.2.840.10008.1.2.4.80",  # JPEG-LS
    "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.90",  # JPEG 2000
    "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.5",  # RLE
    "1.2.840.10008.1.2.4.50",  # JPEG
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.201",  # HTJ2K
    "1.2.840.10008.1.2.4.202",
    "1.2.840.10008.1.2.4.203",
    "1.2.840.10008.1.2.4.102",  # MPEG-4
    "1.2.840.10008.1.2.4.103",
]
MAX_CONTEXTS = 128

# pynetdicom logs identifiers, titles and the texts of exceptions; what we log, we log ourselves.
_config.LOG_HANDLER_LEVEL = "none"
_config.LOG_REQUEST_IDENTIFIERS = False
_config.LOG_RESPONSE_IDENTIFIERS = False
_config.STORE_RECV_CHUNKED_DATASET = True
_config.STORE_SEND_CHUNKED_DATASET = True
for _name in ("pynetdicom", "pydicom"):
    logging.getLogger(_name).handlers = [logging.NullHandler()]
    logging.getLogger(_name).propagate = False


def _incoming_file(**options: Any) -> Any:
    """pynetdicom writes an arriving object to a temporary file: among the archive's, so that it need not be copied."""
    path = incoming()
    return NamedTemporaryFile(delete=False, mode="wb", dir=path.parent, suffix=".part")


dimse_messages.NamedTemporaryFile = _incoming_file  # type: ignore[assignment]


def entity(ae_title: str) -> AE:
    """An application entity with the site's timeouts."""
    return with_timeouts(AE(ae_title))


def with_timeouts(ae: AE) -> AE:
    seconds = settings.DIMSE_TIMEOUT_SECONDS
    ae.acse_timeout = ae.dimse_timeout = ae.connection_timeout = seconds
    ae.network_timeout = 2 * seconds
    ae.maximum_pdu_size = 128 << 10
    return ae


def contexts_for(wanted: set[tuple[str, str]]) -> list[PresentationContext]:
    """Contexts for sending objects of these SOP classes and transfer syntaxes: as stored, or uncompressed."""
    contexts = []
    for sop_class in sorted({sop_class for sop_class, _ in wanted}):
        contexts += [build_context(sop_class, syntax) for kind, syntax in sorted(wanted) if kind == sop_class]
        contexts.append(build_context(sop_class, NATIVE))
    return contexts[:MAX_CONTEXTS]


@contextlib.contextmanager
def association(
    node: RemoteNode,
    contexts: list[PresentationContext],
    *,
    handlers: list[Any] | None = None,
    roles: list[Any] | None = None,
) -> Iterator[Association]:
    """An association with `node`, released at the end, aborted after an error. Raises Unreachable, RemoteRefused."""
    ae = entity(node.called_ae_title)
    _reachable(node)
    made = ae.associate(
        node.host,
        node.port,  # type: ignore[arg-type]
        contexts=contexts,
        ae_title=node.ae_title,
        ext_neg=roles,
        evt_handlers=[*(handlers or []), NEVER_WAIT_FOR_EVER],
        tls_args=(client_tls(), node.host) if node.tls else None,
    )
    if not made.is_established:
        raise _why_not(node, made)
    try:
        yield made
    except BaseException:
        if made.is_alive():
            made.abort()
        raise
    finally:
        forget_partial(made)
    if made.is_established:
        made.release()


def _reachable(node: RemoteNode) -> None:
    """pynetdicom does not tell why it could not connect; this does."""
    try:
        socket.create_connection((node.host, node.port or 0), timeout=settings.DIMSE_TIMEOUT_SECONDS).close()
    except socket.gaierror:
        raise Unreachable(f"The name {node.host} is not known.", "Correct the node's host.") from None
    except TimeoutError:
        raise Unreachable(
            f"{node.host}:{node.port} does not answer.", "Check host, port and the firewalls in between."
        ) from None
    except OSError as error:
        raise Unreachable(
            f"{node.host}:{node.port} cannot be reached: {error.strerror or type(error).__name__}.",
            "See whether the remote runs.",
        ) from None


def _why_not(node: RemoteNode, made: Association) -> Exception:
    rejection = made.acceptor.primitive if made.is_rejected else None
    if rejection is not None:
        reasons = {
            (1, 3): (f"it does not know our AE title {node.called_ae_title}", "Enter it there."),
            (1, 7): (f"its AE title is not {node.ae_title}", "Correct the node's AE title."),
            (3, 1): ("it is busy", "Try later."),
            (3, 2): ("it has too many connections", "Try later."),
        }
        source, diagnostic = rejection.result_source or 0, rejection.diagnostic or 0
        cause, step = reasons.get((source, diagnostic), ("it gave no reason", "Ask its administrator."))
        kind = Unreachable if source == 3 else RemoteRefused
        return kind(f"The remote refused the association: {cause}.", step)
    if node.tls:
        return Unreachable(
            "No association came about; perhaps the certificates do not fit.", "Check TLS on both sides."
        )
    return Unreachable("The remote took the connection, but no association came about.", "Check port and TLS.")


def fell_silent(what: str) -> Unreachable:
    return Unreachable(
        f"The remote stopped answering {what}.", f"It was given {settings.DIMSE_TIMEOUT_SECONDS:g} s; try again later."
    )


def client_tls() -> ssl.SSLContext:
    """Raises NodeError where the site's certificates cannot be read."""
    try:
        context = ssl.create_default_context(cafile=settings.DIMSE_TLS_CA or None)
        if settings.DIMSE_TLS_CERTIFICATE:
            context.load_cert_chain(settings.DIMSE_TLS_CERTIFICATE, settings.DIMSE_TLS_KEY or None)
    except (OSError, ssl.SSLError) as error:
        raise NodeError(f"The TLS certificates cannot be used: {error.strerror}.", "Check DIMSE_TLS_….") from None
    return context


def server_tls() -> ssl.SSLContext:
    """For the listener: where DIMSE_TLS_CA is set, callers must show a certificate that it signed."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=settings.DIMSE_TLS_CA or None)
    context.load_cert_chain(settings.DIMSE_TLS_CERTIFICATE, settings.DIMSE_TLS_KEY or None)
    if settings.DIMSE_TLS_CA:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _never_wait_for_ever(event: Any) -> None:
    """A peer that stops in the middle of a PDU would block pynetdicom's reading thread, and ending it, for good."""
    transport = event.assoc.dul.socket
    if transport is not None and transport.socket is not None:
        transport.socket.settimeout(settings.DIMSE_TIMEOUT_SECONDS)


# Belongs to every association, on both sides, from its first byte.
NEVER_WAIT_FOR_EVER = (evt.EVT_CONN_OPEN, _never_wait_for_ever)


class Server(ThreadedAssociationServer):
    """A server in which a caller's TLS handshake holds up nobody but this caller."""

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        assert self.socket is not None
        caller, address = self.socket.accept()
        caller.settimeout(settings.DIMSE_TIMEOUT_SECONDS)
        if self.ssl_context:
            caller = self.ssl_context.wrap_socket(caller, server_side=True, do_handshake_on_connect=False)
        return caller, address

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        if isinstance(request, ssl.SSLSocket):
            try:
                request.do_handshake()
            except OSError as error:
                logger.warning(
                    "a TLS handshake failed", extra={"address": client_address[0], "kind": type(error).__name__}
                )
                self.shutdown_request(request)
                return
        super().process_request_thread(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.warning("a connection broke before it was an association", extra={"address": client_address[0]})


def forget_partial(made: Association) -> None:
    """Remove the file of an object that was still arriving when the association ended."""
    message = made.dimse.message
    path = getattr(message, "_data_set_path", None)
    if isinstance(path, Path):
        path.unlink(missing_ok=True)
