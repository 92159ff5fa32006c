"""The Accept header and the `accept` query parameter (PS3.18 8.3.3, 8.7)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from django.http import HttpRequest

from studies.dicomweb.problems import Problem

_PARAMETER = re.compile(r';\s*([\w-]+)\s*=\s*("[^"]*"|[^;,\s]*)')
_RANGE = re.compile(r'((?:[^,"]|"[^"]*")+)')

JSON = "application/dicom+json"
DICOM = "application/dicom"
OCTETS = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class MediaRange:
    """One acceptable media type; for multipart/related `kind` is the type of its parts."""

    kind: str
    multipart: bool
    quality: float = 1.0
    parameters: dict[str, str] = field(default_factory=dict)

    @property
    def transfer_syntax(self) -> str:
        return self.parameters.get("transfer-syntax", "")

    def matches(self, kind: str) -> bool:
        return self.kind in ("*/*", kind) or (self.kind.endswith("/*") and kind.startswith(self.kind[:-1]))


def accepted(request: HttpRequest) -> list[MediaRange]:
    """What the client takes, best first; `accept` in the query replaces the header. Nothing said means anything."""
    return ranked(",".join(request.GET.getlist("accept")) or request.META.get("HTTP_ACCEPT", ""))


def ranked(text: str) -> list[MediaRange]:
    """The media types of an Accept header, best first."""
    return sorted(parse(text or "*/*"), key=lambda one: -one.quality)


def parse(text: str) -> list[MediaRange]:
    ranges = []
    for part in _RANGE.findall(text)[:50]:
        name = part.split(";", 1)[0].strip().lower()
        if not name:
            continue
        parameters = {key.lower(): value.strip('"') for key, value in _PARAMETER.findall(part)}
        try:
            quality = float(parameters.pop("q", "1"))
        except ValueError:
            quality = 1.0
        if name in ("multipart/related", "multipart/*"):
            kind = parameters.pop("type", "*/*").lower()
            ranges.append(MediaRange(kind, True, quality, parameters))
        else:
            ranges.append(MediaRange(name, False, quality, parameters))
    return ranges


def require_json(request: HttpRequest) -> None:
    if not any(one.matches(JSON) or one.matches("application/json") for one in accepted(request)):
        raise Problem(406, f"This resource is offered as {JSON} only.")


def choose(request: HttpRequest, kinds: dict[str, bool]) -> MediaRange:
    """The best range that matches one of `kinds` (media type → whether it may also come alone, not as a part).

    Wildcards come back with the first kind that fits; a bare wildcard means multipart.
    """
    for one in accepted(request):
        for kind, alone in kinds.items():
            if not one.matches(kind):
                continue
            multipart = one.multipart or one.kind.startswith("*") or not alone
            if not one.multipart and not alone and "*" not in one.kind:
                continue
            return MediaRange(kind, multipart, one.quality, one.parameters)
    raise Problem(
        406, "This resource is offered as " + ", ".join(f'multipart/related; type="{k}"' for k in kinds) + "."
    )
