"""Requests under way over HTTP, each of which can be ended on its own.

Before the 2026 version of the protocol, the SDK only tells a server that a call is cancelled, and
goes on waiting for its answer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

import msgspec

from aiollm._mcp.lines import CANCELLED
from aiollm._mcp.traffic import CLOSED, Received, Sent, Traffic

T = TypeVar("T")

_EARLY = 100
"""How many requests are remembered that ended before they began, or after they were done."""


class _Cancelled(msgspec.Struct):
    request_id: int | str | None = msgspec.field(default=None, name="requestId")


class Head(msgspec.Struct):
    """What a request says of itself: its id, or the one of the call that it cancels."""

    id: int | str | None = None
    method: str = ""
    params: msgspec.Raw = msgspec.Raw()

    @property
    def is_cancelling(self) -> bool:
        """Whether it only says that a call is cancelled, which has no answer."""
        return self.method == CANCELLED and self.id is None

    @property
    def cancelled(self) -> int | str | None:
        """The id of the call that it cancels."""
        return msgspec.json.decode(self.params, type=_Cancelled).request_id


def head_of(body: bytes) -> Head:
    """Return what a body of ours says of itself."""
    return msgspec.json.decode(body, type=Head) if body else Head()


class Post:
    """One request: what waits for its answer is broken off once nobody needs it."""

    def __init__(self, number: int | str | None) -> None:
        self.id = number
        self.is_ended = False
        self._waiting: asyncio.Timeout | None = None

    def end(self) -> None:
        """Break off what waits; its connection closes. Idempotent."""
        if self.is_ended:
            return  # a timeout that is about to fire cannot be set again
        self.is_ended = True
        if self._waiting is not None:
            self._waiting.reschedule(asyncio.get_running_loop().time())

    async def within(self, work: Awaitable[T]) -> T:
        """Await `work`. Raises: TimeoutError once the request is ended."""
        async with asyncio.timeout(0 if self.is_ended else None) as waiting:
            self._waiting = waiting
            try:
                return await work
            finally:
                self._waiting = None


class Posts:
    """The requests under way, by their ids."""

    def __init__(self) -> None:
        self._by_id: dict[int | str, Post] = {}
        self._early: deque[int | str] = deque(maxlen=_EARLY)

    def __len__(self) -> int:
        return len(self._by_id)

    def begin(self, number: int | str | None) -> Post:
        """Note a request."""
        post = Post(number)
        if number is not None:
            self._by_id[number] = post
            post.is_ended = number in self._early
        return post

    def end(self, number: int | str | None) -> None:
        """End a request that is under way, or that waits to be sent."""
        if number is None:
            return
        if (post := self._by_id.get(number)) is not None:
            post.end()
        else:
            self._early.append(number)

    def done(self, post: Post) -> None:
        """Forget a request."""
        if post.id is not None and self._by_id.get(post.id) is post:
            del self._by_id[post.id]


class Receiving(Received):
    """The stream of messages to the SDK, which is open for as long as anything may come."""

    async def aclose(self) -> None:
        """Leave it to the transport, which first ends what writes to it.

        The session closes both streams before: an answer that came then would be an error, with a
        traceback, in the log of the SDK.
        """


class Sending(Sent):
    """The stream of messages from the SDK, which ends a cancelled request at once.

    The SDK shields what it says of a cancellation from a second one, but not from asyncio's: then
    nobody hears of the first.
    """

    def __init__(self, inner: Any, traffic: Traffic, posts: Posts) -> None:
        super().__init__(inner, traffic)
        self._posts = posts

    async def send(self, item: Any) -> None:
        """Send a message. Raises: as the transport's stream."""
        if getattr(item.message, "method", "") == CANCELLED:
            self._posts.end((item.message.params or {}).get("requestId"))
        await super().send(item)

    async def aclose(self) -> None:
        """Leave it to the transport, as `Receiving` does."""


class Events:
    """An answer as events, which ends with its request."""

    def __init__(self, inner: Any, post: Post, posts: Posts) -> None:
        self._inner = inner
        self._post = post
        self._posts = posts

    async def __aiter__(self) -> AsyncIterator[bytes]:
        pieces = aiter(self._inner)
        try:
            while (piece := await self._post.within(anext(pieces, None))) is not None:
                yield piece
        except TimeoutError:
            yield self._last()

    def _last(self) -> bytes:
        """Return an answer: the SDK would ask for the rest of events that end without one."""
        error = {"code": CLOSED, "message": "the call was cancelled"}
        body = msgspec.json.encode({"jsonrpc": "2.0", "id": self._post.id, "error": error})
        return b"\n\nevent: message\ndata: " + body + b"\n\n"

    async def aclose(self) -> None:
        """Close the connection, or give it back."""
        self._posts.done(self._post)
        await self._inner.aclose()
