"""Between a transport and the SDK: what a server sends that nobody needs does not get through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Self

import msgspec

from aiollm._mcp.lines import CHANGED, HEARD
from aiollm._mcp.sdk import Sdk

MAX_ASKED = 256
"""Requests of a server that are not answered yet, at most: it may ask without reading."""

WHOLE = "aiollm: the whole schema"
"""Where a schema that the SDK does not take is kept: it would refuse the list for it."""

CLOSED = -32000
"""The SDK's code for a call whose connection ended."""
TOO_LARGE = -32011
"""The code of an answer that was left out, because it is too large."""
UNREACHABLE = -32012
"""The code of a request that got no answer over HTTP."""
NOT_THERE = -32014
"""The code of a request for which there was no connection over HTTP."""
SESSION_LOST = -32013
"""The code of a request that a server refused, because it has forgotten the session."""


class _Taken(msgspec.Struct):
    """What the SDK wants of a schema, under one version of the protocol or another."""

    type: Literal["object"] = "object"
    dialect: str | None = msgspec.field(default=None, name="$schema")
    properties: dict[str, dict[str, Any] | bool] | None = None
    required: list[str] | None = None


class Traffic:
    """What goes over one connection."""

    def __init__(self, sdk: Sdk, ended: Callable[[str], None], changed: Callable[[], None]) -> None:
        """Let nothing through yet; `ended` is told why no more will come, `changed` of changes."""
        self.sdk = sdk
        self.ended = ended
        self.changed = changed
        self.heard = 0
        """How many messages have come."""
        self._asked = 0

    def passes(self, item: Any) -> bool:
        """Return whether a message goes on to the SDK."""
        if isinstance(item, Exception):
            return False
        self.heard += 1
        message = item.message
        if isinstance(message, self.sdk.Notification):
            if message.method == CHANGED:
                self.changed()
            return message.method in HEARD
        if isinstance(message, self.sdk.Response):
            result = message.result
            if isinstance(result, dict) and isinstance(result.get("tools"), list):
                result["tools"] = _clean(result["tools"])
        elif isinstance(message, self.sdk.Request):
            self._asked += 1
            if self._asked > MAX_ASKED:
                self.ended(f"it asked {MAX_ASKED} things without reading the answers")
                return False
        return True

    def sent(self, item: Any) -> None:
        """Note that a message was sent."""
        if isinstance(item.message, self.sdk.Response | self.sdk.ErrorResponse):
            self._asked -= 1


class Received:
    """The stream of messages to the SDK."""

    def __init__(self, inner: Any, traffic: Traffic) -> None:
        self._inner = inner
        self._traffic = traffic

    async def receive(self) -> Any:
        """Return the next message that is needed. Raises: as the transport's stream."""
        while True:
            item = await self._inner.receive()
            if self._traffic.passes(item):
                return item

    async def aclose(self) -> None:
        """Close the stream."""
        await self._inner.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        while True:
            try:
                item = await anext(self._inner)
            except StopAsyncIteration:
                self._traffic.ended("the connection ended")
                raise
            if self._traffic.passes(item):
                return item

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class Sent:
    """The stream of messages from the SDK."""

    def __init__(self, inner: Any, traffic: Traffic) -> None:
        self._inner = inner
        self._traffic = traffic

    async def send(self, item: Any) -> None:
        """Send a message. Raises: as the transport's stream."""
        await self._inner.send(item)
        self._traffic.sent(item)

    async def aclose(self) -> None:
        """Close the stream."""
        await self._inner.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _clean(listed: Any) -> list[dict[str, Any]]:
    """Return the tools of a list that can be called, and of them what is needed.

    With the schemas of results, the SDK would check each result on the event loop, where a pattern
    of a hostile server's could take forever; a model reads the result as it is. And one tool that
    it cannot read would cost all others.
    """
    found = []
    for tool in listed:
        if not isinstance(tool, dict) or not isinstance(tool.get("name"), str):
            continue
        schema = tool.get("inputSchema") or {}
        if not _is_taken(schema):
            schema = {WHOLE: schema}  # who makes a tool of it mends it, or says why not
        words = tool.get("description")
        kept = {"description": words} if isinstance(words, str) else {}
        found.append({"name": tool["name"], "inputSchema": {**schema, "type": "object"}, **kept})
    return found


def _is_taken(schema: Any) -> bool:
    try:
        msgspec.convert(schema, _Taken)
    except msgspec.ValidationError:
        return False
    return True
