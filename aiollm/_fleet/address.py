"""The address of a fleet: a Redis URL with options of our own."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec

from aiollm._fleet.sentinels import SCHEMES as SENTINELS
from aiollm._fleet.sentinels import primary_of
from aiollm.errors import ConfigError

if TYPE_CHECKING:
    from redis.asyncio import Connection

SCHEMES = ("redis", "rediss", "unix", *SENTINELS)

TIMEOUT = 0.05
"""Seconds that a call waits for Redis at most: a round trip in a data centre takes under 1 ms."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Address(msgspec.Struct, frozen=True):
    """Where a fleet meets. `namespace` keeps several fleets on one server apart.

    `timeout`: seconds that a call waits for Redis at most.
    """

    url: str
    namespace: str = "default"
    timeout: float = TIMEOUT

    def __repr__(self) -> str:
        return f"Address({self.place!r}, namespace={self.namespace!r}, timeout={self.timeout!r})"

    @property
    def place(self) -> str:
        """The URL without user, password and options, for messages."""
        parts = urlsplit(self.url)
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit((parts.scheme, host, parts.path, "", ""))

    @staticmethod
    def load() -> None:
        """Import the Redis client, which takes 0.1 s. Raises: ConfigError."""
        try:
            import redis.asyncio  # noqa: F401 - so that it is there
        except ImportError:
            reason = "a fleet needs the Redis client: pip install 'aiollm-client[redis]'"
            raise ConfigError(reason) from None

    async def find(self) -> str:
        """Return the URL of the server itself. Raises: ConnectionError."""
        return await primary_of(self.url) if urlsplit(self.url).scheme in SENTINELS else self.url

    def new_connection(self, url: str) -> Connection:
        """Return a connection that is not open yet. Raises: ConfigError."""
        from redis.asyncio import ConnectionPool

        try:
            pool = ConnectionPool.from_url(url)
            # It always reads, pushes too, and `Link` has its own deadlines: whatever the URL says.
            own = {"protocol": 3, "socket_timeout": None, "socket_connect_timeout": None}
            pool.connection_kwargs.update(own)
            made: Connection = pool.make_connection()  # type: ignore[no-untyped-call]
        except (ValueError, TypeError) as error:
            reason = f"the fleet {self.place} has a setting that the Redis client refuses"
            raise ConfigError(f"{reason}: {type(error).__name__}") from None
        return made


def parse_address(url: str) -> Address:
    """Read `redis://user:password@host:6379/0?namespace=prod&timeout=0.05`. Raises: ConfigError."""
    parts = _split(url)
    options = parse_qsl(parts.query, keep_blank_values=True)
    own = {name: value for name, value in options if name in ("namespace", "timeout")}
    rest = urlencode([pair for pair in options if pair[0] not in own])
    namespace = own.get("namespace", "default")
    if not _NAME.fullmatch(namespace):
        raise ConfigError("the fleet's namespace has 1 to 64 letters, digits, dots and dashes")
    return Address(
        urlunsplit((parts.scheme, parts.netloc, parts.path, rest, "")),
        namespace,
        _seconds(own.get("timeout")),
    )


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port if parts.scheme not in SENTINELS else None  # it names several
    except (ValueError, AttributeError, TypeError):
        reason = "the fleet's address cannot be read: expected redis://host:6379/0"
        raise ConfigError(reason) from None
    if parts.scheme not in SCHEMES or not (parts.hostname or parts.path):
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise ConfigError(f"the fleet's address has no known scheme and host: expected {known}")
    if parts.scheme in SENTINELS and not parts.path.strip("/"):
        reason = "the fleet's address names no service of its sentinels"
        raise ConfigError(f"{reason}: expected {parts.scheme}://host:26379,host:26379/service")
    return parts


def _seconds(text: str | None) -> float:
    if text is None:
        return TIMEOUT
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.001 <= seconds <= 10:
        raise ConfigError("the fleet's timeout is a number of seconds from 0.001 to 10")
    return seconds
