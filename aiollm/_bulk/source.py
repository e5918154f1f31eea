"""The rows of a bulk run, pulled from any iterable a few at a time, and checked."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias

import msgspec

from aiollm._bulk.keys import Keys, Shard, hash_of_request
from aiollm._bulk.thread import WorkThread
from aiollm._streams.background import BackgroundRead
from aiollm._validation import RequestLike, as_request
from aiollm.errors import ConfigError
from aiollm.types import Attempt, Message, Request, TextPart, _shown

MapRow: TypeAlias = RequestLike | tuple[str | int, RequestLike] | ConfigError
"""A row: what to ask, alone or after a key; a ConfigError for one that could not be read."""

MapRows: TypeAlias = Iterable[MapRow] | AsyncIterable[MapRow]
"""The rows of a bulk run."""

AHEAD = 64
"""Rows that are pulled before there is room for them, so that the next ones are ready."""

BITE = 0.005
"""Seconds of pulling rows that are there at once, after which the loop has a turn."""


class Placed(msgspec.Struct, frozen=True):
    """A row of a file, with the number of its line."""

    line: int
    given: MapRow


class RowToAsk:
    """A row on its way: its key, its request, and what became of it so far."""

    __slots__ = (
        "answers_at_first",
        "answers_before",
        "asked",
        "attempts",
        "began",
        "error",
        "key",
        "number",
        "place",
        "put_off",
        "request",
        "started",
    )

    def __init__(self, number: int, key: str) -> None:
        self.number = number
        """Its place among all rows, from 1."""
        self.place = 0
        """Its place among those that are asked."""
        self.key = key
        self.request = Request(())
        self.asked = ""
        """The hash of its request, "" where no file needs one."""
        self.error: ConfigError | None = None
        """Why it cannot be asked."""
        self.began = self.started = 0.0
        """When it was asked first: on the loop's clock, and in seconds since 1970."""
        self.answers_at_first = self.answers_before = 0
        """How many rows the run had answers of when it was asked first, and last."""
        self.put_off = 0
        """How many times it failed for its targets, and is asked again."""
        self.attempts: tuple[Attempt, ...] = ()
        """The attempts of these times."""


class Reading(msgspec.Struct, frozen=True):
    """How rows are read.

    `check` makes a request of what a row asks, into which `fields` are put; `shard` is the share of
    this process.
    """

    check: Callable[[RequestLike], Request]
    keys: Keys
    fields: Mapping[str, Any] = {}
    shard: Shard | None = None
    needs_hash: bool = False

    def read(self, number: int, given: Any) -> RowToAsk | None:
        """Return a row, None for one that has its answer or is another's.

        Raises: ConfigError where the output file has an answer to something else.
        """
        place = "row"
        if type(given) is Placed:
            number, given, place = given.line, given.given, "line"
        row = RowToAsk(number, str(number))
        try:
            key, asked = _parted(given)
            if key is not None:
                key.encode()  # half a surrogate would come back from a file as something else
                row.key = key
            if self.shard is not None and not self.shard.has(row.key):
                return None
            row.request = self._request(asked)
            if self.needs_hash:
                row.asked = hash_of_request(row.request)
        except Exception as error:  # noqa: BLE001 - a row of anything must not end the run
            reason = str(error) if isinstance(error, ConfigError) else f"it cannot be read: {error}"
            row.error = ConfigError(f"{place} {number}: {reason}")
            return row
        return self._met(row, f"{place} {number}")

    def _request(self, asked: RequestLike) -> Request:
        if type(asked) is str and asked and not self.fields:  # as most are: in short
            return Request((Message("user", (TextPart(asked),)),))
        if self.fields:
            asked = msgspec.structs.replace(as_request(asked), **self.fields)
        return self.check(asked)

    def _met(self, row: RowToAsk, place: str) -> RowToAsk | None:
        match self.keys.meet(row.key, row.asked):
            case "finished":
                return None
            case "other":
                raise ConfigError(
                    f"{place}: the output file has the answer of another run for the key "
                    f"{_shown(row.key)}: what is asked, or a setting such as `temperature`, has "
                    "changed since. Give the row another key, or use another file"
                )
            case "twice":
                row.error = ConfigError(
                    f"{place}: an earlier row has the key {_shown(row.key)}, too"
                )
            case "new":
                pass
        return row


def _parted(given: Any) -> tuple[str | None, RequestLike]:
    """Return the key of a row, None where it has none, and what it asks. Raises: ConfigError."""
    match given:
        case ConfigError():
            raise given
        case (str() | int() as key, asked) if type(given) is tuple and type(key) is not bool:
            return str(key), asked
        case str() | Request() | Message():
            return None, given
        case tuple() if not all(isinstance(each, Message) for each in given):
            raise ConfigError(
                f"expected a pair of a key and a request, not {_shown(given)}: keys are texts or "
                "integers"
            )
        case _:
            return None, given


