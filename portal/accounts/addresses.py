"""The address of the client, as far as it can be believed."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

from django.conf import settings


def client_address(environ: Mapping[str, Any]) -> str | None:
    """The peer, or behind `TRUSTED_PROXIES` proxies what the outermost of them wrote into X-Forwarded-For.

    Entries further left are the client's own words and count for nothing. None where there is no address of the
    Internet protocol.
    """
    address = environ.get("REMOTE_ADDR", "")
    proxies = settings.TRUSTED_PROXIES
    if proxies:
        hops = [hop.strip() for hop in environ.get("HTTP_X_FORWARDED_FOR", "").split(",") if hop.strip()]
        if len(hops) >= proxies:
            address = hops[-proxies]
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(found, "ipv4_mapped", None)
    return str(mapped or found)
