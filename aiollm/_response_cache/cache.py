"""The response cache of a registry: asked on the event loop, which never waits for the file."""

from __future__ import annotations

import asyncio
import logging
import os
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from aiollm._response_cache.address import parse_address
from aiollm._response_cache.answers import Answer
from aiollm._response_cache.keys import Asked
from aiollm._response_cache.worker import Found, Lookup, Stop, Store, Worker
from aiollm._time_limits import TimeLimit
from aiollm.errors import ConfigError
from aiollm.events import Event, ResponseCacheAway

PATIENCE = 5.0
"""Seconds that a call waits for a lookup at most, then it goes on without."""

CLOSING = 15.0
"""Seconds that closing waits until all answers are written."""

MOST_WAITING = 10_000
"""Answers that wait to be written; further ones are not kept while the disk is too slow."""

_log = logging.getLogger("aiollm")


class ResponseCache:
    """Finds and keeps answers; makes its thread, and opens its file, when it is first used."""

    def __init__(self, address: object, max_pixels: int, emit: Callable[[Event], None]) -> None:
        """Read the address; open nothing. Raises: ConfigError."""
        self.max_pixels = max_pixels
        self._address = parse_address(address)
        self._emit = emit
        self._worker: Worker | None = None
        self._inherited: Worker | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closed = False

    @property
    def was_opened(self) -> bool:
        """Whether there is anything to close."""
        return self._worker is not None

    async def find(self, asked: Sequence[Asked], seconds: float = PATIENCE) -> Found | None:
        """Return the answer to the first of these that has one, as items, None without one.

        Only opens the file where nothing is asked. Raises: ConfigError for a file that is not a
        cache, or that this process may not write.
        """
        loop = self._loop = asyncio.get_running_loop()
        worker = self._ready()
        if worker is None:
            return None
        future: asyncio.Future[tuple[Found | None, str]] = loop.create_future()
        worker.jobs.put(Lookup(asked, partial(_tell, future)))
        try:
            async with TimeLimit(min(seconds, PATIENCE)):
                found, refusal = await future
        except TimeoutError:
            return None
        if refusal:
            raise ConfigError(refusal)
        return found

    def keep(self, asked: Asked, answer: Answer) -> None:
        """Keep an answer, soon; it is found at once."""
        worker = self._ready()
        if worker is not None and worker.jobs.qsize() + len(worker.unwritten) < MOST_WAITING:
            worker.jobs.put(Store(asked, answer))

    async def aclose(self) -> None:
        """Write what is left, close the file and end the thread."""
        if not self._stops():
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        assert self._worker is not None
        self._worker.jobs.put(Stop(partial(_tell, future, None)))
        with suppress(TimeoutError):
            async with TimeLimit(CLOSING):
                await future

    def kill(self) -> None:
        """Let the thread write what is left, and end by itself."""
        if self._stops():
            assert self._worker is not None
            self._worker.jobs.put(Stop(_nothing))

    def _stops(self) -> bool:
        """Take no more; return whether a thread of this process is to be stopped."""
        was_closed, self._is_closed = self._is_closed, True
        worker = self._worker
        return not was_closed and worker is not None and worker.process == os.getpid()

    def _ready(self) -> Worker | None:
        """Return the worker of this process, None where there can be none."""
        worker = self._worker
        if self._is_closed or self._inherited is not None:
            return None
        if worker is not None and worker.process == os.getpid():
            return worker
        if worker is not None and worker.holds_file:
            # The fork did not wait for it, so that this process must neither use nor close it.
            self._inherited = worker
            self._away("it was in use when this process was forked")
            return None
        worker = Worker(self._address, weakref.WeakMethod(self._away))
        try:
            worker.start()
        except RuntimeError as error:
            self._away(str(error))
            return None
        self._worker = worker
        return worker

    def _away(self, reason: str) -> None:
        """Say that the file cannot be used, also from the thread; hooks are called on the loop."""
        _log.warning("the response cache %r cannot be used for now: %s", self._address.path, reason)
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(self._emit, ResponseCacheAway(reason))


def _tell(future: asyncio.Future[Any], *told: Any) -> None:
    """Set the result of a future from another thread."""
    with suppress(RuntimeError):  # the loop was closed
        result = told[0] if len(told) == 1 else told
        future.get_loop().call_soon_threadsafe(_settle, future, result)


def _settle(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():
        future.set_result(result)


def _nothing() -> None:
    pass