class Source:
    """Pulls rows while they are wanted: from an iterable in a thread, or from an async one.

    Any plain iterable may block, such as a file or a generator, so it is read in a thread, as many
    rows as are wanted. Each is there to take as soon as it is read: the next may be long in coming.
    """

    def __init__(self, rows: MapRows, reading: Reading, arrived: Callable[[], None]) -> None:
        """Start nothing; `arrived` is called when there is more to take. Raises: ConfigError."""
        self._reading = reading
        self._arrived = arrived
        self._ready: deque[RowToAsk] = deque()
        self.pulled = 0
        """Rows that have been pulled, those that had their answer and other shards' included."""
        self._pulling: BackgroundRead[None] | None = None
        self._thread: WorkThread | None = None
        self._is_told = False
        self.is_over = False
        """Whether all rows have been taken."""
        self._has_ended = False
        self.error: Exception | None = None
        """What pulling failed with; the rows before it can be taken."""
        self._aiter: AsyncIterator[Any] | None = None
        self._iter: Iterator[Any] | None = None
        if isinstance(rows, AsyncIterable):
            self._aiter = aiter(rows)
            return
        if not hasattr(rows, "__iter__") or isinstance(rows, str | bytes | Mapping):
            kind = type(rows).__name__
            raise ConfigError(f"rows are an iterable of requests, not of type {kind}")
        self._iter = iter(rows)
        self._thread = WorkThread("rows")
        self._loop = asyncio.get_running_loop()

    def take(self) -> RowToAsk | None:
        """Return the next row, None where there is none yet."""
        row = self._ready.popleft() if self._ready else None
        if len(self._ready) <= AHEAD // 2:
            self._pull()
        return row

    def _pull(self) -> None:
        if self._has_ended:
            self.is_over = not self._ready
        elif self._pulling is None:
            rows = self._aiter
            read = self._pull_in_thread if rows is None else partial(self._pull_here, rows)
            self._pulling = BackgroundRead(read)
            self._pulling.task.add_done_callback(self._pulled)

    def _pulled(self, task: asyncio.Task[None]) -> None:
        pulling, self._pulling = self._pulling, None
        if task.cancelled() or pulling is None:
            return
        try:
            pulling.outcome()
        except Exception as error:  # noqa: BLE001 - whatever the rows' own code raises
            self._has_ended, self.error = True, error
        self.is_over = self._has_ended and not self._ready
        self._arrived()

    async def _pull_in_thread(self) -> None:
        assert self._thread is not None
        # Both at once: whoever sees the end before this task is done must see why.
        self._has_ended, self.error = await self._thread.run(self._bite)

    def _bite(self) -> tuple[bool, Exception | None]:
        """Pull some rows, in the thread; return whether they were the last, and an error."""
        assert self._iter is not None
        until = time.monotonic() + BITE
        try:
            for given in self._iter:
                self.pulled += 1
                row = self._reading.read(self.pulled, given)
                if row is not None:
                    self._ready.append(row)
                    self._tell()
                if len(self._ready) >= AHEAD or time.monotonic() >= until:
                    return False, None
        except Exception as error:  # noqa: BLE001 - as above
            return True, error
        return True, None

    def _tell(self) -> None:
        """Let the loop know, from the thread, that there is a row; once for all that come soon."""
        if not self._is_told:
            self._is_told = True
            with suppress(RuntimeError):  # the loop has been closed
                self._loop.call_soon_threadsafe(self._told)

    def _told(self) -> None:
        self._is_told = False
        self._arrived()

    async def _pull_here(self, rows: AsyncIterator[Any]) -> None:
        await asyncio.sleep(0)  # an eager task would bring rows to whoever is just taking one
        until = time.monotonic() + BITE
        while len(self._ready) < AHEAD:
            try:
                given = await anext(rows)
            except StopAsyncIteration:
                self._has_ended = True
                return
            self.pulled += 1
            row = self._reading.read(self.pulled, given)
            if row is not None:
                self._ready.append(row)
                self._arrived()
            if time.monotonic() >= until:
                await asyncio.sleep(0)  # rows that are there at once must not stop the loop
                until = time.monotonic() + BITE

    def close(self) -> None:
        """Pull no more; an iterable that blocks in its thread is left to itself."""
        self._has_ended = True
        pulling = self._pulling
        if pulling is not None and not pulling.task.get_loop().is_closed():
            pulling.task.cancel()
        if self._thread is not None:
            if inspect.isgenerator(self._iter):
                self._thread.run(self._iter.close).cancel()  # it runs, and nobody waits for it
            self._thread.stop()
            self._iter = None

    async def gone(self) -> None:
        """Wait until nothing is pulled any longer, and an async generator has cleaned up."""
        if self._pulling is not None:
            await asyncio.wait((self._pulling.task,))
        if inspect.isasyncgen(self._aiter):
            await self._aiter.aclose()
