"""Files of the viewer: OHIF's own below DATA, our extension from the checkout. No Django view, no database."""

from __future__ import annotations

import hashlib
import mimetypes
from functools import lru_cache
from pathlib import Path

from django.conf import settings
from django.http import FileResponse, Http404, HttpRequest, HttpResponse, HttpResponseNotModified
from django.utils.http import http_date, parse_http_date_safe

from portal.viewer import install

EXTENSION = settings.BASE_DIR / "frontend" / "viewer"
# The names of OHIF's bundles carry a hash of their content, our modules' address carries one of theirs.
IMMUTABLE = "private, max-age=31536000, immutable"
REVALIDATE = "private, max-age=0, must-revalidate"
TYPES = {".js": "text/javascript", ".wasm": "application/wasm", ".jsonc": "application/json", ".svg": "image/svg+xml"}


def index() -> str | None:
    """OHIF's page, or None while the viewer is not installed."""
    path = install.folder(settings.DATA) / "index.html"
    try:
        return _text(path, path.stat().st_mtime_ns)
    except FileNotFoundError:
        return None


@lru_cache(maxsize=4)
def _text(path: Path, mtime_ns: int) -> str:
    return path.read_text(encoding="utf-8")


def asset(request: HttpRequest, name: str) -> HttpResponse:
    """A file of the OHIF release, gzipped where the browser takes it. Raises Http404."""
    root = install.folder(settings.DATA)
    path = root / name
    if ".." in Path(name).parts or not path.is_file():
        raise Http404("no such file in the viewer")
    packed = path.with_name(path.name + ".gz")
    gzipped = "gzip" in request.headers.get("Accept-Encoding", "") and packed.is_file()
    response = _file(request, packed if gzipped else path, path, IMMUTABLE if _hashed(path.name) else REVALIDATE)
    if gzipped and response.status_code == 200:
        response["Content-Encoding"] = "gzip"
    response["Vary"] = "Accept-Encoding"
    return response


def module(request: HttpRequest, name: str, digest: str) -> HttpResponse:
    """One of our ES modules. An outdated digest gets today's file, uncached. Raises Http404."""
    path = EXTENSION / name
    if not path.is_file():
        raise Http404("no such module")
    return _file(request, path, path, IMMUTABLE if digest == extension_digest() else "no-store")


def extension_digest() -> str:
    """Twelve hexadecimal digits over all our modules; part of their address, so that they may be cached for ever."""
    files = sorted(EXTENSION.glob("*.js"))
    return _digest(tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in files))


@lru_cache(maxsize=4)
def _digest(files: tuple[tuple[Path, int, int], ...]) -> str:
    total = hashlib.sha256()
    for path, _mtime, _size in files:
        total.update(path.name.encode() + b"\0" + path.read_bytes())
    return total.hexdigest()[:12]


def _hashed(name: str) -> bool:
    """Whether a file name carries a content hash: `89.bundle.b327bf3664812958.js`, `37fa160cc3a47cfd.wasm`."""
    return any(len(word) == 16 and all(c in "0123456789abcdef" for c in word) for word in name.split("."))


def _file(request: HttpRequest, path: Path, named: Path, cache: str) -> HttpResponse:
    modified = int(path.stat().st_mtime)
    since = parse_http_date_safe(request.headers.get("If-Modified-Since", ""))
    response: HttpResponse
    if since is not None and modified <= since:
        response = HttpResponseNotModified()
    else:
        kind = TYPES.get(named.suffix) or mimetypes.guess_type(named.name)[0] or "application/octet-stream"
        response = FileResponse(path.open("rb"), content_type=kind)
    response["Last-Modified"] = http_date(modified)
    response["Cache-Control"] = cache
    response["X-Content-Type-Options"] = "nosniff"
    return response
