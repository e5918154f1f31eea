"""Sentinels: which Redis is the primary of a service now."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

SCHEMES = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}
"""Of a URL that names sentinels, and what its primary is spoken to with."""

_LOGIN = ("sentinel_username", "sentinel_password")


async def primary_of(url: str) -> str:
    """Return the URL of the primary that the first sentinel to answer names.

    `redis+sentinel://user:password@host:26379,host:26379/service/0?sentinel_password=...`: the user
    and password are the primary's. Raises: ConnectionError where no sentinel knows it.
    """
    parts = urlsplit(url)
    scheme = SCHEMES[parts.scheme]
    login, _, hosts = parts.netloc.rpartition("@")
    _, service, *rest = parts.path.split("/")
    options = parse_qsl(parts.query)
    own = {name.removeprefix("sentinel_"): value for name, value in options if name in _LOGIN}
    query = urlencode([pair for pair in options if pair[0] not in _LOGIN])
    places = [urlunsplit((scheme, host, "", query, "")) for host in hosts.split(",")]
    asked = [asyncio.create_task(_ask(place, service, own)) for place in places]
    try:
        for first in asyncio.as_completed(asked):
            with suppress(Exception):  # whatever is wrong with one, another may know
                if (found := await first) is not None:
                    place = f"{login}@{found}" if login else found
                    return urlunsplit((scheme, place, "/" + "".join(rest[:1]), query, ""))
    finally:
        for each in asked:
            each.cancel()
        # Also takes the errors of those that failed after the first had answered.
        await asyncio.gather(*asked, return_exceptions=True)
    raise ConnectionError(f"no sentinel knows the primary of {service}")


async def _ask(url: str, service: str, login: dict[str, str]) -> str | None:
    """Return host and port of a primary, None where this sentinel does not know the service."""
    connection = await asyncio.to_thread(_new_connection, url, login)  # for it reads files
    try:
        await connection.connect()
        await connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service)
        found: Sequence[bytes] | None = await connection.read_response()
    finally:
        with suppress(Exception):
            await connection.disconnect(nowait=True)
    if not found:
        return None
    host, port = (each.decode() for each in found)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _new_connection(url: str, login: dict[str, str]) -> Any:
    from redis.asyncio import ConnectionPool

    return ConnectionPool.from_url(url, **login).make_connection()  # type: ignore[no-untyped-call]
