"""Rendered pictures and thumbnails (PS3.18 8.3.5, 10.4.1.1.2), and the older WADO-URI (PS3.18 9)."""

from __future__ import annotations

import re
from math import isfinite
from typing import NamedTuple

import numpy as np
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from studies.dicom.rendering import RenderError, Window, encode, render
from studies.dicomweb import answers, locations, transcoding, visible
from studies.dicomweb.negotiation import DICOM, accepted
from studies.dicomweb.problems import Problem, not_found
from studies.dicomweb.scope import Scope
from studies.models import Instance

KINDS = ("image/jpeg", "image/png")
THUMBNAIL = (192, 192)
MAX_SIDE = 8192
# Names and numbers of a patient do not belong into pictures; colour profiles are not kept apart from the pixels.
_NOT_OFFERED = ("annotation", "iccprofile")


def rendered(
    request: HttpRequest,
    scope: Scope,
    study: str,
    series: str | None = None,
    instance: str | None = None,
    frames: str | None = None,
) -> HttpResponse:
    """One picture; of a study or series, of the object in its middle."""
    found = _representative(scope, study, series, instance)
    return _picture(request, found, _number(found, frames), _viewport(request), _window(request))


def thumbnail(
    request: HttpRequest,
    scope: Scope,
    study: str,
    series: str | None = None,
    instance: str | None = None,
    frames: str | None = None,
) -> HttpResponse:
    found = _representative(scope, study, series, instance)
    return _picture(request, found, _number(found, frames), _viewport(request) or Viewport(THUMBNAIL), None, quality=80)


