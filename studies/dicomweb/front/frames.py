"""One frame of one instance, as it lies in its file, without Django: the request that a viewer sends by the hundred.

Whether the user may see the series is asked once and remembered (`application`); where its frames lie is kept for the
series last used. Opening the file each time costs some microseconds, so no file stays open.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, NamedTuple

from portal.accounts.models import User
from studies.dicomweb import answers, locations, multipart, reads, wado
from studies.dicomweb.front.remembered import Remembered
from studies.dicomweb.negotiation import ranked
from studies.dicomweb.problems import Problem
from studies.dicomweb.scope import Scope, general_scope, project_scope
from studies.ingest.staging import media
from studies.models import Instance

ADDRESS = re.compile(
    r"/dicomweb(?P<root>/projects/(?P<slug>[-a-zA-Z0-9_]{1,60}))?(?P<resource>/studies/(?P<study>[0-9.]{1,64})"
    r"/series/(?P<series>[0-9.]{1,64})/instances/(?P<instance>[0-9.]{1,64})/frames/(?P<number>[1-9][0-9]{0,6}))\Z"
)
SERIES_KEPT = 64
CONTENTS_SECONDS = 300.0
_MANY = 2000  # instances of a series that are looked up at once
_FEW_FRAMES = 10  # in an instance that is looked up along with its series
_MOST_FRAMES = 5000  # in an instance that is remembered at all


class Located(NamedTuple):
    path: str
    frame_table: list[Any]
    transfer_syntax_uid: str
    number_of_frames: int


_COLUMNS = ("file", "frame_table", "transfer_syntax_uid", "number_of_frames")


class Frames:
    def __init__(self, seconds: float) -> None:
        self._visible: Remembered[int] = Remembered(5000, seconds)
        self._contents: Remembered[dict[str, Located]] = Remembered(SERIES_KEPT, CONTENTS_SECONDS if seconds else 0.0)

    def answer(
        self,
        found: re.Match[str],
        user: User,
        generation: int,
        environ: Mapping[str, Any],
        origin: str,
    ) -> tuple[list[tuple[str, str]], bytes] | None:
        """Headers and body; None for everything that the views should answer: errors, and the first frame of a study,
        which goes into the audit trail. `origin` is the address of the server (`https://host`). Raises OSError."""
        if not reads.recorded(user, environ, f"/dicomweb{found['root'] or ''}", found["study"]):
            return None
        located = self._located(found, user, generation)
        number = int(found["number"])
        if located is None or number > located.number_of_frames:
            return None
        form = _form(environ.get("HTTP_ACCEPT", ""), located.transfer_syntax_uid)
        pieces = locations.frame_pieces(located.frame_table, located.transfer_syntax_uid, number)
        if form is None or pieces is None or sum(length for _, length in pieces) > answers.WHOLE:
            return None
        part_kind, whole_kind = form
        data = _read(located.path, pieces)
        location = f"{origin}{found[0]}"
        if whole_kind is None:
            headers = [("Content-Type", part_kind), ("Content-Location", location)]
            body = data
        else:
            boundary = multipart.new_boundary()
            head = multipart.part_head(boundary, part_kind, len(data), location)
            body = b"".join((head, data, b"\r\n", multipart.end(boundary)))
            headers = [("Content-Type", multipart.content_type(boundary, whole_kind))]
        headers += [
            ("Content-Length", str(len(body))),
            ("Cache-Control", wado.FRAME_CACHE),
        ]
        return headers, body

    def _located(self, found: re.Match[str], user: User, generation: int) -> Located | None:
        key = (user.pk, user.only_project, found["slug"], found["study"], found["series"])
        series = self._visible.get(key, generation)
        if series is None:
            series = _visible_series(_scope(user, found["slug"]), found["study"], found["series"])
            if series is None:
                return None
            self._visible.put(key, generation, series)
        contents = self._contents.get(series, generation)
        if contents is None:
            contents = _contents(series)
            self._contents.put(series, generation, contents)
        uid = found["instance"]
        located = contents.get(uid)
        if located is None:
            rows = Instance.objects.filter(series=series, sop_instance_uid=uid)
            located = next((Located(str(media(row[0])), *row[1:]) for row in rows.values_list(*_COLUMNS)), None)
            if located is not None and located.number_of_frames <= _MOST_FRAMES and len(contents) < 2 * _MANY:
                contents[uid] = located
        return located


def _scope(user: User, slug: str | None) -> Scope:
    request: Any = SimpleNamespace(user=user)
    return general_scope(request) if slug is None else project_scope(request, slug)


def _visible_series(scope: Scope, study: str, series: str) -> int | None:
    """The key of the series; None where there is none, or several of this name in different projects."""
    rows = scope.series.filter(
        series_instance_uid=series, study__study_instance_uid=study, study__in=scope.studies
    ).values_list("pk", flat=True)[:2]
    return rows[0] if len(rows) == 1 else None


def _contents(series: int) -> dict[str, Located]:
    rows = Instance.objects.filter(series=series, number_of_frames__lte=_FEW_FRAMES).order_by("pk")
    found = rows.values_list("sop_instance_uid", *_COLUMNS)[:_MANY]
    folder = str(media())
    return {row[0]: Located(f"{folder}/{row[1]}", *row[2:]) for row in found}


@lru_cache(maxsize=500)
def _form(accept: str, syntax: str) -> tuple[str, str | None] | None:
    """Content types of the part and of the whole (None: the part alone); None where Django decides."""
    try:
        wanted, as_stored = wado.frame_form(ranked(accept), syntax)
    except Problem:
        return None
    if not as_stored:
        return None
    return wado.frame_kind(wanted, syntax, True), wanted.kind if wanted.multipart else None


def _read(path: str, pieces: tuple[tuple[int, int], ...]) -> bytes:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = [os.pread(handle, length, offset) for offset, length in pieces]
    finally:
        os.close(handle)
    if any(len(part) != length for part, (_, length) in zip(parts, pieces, strict=True)):
        raise OSError("A stored file is shorter than its row says.")
    return parts[0] if len(parts) == 1 else b"".join(parts)
