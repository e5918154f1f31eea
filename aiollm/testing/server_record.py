"""A loopback server's record: requests, connections, counts, and ways to wait for them."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from aiollm.testing.gate import WITHIN, Signal
from aiollm.testing.http1 import HttpMessage


class SeenRequest(msgspec.Struct, frozen=True):
    """A request as it arrived: header names in lower case, `at` in the loop's seconds."""

    method: str
    path: str
    """Decoded, without the query."""
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    at: float
    connection: int
    """The number of its connection, counted from 0 in the order they were opened."""
    raw_path: str = ""
    """The request target as sent."""
    head: bytes = b""
    """The request line and headers as sent."""

    def json(self) -> Any:
        """Decode the body. Raises: msgspec.DecodeError."""
        return msgspec.json.decode(self.body)


def seen(message: HttpMessage, at: float, connection: int) -> SeenRequest:
    """Make the record of a parsed request."""
    method, target, *_ = message.start.split()
    parts = urlsplit(target)
    return SeenRequest(
        method=method,
        path=unquote(parts.path),
        query=dict(parse_qsl(parts.query, keep_blank_values=True)),
        headers={name.lower(): message.header(name.lower()) for name, _ in message.headers},
        body=message.body,
        at=at,
        connection=connection,
        raw_path=target,
        head=message.head,
    )


class SeenConnection(msgspec.Struct, frozen=True):
    """A connection's life; times are the loop's, in seconds.

    `end`: `closed` by FIN, `reset` by RST, `handshake` if TLS failed. `by`: who ended it.
    """

    number: int
    opened: float
    requests: int = 0
    sent: int = 0
    """Bytes that the server passed to the kernel for it."""
    end: Literal["open", "closed", "reset", "handshake"] = "open"
    by: Literal["nobody", "peer", "server"] = "nobody"
    ended: float | None = None


class Counts(msgspec.Struct, frozen=True):
    """Connections and requests so far; `open` counts those open now, `closed` all that ended."""

    opened: int = 0
    open: int = 0
    closed: int = 0
    closed_by_peer: int = 0
    closed_by_server: int = 0
    reset_by_peer: int = 0
    reset_by_server: int = 0
    requests: int = 0


class ServerRecord:
    """Requests and connections of one server, counted and waited for."""

    def __init__(self) -> None:
        self._connections: list[SeenConnection] = []
        self._requests: list[SeenRequest] = []
        self._signal = Signal()

    @property
    def requests(self) -> tuple[SeenRequest, ...]:
        """All requests, in the order they were completed."""
        return tuple(self._requests)

    @property
    def connections(self) -> tuple[SeenConnection, ...]:
        """All connections, in the order they were opened."""
        return tuple(self._connections)

    @property
    def counts(self) -> Counts:
        """A snapshot of all counts."""
        lives = [(one.end, one.by) for one in self._connections]
        still = sum(end == "open" for end, _ in lives)
        return Counts(
            opened=len(lives),
            open=still,
            closed=len(lives) - still,
            closed_by_peer=lives.count(("closed", "peer")),
            closed_by_server=lives.count(("closed", "server")),
            reset_by_peer=lives.count(("reset", "peer")),
            reset_by_server=lives.count(("reset", "server")),
            requests=len(self._requests),
        )

    def opened(self, at: float) -> int:
        """Record a new connection; return its number."""
        number = len(self._connections)
        self._connections.append(SeenConnection(number, at))
        self._signal.changed()
        return number

    def asked(self, request: SeenRequest) -> None:
        """Record a request."""
        self._requests.append(request)
        count = self._connections[request.connection].requests + 1
        self._replace(request.connection, requests=count)

    def gone(
        self,
        number: int,
        end: Literal["closed", "reset", "handshake"],
        by: Literal["peer", "server"],
        at: float,
    ) -> None:
        """Record the end of a connection; only the first end counts."""
        if self._connections[number].end == "open":
            self._replace(number, end=end, by=by, ended=at)

    def sent(self, number: int, size: int) -> None:
        """Record bytes sent."""
        before = self._connections[number]
        self._connections[number] = msgspec.structs.replace(before, sent=before.sent + size)

    def _replace(self, number: int, **changes: Any) -> None:
        self._connections[number] = msgspec.structs.replace(self._connections[number], **changes)
        self._signal.changed()

    async def wait_requests(self, count: int = 1, within: float | None = WITHIN) -> None:
        """Wait until `count` requests have arrived. Raises: TimeoutError after `within` s."""
        await self._until("requests", count, within)

    async def wait_opened(self, count: int = 1, within: float | None = WITHIN) -> None:
        """Wait until `count` connections have been opened. Raises: TimeoutError."""
        await self._until("opened", count, within)

    async def wait_closed(self, count: int = 1, within: float | None = WITHIN) -> None:
        """Wait until `count` connections have ended, by FIN or RST. Raises: TimeoutError."""
        await self._until("closed", count, within)

    async def wait_idle(self, within: float | None = WITHIN) -> None:
        """Wait until no connection is open. Raises: TimeoutError."""

        def shown() -> str:
            return f"no open connection; so far {self.counts}"

        await self._signal.until(lambda: self.counts.open == 0, shown, within)

    async def _until(self, name: str, count: int, within: float | None) -> None:
        def reached() -> bool:
            return bool(getattr(self.counts, name) >= count)

        await self._signal.until(reached, lambda: f"{count} {name}; so far {self.counts}", within)