def _representative(scope: Scope, study: str, series: str | None, instance: str | None) -> Instance:
    if instance is not None and series is not None:
        return visible.find_instance(scope, study, series, instance)
    rows = locations.instances_below(scope, study, series).filter(number_of_frames__gt=0).defer("header")
    count = rows.count()
    if not count:
        raise not_found("image")
    return rows[count // 2]


def _number(found: Instance, frames: str | None) -> int:
    if found.number_of_frames == 0:
        raise Problem(404, "This object has no pixel data, so it has no picture.")
    if frames is None:
        return (found.number_of_frames + 1) // 2
    numbers = locations.frame_numbers(frames, found)
    if len(numbers) != 1:
        raise Problem(400, "A rendered answer holds one frame; ask for one.")
    return numbers[0]


class Viewport(NamedTuple):
    """The size of the picture, and the part of the image that it shows: left, top, width, height in its pixels; None
    for all the rest, a negative width or height mirrors (PS3.18 8.3.5.1.3)."""

    size: tuple[int, int]
    region: tuple[int, int, int | None, int | None] | None = None

    def of(self, pixels: np.ndarray) -> np.ndarray:
        """pixels: (rows, columns[, 3]). Raises `Problem` 400 where the region does not lie within."""
        if self.region is None:
            return pixels
        rows, columns = pixels.shape[:2]
        left, top, width, height = self.region
        width, height = columns - left if width is None else width, rows - top if height is None else height
        right, bottom = left + abs(width), top + abs(height)
        if not (0 <= left < right <= columns and 0 <= top < bottom <= rows):
            raise Problem(400, f"The part of the image must lie within its {columns} columns and {rows} rows.")
        return pixels[top:bottom, left:right][:: -1 if height < 0 else 1, :: -1 if width < 0 else 1]


def _viewport(request: HttpRequest) -> Viewport | None:
    text = request.GET.get("viewport", "")
    if not text:
        return None
    words = [word.strip() for word in text.split(",")]
    try:
        numbers = [int(float(word)) if word else None for word in words]
    except (ValueError, OverflowError):
        numbers = []
    if len(numbers) not in (2, 6):
        raise Problem(400, "viewport is given as width,height[,left,top,width,height of the part shown] in pixels.")
    width, height = numbers[0] or 0, numbers[1] or 0
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise Problem(400, f"viewport must lie between 1 and {MAX_SIDE} pixels.")
    if len(numbers) == 2:
        return Viewport((width, height))
    return Viewport((width, height), (numbers[2] or 0, numbers[3] or 0, numbers[4], numbers[5]))


def _window(request: HttpRequest) -> Window | None:
    text = request.GET.get("window", "")
    if not text:
        return None
    words = text.split(",")
    function = words[2].strip().upper().replace("-", "_") if len(words) > 2 and words[2].strip() else "LINEAR"
    try:
        center, width = float(words[0]), float(words[1])
    except (ValueError, IndexError) as error:
        raise Problem(400, "window is given as centre,width,function.") from error
    if not (isfinite(center) and isfinite(width) and width > 0) or function not in (
        "LINEAR",
        "LINEAR_EXACT",
        "SIGMOID",
    ):
        raise Problem(400, "window needs a positive width and one of linear, linear-exact, sigmoid.")
    return Window(center, width, function)


def _picture(
    request: HttpRequest,
    found: Instance,
    number: int,
    viewport: Viewport | None,
    window: Window | None,
    quality: int = 90,
    kind: str | None = None,
) -> HttpResponse:
    if kind is None:
        kind = next((k for one in accepted(request) for k in KINDS if one.matches(k) and not one.multipart), None)
    if kind is None:
        raise Problem(406, "Pictures are offered as image/jpeg and image/png.")
    asked = request.GET.get("quality", "")
    if asked:
        if not re.fullmatch(r"[0-9]{1,3}", asked) or not 1 <= int(asked) <= 100:
            raise Problem(400, "quality is a whole number from 1 to 100.")
        quality = int(asked)
    try:
        pixels = render(locations.path_of(found), number - 1, window)
        size = viewport.size if viewport is not None else None
        data = encode(viewport.of(pixels) if viewport is not None else pixels, kind, size, quality)
    except RenderError as error:
        raise Problem(406, str(error)) from error
    response = HttpResponse(data, content_type=kind)
    response["Cache-Control"] = "private, max-age=3600"
    ignored = [name for name in _NOT_OFFERED if request.GET.get(name)]
    if ignored:
        response["Warning"] = f'299 readroom "The following parameters are not offered: {", ".join(ignored)}"'
    return response


def wado_uri(request: HttpRequest, scope: Scope) -> HttpResponseBase:
    """`?requestType=WADO&studyUID=…&seriesUID=…&objectUID=…[&contentType=…&frameNumber=…&windowCenter=…]`."""
    query = request.GET
    if query.get("requestType", "").upper() != "WADO":
        raise Problem(400, "requestType must be WADO.")
    uids = [query.get(name, "") for name in ("studyUID", "seriesUID", "objectUID")]
    if not all(uids):
        raise Problem(400, "studyUID, seriesUID and objectUID are needed.")
    found = visible.find_instance(scope, *uids)
    default = "image/jpeg" if found.number_of_frames == 1 else DICOM
    kinds = [one.split(";")[0].strip().lower() for one in query.get("contentType", default).split(",")]
    if DICOM in kinds:
        syntax = query.get("transferSyntax", "")
        return answers.single(transcoding.instance(locations.whole(scope, found), found, syntax))
    kind = next((one for one in kinds if one in KINDS), "image/jpeg" if "*/*" in kinds else None)
    if kind is None:
        raise Problem(406, f"contentType must be {DICOM}, image/jpeg or image/png.")
    window = None
    if "windowCenter" in query or "windowWidth" in query:
        try:
            window = Window(float(query["windowCenter"]), float(query["windowWidth"]))
        except (KeyError, ValueError) as error:
            raise Problem(400, "windowCenter and windowWidth are numbers and go together.") from error
        if not (isfinite(window.center) and isfinite(window.width) and window.width > 0):
            raise Problem(400, "windowWidth must be positive.")
    viewport = None
    if "rows" in query or "columns" in query:
        try:
            size = (int(query.get("columns", MAX_SIDE)), int(query.get("rows", MAX_SIDE)))
        except ValueError as error:
            raise Problem(400, "rows and columns are whole numbers.") from error
        if not all(0 < side <= MAX_SIDE for side in size):
            raise Problem(400, f"rows and columns must lie between 1 and {MAX_SIDE}.")
        viewport = Viewport(size)
    return _picture(request, found, _number(found, query.get("frameNumber")), viewport, window, kind=kind)
