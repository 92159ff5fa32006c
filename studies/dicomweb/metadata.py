"""Metadata of a series, kept ready-made and compressed on disk once it was asked for.

The cache file is named by series, revision (number of instances and time of the last change) and base address, so a
stale one is never read; older revisions are removed when a new one is written.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import uuid
from pathlib import Path

from django.http import HttpRequest, HttpResponse

from studies.dicom.dicom_json import with_base
from studies.dicomweb import addresses, answers
from studies.dicomweb.negotiation import JSON
from studies.dicomweb.scope import Scope
from studies.ingest.staging import media
from studies.models import Instance, Series


def shown(header: str, address: str, scope: Scope) -> str:
    """A stored header as this scope shows it, bulk data addresses made absolute."""
    if scope.rewrite is None:
        return with_base(header, address)
    rewritten = scope.rewrite.dataset(json.loads(header))
    return with_base(json.dumps(rewritten, ensure_ascii=False, separators=(",", ":")), address)


def of_series(request: HttpRequest, scope: Scope, series: Series, study: str) -> HttpResponse:
    base = addresses.root(request, scope.base_path)
    address = f"{base}/studies/{study}/series/{series.series_instance_uid}"
    revision = f"{series.number_of_instances}-{series.updated_at.timestamp():.6f}"
    tag = '"' + hashlib.sha256(f"{series.pk} {revision} {address}".encode()).hexdigest()[:32] + '"'
    if scope.rewrite is not None:
        return answers.json_text(request, _text(series, address, scope))
    if request.headers.get("If-None-Match") == tag:
        response = HttpResponse(status=304)
    else:
        path = _cached(series, tag.strip('"'))
        try:
            packed = path.read_bytes()
        except FileNotFoundError:
            packed = gzip.compress(_text(series, address, scope).encode(), compresslevel=6, mtime=0)
            _keep(path, packed)
        gzipped = answers.takes_gzip(request)
        response = HttpResponse(packed if gzipped else gzip.decompress(packed), content_type=JSON)
        if gzipped:
            response["Content-Encoding"] = "gzip"
    response["Vary"] = answers.VARY
    response["ETag"] = tag
    return response


def _text(series: Series, address: str, scope: Scope) -> str:
    rows = Instance.objects.filter(series=series).order_by("instance_number", "pk")
    headers = rows.values_list("header", "sop_instance_uid")
    return "[" + ",".join(shown(header, f"{address}/instances/{uid}", scope) for header, uid in headers) + "]"


def cache_of(series: int) -> str:
    """The folder of what is kept of a series (its key), below MEDIA_ROOT."""
    return f"cache/metadata/{series % 256:02x}/{series}"


def _cached(series: Series, tag: str) -> Path:
    return media(cache_of(series.pk), f"{tag}.json.gz")


def _keep(path: Path, data: bytes) -> None:
    """Write through a temporary file; a cache that cannot be written only costs time."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{uuid.uuid4().hex}.part")
        part.write_bytes(data)
        os.replace(part, path)
        others = sorted((f for f in path.parent.iterdir() if f != path), key=lambda f: f.stat().st_mtime)
        for old in others[:-7]:  # a few base addresses may be in use at once
            old.unlink(missing_ok=True)
