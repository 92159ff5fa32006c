"""A remote that speaks DICOMweb. One attempt each; `studies.dimse.remote` repeats."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from django.conf import settings
from pydicom.datadict import keyword_for_tag

from studies.dicomweb import multipart
from studies.dicomweb.problems import Problem
from studies.dimse import network
from studies.dimse.errors import Incomplete, RemoteRefused, Unreachable
from studies.dimse.landing import Landing
from studies.dimse.models import RemoteNode
from studies.dimse.objects import Outgoing
from studies.ingest import limits, store

Progress = Callable[[float, str], None]
DICOM = "application/dicom"
JSON = "application/dicom+json"
MAX_JSON = 64 << 20
GROUP_BYTES = 64 << 20  # of one STOW-RS request
_WORDS = {401: "it asks for another token", 403: "we are not allowed to", 404: "it has nothing there"}


class _NoRedirect(HTTPRedirectHandler):
    """The token must not follow to another host."""

    def redirect_request(self, *args: Any, **options: Any) -> None:
        return None


def _open(node: RemoteNode, path: str, *, accept: str, **request: Any) -> Any:
    """The answer as a stream. Raises Unreachable, RemoteRefused."""
    headers = {"Accept": accept, **request.pop("headers", {})}
    if node.token:
        headers["Authorization"] = f"Bearer {node.token}"
    opener = build_opener(_NoRedirect, HTTPSHandler(context=network.client_tls()))
    try:
        return opener.open(
            Request(f"{node.url}{path}", headers=headers, **request),  # noqa: S310  # nodes hold http(s) only
            timeout=settings.DIMSE_TIMEOUT_SECONDS,
        )
    except HTTPError as error:
        if error.code in (429, 502, 503, 504):
            raise Unreachable(f"The remote answered {error.code}: it is busy.", "Try again later.") from None
        words = _WORDS.get(error.code, "see its log")
        raise Answered(error.code, error.read(MAX_JSON), words) from None
    except (URLError, OSError, http.client.HTTPException) as error:
        raise _broken(error) from None


class Answered(RemoteRefused):
    """The remote answered with a status that is no success."""

    def __init__(self, status: int, body: bytes, words: str) -> None:
        super().__init__(
            f"The remote answered {status}: {words}.", "Check address and token, or ask its administrator."
        )
        self.status = status
        self.body = body


def _broken(error: Exception) -> Unreachable:
    reason = getattr(error, "reason", error)
    if isinstance(reason, TimeoutError):
        return network.fell_silent("in the middle")
    if isinstance(reason, ssl.SSLError):
        return Unreachable("The remote's certificate cannot be trusted.", "Name its authority in DIMSE_TLS_CA.")
    if isinstance(reason, OSError):
        return Unreachable(f"The remote cannot be reached: {reason.strerror or 'no answer'}.", "See whether it runs.")
    return Unreachable("The connection broke.", "Try again.")


def _json(node: RemoteNode, path: str) -> list[dict[str, Any]]:
    with _open(node, path, accept=JSON) as answer:
        try:
            text = answer.read(MAX_JSON)
            return json.loads(text) if text else []
        except (OSError, http.client.HTTPException) as error:
            raise _broken(error) from None
        except ValueError:
            raise RemoteRefused("The remote's answer is no DICOM JSON.", "Check the address of its root.") from None


def echo(node: RemoteNode) -> None:
    _json(node, "/studies?limit=1")


def find(node: RemoteNode, keys: dict[str, str], limit: int) -> list[dict[str, str]]:
    """Studies as keyword → text. The query is sent in the address, as QIDO-RS has it."""
    asked = {key: value for key, value in keys.items() if value} | {"limit": str(limit)}
    fields = [("includefield", "StudyDescription"), ("includefield", "NumberOfStudyRelatedInstances")]
    rows = _json(node, f"/studies?{urlencode([*asked.items(), *fields])}")
    if not isinstance(rows, list):
        raise RemoteRefused("The remote's answer is no list of studies.", "Check the address of its root.")
    return [{keyword_for_tag(tag): _text(element) for tag, element in row.items()} for row in rows]


def _text(element: dict[str, Any]) -> str:
    values = element.get("Value") or []
    return "\\".join(str(one.get("Alphabetic", "")) if isinstance(one, dict) else str(one) for one in values)


def find_series(node: RemoteNode, study_instance_uid: str) -> list[str]:
    """SeriesInstanceUIDs of a study."""
    rows = _json(node, f"/studies/{study_instance_uid}/series")
    return [uid for row in rows if (uid := _text(row.get("0020000E", {})))]


def retrieve(node: RemoteNode, study: str, place: Landing, progress: Progress, *, series: str = "") -> None:
    """WADO-RS: a study, or one series of it, as stored, part by part to the disk."""
    accept = f'multipart/related; type="{DICOM}"; transfer-syntax=*'
    path = f"/studies/{study}/series/{series}" if series else f"/studies/{study}"
    try:
        opened = _open(node, path, accept=accept)
    except Answered as answered:
        if answered.status < 500:
            raise
        raise Incomplete(answered.cause, answered.next_step) from None
    with opened as answer:
        try:
            boundary = multipart.boundary_of(answer.headers.get("Content-Type", ""))
            for number, _ in enumerate(multipart.receive(answer, boundary, place.new_path), 1):
                progress(0.0, f"{number} objects arrived")
        except Problem:
            raise Unreachable("The remote's answer was cut short.", "Try again.") from None
        except (OSError, http.client.HTTPException) as error:
            raise _broken(error) from None


def send(node: RemoteNode, chosen: list[Outgoing], told: Callable[[str, str], None]) -> None:
    """STOW-RS in groups; `told(uid, problem)` when an object is settled."""
    group: list[Outgoing] = []
    size = 0
    for one in chosen:
        if group and (size + one.file_size > GROUP_BYTES or len(group) >= limits.GROUP_FILES):
            _stow(node, group, told)
            group, size = [], 0
        group.append(one)
        size += one.file_size
    if group:
        _stow(node, group, told)


def _stow(node: RemoteNode, group: list[Outgoing], told: Callable[[str, str], None]) -> None:
    boundary = multipart.new_boundary()
    parts = [(multipart.part_head(boundary, DICOM, one.file_size), store.absolute_path(one.file)) for one in group]
    end = multipart.end(boundary)
    length = len(end) + sum(len(head) + one.file_size + 2 for (head, _), one in zip(parts, group, strict=True))
    headers = {"Content-Type": multipart.content_type(boundary, DICOM), "Content-Length": str(length)}
    try:
        with _open(
            node, "/studies", accept=JSON, data=_body(parts, end), headers=headers, method="POST"
        ) as answer:  # fmt: skip
            body = answer.read(MAX_JSON)
    except Answered as answered:
        if answered.status != 409:
            raise
        body = answered.body
    failed = _failures(body)
    for one in group:
        told(one.sop_instance_uid, failed.get(one.sop_instance_uid, ""))


def _body(parts: list[tuple[bytes, Path]], end: bytes) -> Iterator[bytes]:
    for head, path in parts:
        yield head
        with open(path, "rb") as file:
            while piece := file.read(limits.COPY):
                yield piece
        yield b"\r\n"
    yield end


def _failures(body: bytes) -> dict[str, str]:
    """SOPInstanceUID → reason, of the objects that were not taken (PS3.18 table 10.5.3-1)."""
    try:
        items = json.loads(body)["00081198"]["Value"] if body else []
    except (ValueError, KeyError, TypeError):
        return {}
    found = {}
    for item in items:
        uid = (item.get("00081155", {}).get("Value") or [""])[0]
        reason = (item.get("00081197", {}).get("Value") or [0])[0]
        found[uid] = f"0x{int(reason):04X}"
    return found
