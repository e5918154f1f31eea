"""Ways: how the requests of a provider travel, from its settings; TLS contexts are kept."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from math import inf
from typing import Any
from urllib.parse import quote

import msgspec

from aiollm._http import certificates
from aiollm.dsn import DIRECT, Network
from aiollm.errors import LocalError

LONGEST_SOCKET = 107 if sys.platform == "linux" else 103
"""Bytes of a socket's path. Python refuses more, but uvloop asks for what the first bytes name."""

_log = logging.getLogger("aiollm")


class Way(msgspec.Struct, frozen=True):
    """A provider's network in aiohttp's terms; `options` are those of a request."""

    network: Network
    options: dict[str, Any] = {}
    expires: float = inf
    """Seconds since 1970 when the files behind it must be read again."""


class Ways:
    """The ways that were needed so far, by network; it belongs to one loop."""

    def __init__(self) -> None:
        self._known: dict[Network, Way] = {}
        self._locks: dict[Network, asyncio.Lock] = {}

    async def of(self, network: Network, name: str) -> Way:
        """Return the way of provider `name`, whose files the first call reads.

        They are read again when the client's certificate has expired. Raises: LocalError.
        """
        if (way := self._usable(network)) is not None:
            return way
        async with self._locks.setdefault(network, asyncio.Lock()):
            if (way := self._usable(network)) is not None:
                return way
            way = self._known[network] = await _made(network)
        if not network.verify:
            _log.warning(
                "TLS of provider %r is not verified (verify off): anyone on the way there can "
                "read and change what is sent",
                name,
            )
        return way

    def _usable(self, network: Network) -> Way | None:
        way = self._known.get(network)
        return way if way is not None and time.time() < way.expires else None


async def _made(network: Network) -> Way:
    if len(os.fsencode(network.socket)) > LONGEST_SOCKET:
        reason = (
            f"the path of the socket {network.socket} is too long: {LONGEST_SOCKET} bytes at most"
        )
        raise LocalError(reason, may_retry=False)
    options: dict[str, Any] = {}
    expires = inf
    if network.tls != DIRECT.tls:
        # The system's bundle alone takes some 10 ms.
        options["ssl"], expires = await asyncio.to_thread(certificates.load_context, network)
    if network.proxy:
        scheme, _, place = network.proxy_place.partition("://")
        # aiohttp sends the login to the proxy alone, and again on a connection that it reuses.
        login = ":".join(quote(part, safe="") for part in network.proxy_login or ())
        options["proxy"] = f"{scheme}://{login}{login and '@'}{place}"
    return Way(network, options, expires)
