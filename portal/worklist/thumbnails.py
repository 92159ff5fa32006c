"""Thumbnails of studies and series: made once, kept on disk by the digest of what they show, answered conditionally."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from pathlib import Path

from django.db.models import Case, IntegerField, QuerySet, Value, When
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.utils.html import escape
from django.views.decorators.http import require_safe

from studies.dicom.rendering import RenderError, encode, render
from studies.ingest.staging import media
from studies.models import Instance, Origin, Series, Study

SIDE = 256
_PLACEHOLDER = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64"><rect width="64" height="64" fill="#1b2330"/>'
    '<text x="32" y="36" fill="#8fa1b8" font-family="sans-serif" font-size="11" text-anchor="middle">{}</text></svg>'
)


@require_safe
def study_thumbnail(request: HttpRequest, pk: int) -> HttpResponse:
    """Of the acquired series with the most images."""
    study = get_object_or_404(Study.objects.visible_to(request.user), pk=pk)
    series = (
        Series.objects.visible_to(request.user)
        .filter(study=study, instances__number_of_frames__gt=0)
        .annotate(rank=Case(When(origin=Origin.ACQUIRED, then=Value(0)), default=Value(1), output_field=IntegerField()))
        .order_by("rank", "-number_of_instances", "pk")
        .first()
    )
    if series is None:
        return _placeholder(request, ", ".join(study.modalities_in_study[:2]) or "no image")
    return _of_series(request, series)


@require_safe
def series_thumbnail(request: HttpRequest, pk: int) -> HttpResponse:
    series = get_object_or_404(Series.objects.visible_to(request.user), pk=pk)
    return _of_series(request, series)


def _of_series(request: HttpRequest, series: Series) -> HttpResponse:
    images: QuerySet[Instance] = (
        series.instances.filter(number_of_frames__gt=0).order_by("instance_number", "pk").defer("header", "frame_table")
    )
    count = images.count()
    if not count:
        return _placeholder(request, series.modality or "no image")
    instance = images[count // 2]
    frame = instance.number_of_frames // 2
    digest = _digest(instance.sha256, frame)
    unchanged = _unchanged(request, digest)
    if unchanged is not None:
        return unchanged
    path = media(_place(digest))
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        try:
            data = encode(render(media(instance.file), frame), "image/jpeg", (SIDE, SIDE), quality=82)
        except RenderError:
            return _placeholder(request, series.modality or "no image")
        _keep(path, data)
    return _answer(data, "image/jpeg", digest)


def of_study(study: Study) -> list[str]:
    """Where thumbnails of a study's images lie, or would lie, below MEDIA_ROOT."""
    images = Instance.objects.filter(series__study=study, number_of_frames__gt=0)
    return [_place(_digest(sha256, n // 2)) for sha256, n in images.values_list("sha256", "number_of_frames")]


def _digest(sha256: str, frame: int) -> str:
    return hashlib.sha256(f"{sha256} {frame} {SIDE}".encode()).hexdigest()


def _place(digest: str) -> str:
    return f"cache/thumbnails/{digest[:2]}/{digest}.jpg"


def _placeholder(request: HttpRequest, words: str) -> HttpResponse:
    data = _PLACEHOLDER.format(escape(words[:16])).encode()
    digest = hashlib.sha256(data).hexdigest()
    return _unchanged(request, digest) or _answer(data, "image/svg+xml", digest)


def _unchanged(request: HttpRequest, digest: str) -> HttpResponse | None:
    if request.headers.get("If-None-Match", "").strip() != f'"{digest}"':
        return None
    response = HttpResponse(status=304)
    response["ETag"] = f'"{digest}"'
    return response


def _answer(data: bytes, kind: str, digest: str) -> HttpResponse:
    response = HttpResponse(data, content_type=kind)
    response["ETag"] = f'"{digest}"'
    response["Cache-Control"] = "private, no-cache"  # who may see it is asked every time; the bytes stay cached
    response["X-Content-Type-Options"] = "nosniff"
    return response


def _keep(path: Path, data: bytes) -> None:
    """A cache that cannot be written only costs time."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{uuid.uuid4().hex}.part")
        part.write_bytes(data)
        os.replace(part, path)
