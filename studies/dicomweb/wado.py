"""WADO-RS: retrieve whole objects, metadata, frames and bulk data (PS3.18 10.4)."""

from __future__ import annotations

from collections.abc import Iterator

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase

from studies.dicom import part10
from studies.dicomweb import addresses, answers, locations, metadata, transcoding, visible
from studies.dicomweb.negotiation import DICOM, JSON, OCTETS, MediaRange, accepted, choose, require_json
from studies.dicomweb.problems import Problem, not_found
from studies.dicomweb.scope import Scope
from studies.models import Instance

FRAME_CACHE = "private, max-age=3600"  # a frame never changes


def retrieve(
    request: HttpRequest, scope: Scope, study: str, series: str | None = None, instance: str | None = None
) -> HttpResponseBase:
    """Part 10 files of a study, a series or one instance, as stored unless another transfer syntax is asked for."""
    wanted = choose(request, {DICOM: instance is not None})
    rows = locations.instances_below(scope, study, series, instance).select_related("series__study").defer("header")
    base = addresses.root(request, scope.base_path)

    def payload(one: Instance) -> answers.Payload:
        location = _address(base, one)
        stored = locations.whole(scope, one, location)
        return transcoding.instance(stored, one, wanted.transfer_syntax)

    if not wanted.multipart:
        found = list(rows[:2])
        if len(found) != 1:
            raise Problem(406, f'Several objects come as multipart/related; type="{DICOM}" only.')
        return answers.single(payload(found[0]))
    if not rows.exists():
        raise not_found("object")
    if instance is not None:
        one = payload(rows[0])
        return answers.related([one], DICOM, known=[one])
    return answers.related((payload(one) for one in rows.iterator(chunk_size=200)), DICOM)


def instance_metadata(request: HttpRequest, scope: Scope, study: str, series: str, instance: str) -> HttpResponse:
    require_json(request)
    found = visible.find_instance(scope, study, series, instance)
    header = Instance.objects.values_list("header", flat=True).get(pk=found.pk)
    base = addresses.root(request, scope.base_path)
    address = f"{base}/studies/{study}/series/{series}/instances/{instance}"
    return answers.json_text(request, f"[{metadata.shown(header, address, scope)}]")


def series_metadata(request: HttpRequest, scope: Scope, study: str, series: str) -> HttpResponse:
    require_json(request)
    return metadata.of_series(request, scope, visible.find_series(scope, study, series), study)


def study_metadata(request: HttpRequest, scope: Scope, study: str) -> HttpResponseBase:
    require_json(request)
    rows = locations.instances_below(scope, study, None)
    base = addresses.root(request, scope.base_path)
    values = rows.values_list("header", "series__series_instance_uid", "sop_instance_uid")

    def text() -> Iterator[bytes]:
        yield b"["
        for k, (header, series, instance) in enumerate(values.iterator(chunk_size=200)):
            address = f"{base}/studies/{study}/series/{series}/instances/{instance}"
            yield (("," if k else "") + metadata.shown(header, address, scope)).encode()
        yield b"]"

    if not answers.takes_gzip(request):
        return StreamingHttpResponse(text(), content_type=JSON, headers={"Vary": answers.VARY})
    headers = {"Content-Encoding": "gzip", "Vary": answers.VARY}
    return StreamingHttpResponse(answers.compressed(text()), content_type=JSON, headers=headers)


