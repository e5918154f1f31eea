"""Where a URL leads: hosts and ports in the one spelling that equal ones share."""

from __future__ import annotations

import re
from contextlib import suppress
from functools import lru_cache

from aiollm._settings.percent import unquoted

PORTS = {"http": ":80", "https": ":443"}


@lru_cache(maxsize=256)
def place_of(scheme: str, authority: str) -> tuple[str, str]:
    """Return the host and the `:port` of a URL, in the one spelling that equal ones share."""
    place = authority.rpartition("@")[2].lower()
    host, colon, port = place.rpartition(":")
    if not colon or "]" in port:
        host, port = place, ""
    host = _short_ipv6(host) if host.startswith("[") else host.removesuffix(".")
    return host, f":{port}" if port else PORTS.get(scheme, "")


def _short_ipv6(host: str) -> str:
    from ipaddress import AddressValueError, IPv6Address  # few hosts are addresses

    with suppress(AddressValueError):
        return f"[{IPv6Address(unquoted(host[1:-1]))}]"
    return host


@lru_cache(maxsize=256)
def hostname(host: str) -> str:
    """Return a host without its port."""
    return re.sub(r":[0-9]+$", "", host)


def shown_url(url: str) -> str:
    """Return a URL without its credentials and its query, which may hold some."""
    scheme, separator, rest = url.partition("://")
    authority, slash, path = rest.partition("?")[0].partition("/")
    return f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path}"
