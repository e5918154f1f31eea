"""Fetching: loads an image's URL that may come from a stranger, from public addresses alone."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from aiollm._http.aiohttp_tuning import Connector
from aiollm._http.public_addresses import is_public
from aiollm._http.translation import FOREIGN, cause_of, fault_of
from aiollm._time_limits import TimeLimit
from aiollm.errors import ProtocolError, UnsupportedError

FETCH_BYTES = 50 * 1024 * 1024
FETCH_SECONDS = 30.0
FETCH_REDIRECTS = 3
"""Limits on fetching an image URL; the time includes all redirects."""

_WEB_PORTS = (80, 443)
_FIRST_FREE_PORT = 1024
"""The lower ports belong to other protocols, such as mail: a URL must not speak to those."""

_NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*", re.IGNORECASE)
"""The last label of a host that is an IPv4 address in some form, as browsers decide it."""

_JOIN_AT_ONCE = 1024 * 1024
"""Bytes up to which an image is joined on the loop; above, `bytes.join` releases the GIL."""

_SHOWN = 100
"""Characters of a host that a message shows."""


class _RefusedError(OSError):
    """A reason why a URL is refused; unlike a foreign error's text, it may be shown.

    An OSError, because that is what those who open connections handle.
    """


class _PublicResolver(AbstractResolver):
    """Looks up names, and refuses those of which one address is not public.

    The socket is checked too. But a name that mixes addresses is a trap, not a server to try.
    """

    def __init__(self, inner: AbstractResolver) -> None:
        self._inner = inner

    async def resolve(self, *args: Any, **options: Any) -> list[ResolveResult]:
        found = await self._inner.resolve(*args, **options)
        for each in found:
            _check_address(each["host"])
        return found

    async def close(self) -> None:
        await self._inner.close()


def public_session(
    resolver: AbstractResolver | None = None,
    make_socket: Callable[..., socket.socket] = socket.socket,
) -> aiohttp.ClientSession:
    """Return a session that connects to public addresses alone.

    What decides is the address that a socket is about to connect to: a check of the URL, or of an
    earlier lookup, could be led astray by a name that changes, or by another spelling.
    """

    def checked_socket(info: Any) -> socket.socket:
        family, kind, protocol, _, address = info
        _check_address(address[0])
        return make_socket(family, kind, protocol)

    return aiohttp.ClientSession(
        connector=Connector(
            resolver=_PublicResolver(resolver or aiohttp.ThreadedResolver()),
            socket_factory=checked_socket,
            limit=8,
        ),
        # Off, as is trust_env: nothing goes from one URL to another, and no proxy connects for us
        # to an address that only it knows.
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept-Encoding": "identity", "User-Agent": "aiollm"},
        auto_decompress=False,  # or a small body could unpack to more than the limit at once
        timeout=aiohttp.ClientTimeout(total=None),
    )


async def fetch(session: aiohttp.ClientSession, url: str) -> bytes:
    """Return the body of a URL: at most `FETCH_BYTES`, within `FETCH_SECONDS`.

    Redirects are followed, up to `FETCH_REDIRECTS`, under the same rules.
    Raises: UnsupportedError; LocalError for a fault of this process.
    """
    host = "an unusable URL"
    try:
        async with TimeLimit(FETCH_SECONDS):
            place = _checked(URL(url))
            for _ in range(FETCH_REDIRECTS + 1):
                host = place.raw_host or host
                found = await _get(session, place)
                if isinstance(found, bytes):
                    return found
                place = found
            raise _RefusedError("too many redirects")
    except (*FOREIGN, ProtocolError) as error:
        ours = fault_of(error) or UnsupportedError(
            f"the image at {host:.{_SHOWN}} cannot be fetched: {_reason(cause_of(error))}"
        )
    # Raised outside the handler, so that no foreign error becomes its context.
    try:
        raise ours
    finally:
        del ours


def _reason(error: BaseException) -> str:
    if isinstance(error, _RefusedError | ProtocolError):
        return str(error)
    if isinstance(error, TimeoutError):
        return "it took too long"
    return type(error).__name__


async def _get(session: aiohttp.ClientSession, url: URL) -> bytes | URL:
    """Return the body of a GET, or where a redirect leads to."""
    async with session.get(url, allow_redirects=False) as response:
        if response.status in (301, 302, 303, 307, 308):
            if not (location := response.headers.get("Location")):
                raise _RefusedError(f"HTTP {response.status} without a Location")
            return _checked(url.join(URL(location)), url)
        if response.status != 200:
            raise _RefusedError(f"HTTP {response.status}")
        coding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if coding not in ("", "identity"):
            raise _RefusedError("it is compressed, which was not asked for")
        pieces: list[bytes] = []
        size = 0
        async for piece in response.content.iter_any():
            pieces.append(piece)
            size += len(piece)
            if size > FETCH_BYTES:
                raise _RefusedError(f"it is larger than {FETCH_BYTES} bytes")
    return b"".join(pieces) if size <= _JOIN_AT_ONCE else await asyncio.to_thread(b"".join, pieces)


def _checked(url: URL, before: URL | None = None) -> URL:
    """Return `url` if it may be asked, `before` having led to it."""
    host = (url.host or "").rstrip(".")
    if url.scheme not in ("http", "https") or not host:
        raise _RefusedError("it is not an http or https URL")
    if before is not None and (before.scheme, url.scheme) == ("https", "http"):
        raise _RefusedError("it redirects from https to http")
    if url.user is not None or url.password is not None:
        raise _RefusedError("it holds a user name or password")
    if url.port not in _WEB_PORTS and (url.port or 0) < _FIRST_FREE_PORT:
        raise _RefusedError(f"port {url.port} is not one of the web")
    if ":" in host or _NUMERIC.fullmatch(host.rpartition(".")[2]):
        _check_address(host)
    return url


def _check_address(address: str) -> None:
    if not is_public(address):
        raise _RefusedError("its address is not public")
