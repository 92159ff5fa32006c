"""Absolute addresses of DICOMweb resources."""

from __future__ import annotations

from django.http import HttpRequest


def root(request: HttpRequest, base_path: str) -> str:
    """The address of a DICOMweb root as the client can reach it.

    dicomweb-client (PyPI) sends `Host` without the port, so links made from it would lead nowhere. A browser never does
    that, and a proxy says that it is one; in all other cases the port that the server listens on is added.
    """
    host, meta = request.get_host(), request.META
    named = ":" in host.rpartition("]")[2]
    proxied = any(name in meta for name in ("HTTP_X_FORWARDED_PROTO", "HTTP_X_FORWARDED_FOR", "HTTP_VIA"))
    port = str(meta.get("SERVER_PORT", ""))
    usual = {"http": "80", "https": "443"}.get(request.scheme or "")
    if not named and not proxied and "HTTP_SEC_FETCH_MODE" not in meta and port.isdigit() and port != usual:
        host = f"{host}:{port}"
    return f"{request.scheme}://{host}{base_path}"


def instance(root_address: str, study: str, series: str, sop_instance: str) -> str:
    return f"{root_address}/studies/{study}/series/{series}/instances/{sop_instance}"
