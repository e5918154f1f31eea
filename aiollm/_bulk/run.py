"""The MapRun handle: many rows through one spec, as an async context manager and iterator."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import cached_property, partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, NoReturn, Self, TypeAlias, TypeVar

import msgspec

from aiollm._bulk.asking import PAUSE, Asker
from aiollm._bulk.fate import Fates
from aiollm._bulk.keys import Keys
from aiollm._bulk.output import Into, OutputFile
from aiollm._bulk.results import Results
from aiollm._bulk.row import Row, line_of
from aiollm._bulk.source import RowToAsk, Source
from aiollm._bulk.width import Width
from aiollm._resources import Resources
from aiollm.bulk.record import Record
from aiollm.errors import ClosedError, ConfigError, StoppedError
from aiollm.types import Target

if TYPE_CHECKING:
    from aiollm.bulk.report import Report
    from aiollm.bulk.tally import Tally

T = TypeVar("T")

State: TypeAlias = Literal["new", "open", "ended", "closed"]

WINDOW = 1024
"""Rows that have ended and were not taken yet: no more are asked until some are."""

TICK = 0.02
"""Seconds after which the line of waiting rows is looked at again: nothing says when it moves."""

TURN = 0.005
"""Seconds for which rows are handed over without a turn of the event loop."""

_TALLY = "aiollm.bulk.tally"
"""What counts rows."""

PUT_OFF = 32
"""Rows that wait for a target to recover before these, and no new ones, are asked."""


class Parts(msgspec.Struct, frozen=True):
    """What a run is made of: `run` is the hash of what all rows of its file have in common."""

    run: str
    targets: tuple[Target, ...]
    into: Into | None
    resume: bool
    ordered: bool
    source: Callable[[Keys, Callable[[], None]], Source]
    uses_cache: bool
    asker: Asker
    width: Width
    fates: Fates
    resources: Resources


class MapRun(Generic[T]):
    """A bulk run: rows in, answers and errors out, as they come or in the order of the rows.

    It is an async context manager: leaving it ends all that is under way. Iterate it, or `finish()`
    it where the output file is all that is wanted. A row's error is in its row. At the end of the
    iteration a run that could not ask all rows raises StoppedError.

        async with registry.map("openai/gpt-6.1-sol", prompts, into="answers.jsonl") as run:
            async for row in run:
                print(row.key, row.error or row.text)
        print(run.report)
    """

    def __init__(self, parts: Any) -> None:
        """Take the parts that `Registry.map` makes."""
        made: Parts = parts
        self._plan = made
        self._asker = made.asker
        self._width = made.width
        self._fates = made.fates
        self._resources = made.resources
        self._source: Source | None = None
        self._output: OutputFile | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._put_off: deque[RowToAsk] = deque()
        self._begun = self._held = self._fresh = 0
        self._ready = Results[T](ordered=made.ordered)
        self._error: Exception | None = None
        self._state: State = "new"
        self._is_full = False
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._turned_at = 0.0

    @cached_property
    def _tally(self) -> Tally:
        from aiollm.bulk.tally import Tally  # loaded in a thread where the run is entered

        return Tally()

    @property
    def report(self) -> Report:
        """What the run has come to so far."""
        return self._tally.report()

    @property
    def pulled(self) -> int:
        """How many rows have been pulled so far, also those that had their answers already."""
        return 0 if self._source is None else self._source.pulled

    @property
    def under_way(self) -> int:
        """How many rows are being asked now, or wait in line."""
        return len(self._tasks)

    async def __aenter__(self) -> Self:
        """Open the output file, and begin. Raises: ConfigError."""
        if self._state != "new":
            raise ClosedError("a bulk run can be entered once")
        self._resources.bind_loop()
        self._loop = asyncio.get_running_loop()
        await self._resources.load(_TALLY)
        if self._plan.uses_cache:
            await self._resources.open_response_cache()  # else each row would fail for it
        keys = Keys()
        source = self._plan.source(keys, self._fill)  # wrong rows leave no file, open or not
        if self._plan.into is not None:
            self._output = output = OutputFile(self._plan.into, self._fail)
            try:
                await output.open(self._plan.run, keys, resume=self._plan.resume)
            except asyncio.CancelledError:
                output.close()
                # Until it is closed, no other run can open it. A second cancellation may end this.
                await output.gone()
                raise
            except BaseException:
                output.close()
                raise
        self._source = source
        self._state = "open"
        self._fill()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()
        if self._loop.is_closed():
            return  # amid the run: it is collected, and nothing of it runs any longer
        # All of it has been told to end; who is cancelled here does not keep it running.
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._source is not None:
            await self._source.gone()
        if self._output is not None:
            try:
                await self._output.gone()
            except OSError:
                if error is None:
                    raise

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Row[T]:
        """Return the next row that has ended.

        Raises: StopAsyncIteration; StoppedError where rows are left that were not asked,
        ConfigError for an output file of another run, OSError where it cannot be written, and
        whatever pulling the rows raised.
        """
        if self._waiter is not None:
            raise ClosedError("this bulk run is already being read by another task")
        if self._state != "new" and asyncio.get_running_loop() is not self._loop:
            raise ConfigError("this bulk run is in use on another event loop: read it there")
        if self._ready and self._loop.time() - self._turned_at > TURN:
            await asyncio.sleep(0)  # a caller that takes many rows at once must not stop the loop
            self._turned_at = self._loop.time()
        while not self._ready:
            if self._state != "open":
                self._raise_end()
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
            self._turned_at = self._loop.time()
        self._held -= 1
        if self._is_full:
            self._fill()
        return self._ready.take()

    async def finish(self) -> Report:
        """Ask all rows that are left; return the report. Raises: as iterating."""
        async for _ in self:
            pass
        return self.report

    def _raise_end(self) -> NoReturn:
        if self._state == "new":
            raise ClosedError("enter the run first: `async with registry.map(...) as run:`")
        error, self._error = self._error, None
        if error is None:
            raise StopAsyncIteration
        try:
            raise error
        finally:
            del error  # its traceback refers to this frame, which would make a cycle

    def _fill(self) -> None:
        """Start as many rows as there is room for, and see if the run has come to its end."""
        if self._state != "open":
            return
        while self._has_room():
            row = self._take()
            if row is None:
                break
            self._held += 1
            if row.error is not None:
                self._ended(row, *self._asker.refused(row))
                continue
            self._fresh += 1  # it is in no line yet
            task = self._loop.create_task(self._ask(row))
            self._tasks.add(task)
            task.add_done_callback(self._asked)
        self._see_end()

    def _has_room(self) -> bool:
        if self._error is not None or self._fates.stopped is not None:
            return False
        width = self._width
        self._is_full = self._held >= width.limit + WINDOW
        if self._is_full and not (self._plan.ordered and self._put_off):
            return False
        waiting, bounded = self._resources.gate.crowd(self._plan.targets)
        if width.allows(len(self._tasks), waiting + self._fresh, bounded=bounded):
            return True
        if width.fixed is None and self._timer is None and (waiting or self._fresh):
            self._timer = self._loop.call_later(TICK, self._tick)
        return False

    def _tick(self) -> None:
        self._timer = None
        self._fill()

    def _take(self) -> RowToAsk | None:
        """Return a row to ask now: one that was put off where it is due, or there is no other."""
        assert self._source is not None
        if not self._is_due() and (row := self._source.take()) is not None:
            row.place, self._begun = self._begun, self._begun + 1
            return row
        return self._put_off.popleft() if self._put_off else None

    def _is_due(self) -> bool:
        """Return whether rows that were put off go before new ones.

        They do where there are many. In order, all others wait to be taken behind them, so they do
        once a target is well, too, and where there is no room for others.
        """
        put_off = self._put_off
        if not self._plan.ordered or not put_off:
            return len(put_off) >= PUT_OFF
        return self._is_full or self._fates.is_well_since(put_off[0]) or len(put_off) >= PUT_OFF

    async def _ask(self, row: RowToAsk) -> None:
        self._fresh -= 1
        outcome = await self._asker.ask(row)
        match outcome:
            case (ended, record):
                self._ended(row, ended, record)
                return
            case "later":
                await asyncio.sleep(PAUSE)
                self._put_off.append(row)
            case _:
                pass
        self._held -= 1

    def _asked(self, task: asyncio.Task[None]) -> None:
        """Go on after a row's task has ended."""
        self._tasks.discard(task)
        error = self._foreign_end() if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self._fail(error)
        if self._fates.is_hopeless:
            self._cancel()
        self._fill()

    def _foreign_end(self) -> StoppedError | None:
        """Return the error where a row was cancelled by others, as at the end of the loop."""
        if self._state != "open" or self._error is not None or self._fates.is_hopeless:
            return None
        return StoppedError("the run ended before its last row: a row was cancelled from outside")

    def _ended(self, row: RowToAsk, ended: Row[T], record: Record) -> None:
        """Write the line of a row, then hand it over; a row that was not asked has no line."""
        then = partial(self._deliver, row.place, ended, record)
        if self._output is None or row.error is not None:
            then()
        else:
            self._output.add(line_of(record), then)

    def _deliver(self, place: int, row: Row[T], record: Record) -> None:
        self._tally.add(record)
        self._ready.add(place, row)
        self._see_end()
        self._wake()

    def _see_end(self) -> None:
        """End the run where nothing is under way and nothing more will be."""
        if self._state != "open" or self._tasks or self._source is None:
            return
        stopped = self._error or self._fates.stopped
        if stopped is None and (self._put_off or not self._source.is_over):
            return
        if self._output is not None and not self._output.is_idle and self._error is None:
            return
        self._state = "ended"
        self._error = stopped or self._source.error
        self._ready.flush()
        self._wake()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _fail(self, error: Exception) -> None:
        """End the run with an error, and all that is under way."""
        self._error = self._error or error
        self._cancel()
        self._see_end()

    def _cancel(self) -> None:
        for task in () if self._loop.is_closed() else self._tasks:
            task.cancel()

    def _close(self) -> None:
        """End everything now; synchronous, so that a second cancellation cannot break it."""
        self._state = "closed"
        if self._timer is not None:
            self._timer.cancel()
        self._cancel()
        if self._source is not None:
            self._source.close()
        if self._output is not None:
            self._output.close()