def frames(request: HttpRequest, scope: Scope, study: str, series: str, instance: str, frames: str) -> HttpResponseBase:
    """Frames as stored (`transfer-syntax=*`, or a matching media type), else as uncompressed little-endian bytes."""
    found = visible.find_instance(scope, study, series, instance)
    numbers = locations.frame_numbers(frames, found)
    syntax = found.transfer_syntax_uid
    wanted, as_stored = frame_form(accepted(request), syntax)
    base = addresses.root(request, scope.base_path)
    address = f"{base}/studies/{study}/series/{series}/instances/{instance}/frames/"
    kind = frame_kind(wanted, syntax, as_stored)
    if as_stored and syntax not in locations.NATIVE:
        payloads = [locations.stored_frame(found, n, kind, f"{address}{n}") for n in numbers]
    elif syntax in locations.NATIVE:
        payloads = [locations.stored_frame(found, n, kind, f"{address}{n}") for n in numbers]
        if any(one is None for one in payloads):
            raw = locations.native_frames(found, numbers)
            payloads = [
                answers.Payload(kind, data=data, location=f"{address}{n}") for n, data in zip(numbers, raw, strict=True)
            ]
    else:
        payloads = [
            answers.Payload(
                kind, data=transcoding.decoded_frame(locations.path_of(found), n - 1), location=f"{address}{n}"
            )
            for n in numbers
        ]
    ready = [one for one in payloads if one is not None]
    if len(ready) != len(numbers):
        raise not_found("frame")
    response: HttpResponseBase
    if not wanted.multipart:
        if len(ready) > 1:
            raise Problem(406, "Several frames come as multipart/related only.")
        response = answers.single(ready[0])
    else:
        response = answers.related(ready, wanted.kind, known=ready)
    response["Cache-Control"] = FRAME_CACHE
    return response


def frame_form(ranges: list[MediaRange], syntax: str) -> tuple[MediaRange, bool]:
    """The media type to answer with, and whether frames go out as they lie in the file. Raises `Problem` 406."""
    own = locations.MEDIA_TYPES.get(syntax)
    for one in ranges:
        asked = one.transfer_syntax
        if one.matches(OCTETS):
            chosen = MediaRange(OCTETS, one.multipart or "*" in one.kind, one.quality, one.parameters)
            if asked in ("*", syntax) or ("*" in one.kind and not asked) or syntax in locations.NATIVE:
                return chosen, True
            if asked in ("", part10.EXPLICIT_LE):
                return chosen, False
        elif own is not None and one.matches(own) and asked in ("", "*", syntax):
            return MediaRange(own, one.multipart or "*" in one.kind, one.quality, one.parameters), True
    raise Problem(
        406,
        f'Frames of this object are offered as multipart/related; type="{OCTETS}" (transfer-syntax=* for the stored '
        f"one, {syntax}" + (f'), or type="{own}".' if own else ")."),
    )


def frame_kind(wanted: MediaRange, syntax: str, as_stored: bool) -> str:
    """The Content-Type of a frame's part."""
    if as_stored and syntax not in locations.NATIVE:
        return f"{wanted.kind}; transfer-syntax={syntax}"
    return f"{OCTETS}; transfer-syntax={part10.EXPLICIT_LE}"


def bulk_data(
    request: HttpRequest, scope: Scope, study: str, series: str, instance: str, path: str
) -> HttpResponseBase:
    """One value that the metadata left out."""
    found = visible.find_instance(scope, study, series, instance)
    wanted = choose(request, {OCTETS: True})
    source = locations.path_of(found)
    pixels = path.upper().strip("/") in ("7FE00008", "7FE00009", "7FE00010")
    if pixels and found.number_of_frames:
        everything = ",".join(str(n) for n in range(1, found.number_of_frames + 1))
        if found.transfer_syntax_uid not in locations.NATIVE and wanted.multipart:
            return frames(request, scope, study, series, instance, everything)
    if scope.rewrite is not None and not pixels:
        payload = locations.bulk_value(scope.rewrite.part10(source), path)
    else:
        payload = locations.bulk_value(source, path)
    if not wanted.multipart:
        return answers.single(payload)
    return answers.related([payload], OCTETS, known=[payload])


def _address(base: str, one: Instance) -> str:
    owner = one.series
    return (
        f"{base}/studies/{owner.study.study_instance_uid}/series/{owner.series_instance_uid}"
        f"/instances/{one.sop_instance_uid}"
    )
