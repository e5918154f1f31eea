"""A server as a child process: its standard streams as a transport of the SDK."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Self

import msgspec

from aiollm._mcp.child import Child
from aiollm._mcp.lines import HEARD, Lines, Seen, TooLong, readable, seen
from aiollm._mcp.sdk import Sdk
from aiollm._mcp.traffic import TOO_LARGE, Received, Sent, Traffic

MAX_NOISE = 1000
"""Lines in a row that are not messages, after which a server is given up: some print a few."""

MAX_WAITING = 64
"""Messages that wait for the SDK before the server's output is left in its pipe."""


_A_TURN, _EACH = 16 * 1024, 1024
"""Bytes of messages between two turns of the event loop, and what each message counts besides."""

LAST_WORDS = 1.0
"""Seconds for the reason why a server's input is closed, which comes a moment later."""


class StdioTransport:
    """Starts a server and speaks with it; an async context manager, as the SDK wants it."""

    def __init__(
        self,
        traffic: Traffic,
        command: Sequence[str],
        env: Mapping[str, str],
        cwd: str | None,
        most: int,
    ) -> None:
        """`most`: bytes of a message at most."""
        self._traffic = traffic
        self._command = command
        self._env = env
        self._cwd = cwd
        self._most = most
        self._lines = Lines(most)
        self._noise = 0
        self._waiting: deque[Any] = deque()
        self._work = 0
        self._came = asyncio.Event()
        self._is_over = False
        self.closed: type[Exception] = traffic.sdk.Closed
        """What the SDK knows a closed stream by."""
        self.child = Child(self._read, self._end)

    async def __aenter__(self) -> tuple[Received, Sent]:
        await self.child.spawn(self._command, self._env, self._cwd)
        return Received(self, self._traffic), Sent(_Input(self), self._traffic)

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the server; at once, and idempotent."""
        self._is_over = True
        self._came.set()
        self.child.close()

    async def aclose(self) -> None:
        """Read no more; what comes is dropped, so that the server is not blocked."""
        self._is_over = True
        self._came.set()
        self._waiting.clear()
        self.child.resume_reading()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        while True:
            if self._waiting:
                if self._work >= _A_TURN:  # others have theirs
                    self._work = 0
                    await asyncio.sleep(0)
                    continue
                waiting = self._waiting.popleft()
                self._work += len(waiting) + _EACH if isinstance(waiting, bytes) else _EACH
                item = self._taken(waiting)
                if not self._waiting:
                    # Others have their turn before there is more.
                    self._came.clear()
                    self.child.resume_reading()
                    await asyncio.sleep(0)
                if item is not None:
                    return item
            elif self._is_over:
                raise StopAsyncIteration
            else:
                await self._came.wait()

    def _taken(self, waiting: Any) -> Any:
        """Return a message as the SDK has it, None for one that it cannot read."""
        if not isinstance(waiting, bytes):
            return waiting
        sdk = self._traffic.sdk
        try:
            return sdk.SessionMessage(_decoded(sdk, waiting))
        except ValueError:  # of which pydantic's are
            answered = seen(waiting)
            if answered.id is None or answered.method:
                return None
            return self._left_out(answered.id, "it is not valid JSON-RPC")

    def _read(self, data: bytes) -> None:
        for line in self._lines.feed(data):
            if self._is_over:
                return
            if isinstance(line, TooLong):
                size = f"{line.size} bytes, more than {self._most}"
                self._refuse(line.id, f"it has {line.excess or size}")
            else:
                self._look(*readable(line))
        if len(self._waiting) > MAX_WAITING:
            self.child.pause_reading()

    def _look(self, line: bytes, found: Seen) -> None:
        if not found.is_message:
            self._noise += 1
            if self._noise > MAX_NOISE:
                self._give_up(f"it wrote more than {MAX_NOISE} lines that are not JSON-RPC")
            return
        self._noise = 0
        if found.method and found.id is None and found.method not in HEARD:
            self._traffic.heard += 1
        elif found.refusal:
            self._refuse(found.id, found.refusal)
        else:
            self._put(line)

    def _refuse(self, answered: int | str | None, reason: str) -> None:
        """Answer a request in the place of what the server answered."""
        if answered is None:
            self._give_up(f"a message is too large: {reason}")
        else:
            self._put(self._left_out(answered, f"the result is too large: {reason}"))

    def _left_out(self, answered: int | str, reason: str) -> Any:
        sdk = self._traffic.sdk
        error = sdk.ErrorData(code=TOO_LARGE, message=reason)
        return sdk.SessionMessage(sdk.ErrorResponse(jsonrpc="2.0", id=answered, error=error))

    def _put(self, item: Any) -> None:
        self._waiting.append(item)
        self._came.set()

    def _give_up(self, reason: str) -> None:
        self.close()
        self._traffic.ended(reason)

    def _end(self, reason: str) -> None:
        self._is_over = True
        self._came.set()
        self._traffic.ended(reason)


def _decoded(sdk: Sdk, line: bytes) -> Any:
    """Return a message as the SDK has it. Raises: ValueError, of which pydantic's are."""
    try:
        value = msgspec.json.decode(line)
    except (ValueError, RecursionError):
        return sdk.message.validate_json(line, by_name=False)
    # The SDK's types copy nothing of JSON that is decoded already: many times faster.
    return sdk.message.validate_python(value, by_name=False)


class _Input:
    """The server's input, as a stream of the SDK."""

    def __init__(self, transport: StdioTransport) -> None:
        self._transport = transport

    async def send(self, item: Any) -> None:
        message = item.message
        line = message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n"
        child = self._transport.child
        if hasattr(message, "id"):  # that a request is cancelled is said without waiting
            await child.has_room()
        if not child.write(line):
            if hasattr(message, "id"):
                await child.told(LAST_WORDS)
            raise self._transport.closed

    async def aclose(self) -> None:
        """Leave the input open: the transport closes it."""
