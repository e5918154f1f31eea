"""Runs tools: plain ones in threads, async ones in tasks; what does not end is left behind."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import logging
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

from aiollm._time_limits import wait
from aiollm.errors import OutputError

Bound: TypeAlias = Callable[[], Any]
"""A tool's function with its arguments."""

GRACE = 5.0
"""Seconds in which an async tool may clean up after its cancellation."""

OVERRAN = "the tool's time is up"
"""What a tool's CancelledError says if its deadline cancelled it, and not whoever runs it."""

_log = logging.getLogger("aiollm")


class Outcome(msgspec.Struct, frozen=True):
    """What a tool returned, or the error that it raised and what to tell the model about it."""

    value: Any = None
    error: BaseException | None = None
    reason: str = ""


class ToolRunner:
    """Runs the tools of a registry's runs on one event loop.

    Plain functions get daemon threads of their own: in asyncio's default executor hung ones would
    keep name lookups waiting, and the interpreter from ending.
    """

    def __init__(self, threads: int) -> None:
        """Allow so many threads at a time; belong to the running loop."""
        self.loop = asyncio.get_running_loop()
        self._threads = threads
        self._free = asyncio.Semaphore(threads)
        self._left: Counter[str] = Counter()
        self._ignoring: set[asyncio.Task[Any]] = set()

    async def run(self, name: str, bound: Bound, seconds: float | None) -> Outcome:
        """Run a tool for at most `seconds`. Raises: CancelledError, KeyboardInterrupt."""
        task = asyncio.create_task(self._contained(name, bound))
        try:
            await wait(task, seconds)
        except asyncio.CancelledError:
            await self._stop(name, task)
            raise
        if not task.done():
            has_ended = await self._stop(name, task, OVERRAN)
            why = "" if has_ended else "; it ignores its cancellation and was left running"
            reason = f"no result within {seconds:g} s{why}"
            return Outcome(error=TimeoutError(reason), reason=reason)
        if task.cancelled():  # the tool raised it, or something that it waited for was cancelled
            return Outcome(error=asyncio.CancelledError(), reason="the tool was cancelled")
        return task.result()

    async def _contained(self, name: str, bound: Bound) -> Outcome:
        """Run a tool; let nothing out but cancellation and Ctrl-C."""
        function = bound.func if isinstance(bound, functools.partial) else bound
        try:
            value = bound() if is_async(function) else await self._in_thread(name, bound)
            return Outcome(await value if inspect.isawaitable(value) else value)
        except (asyncio.CancelledError, KeyboardInterrupt):
            raise
        except _Raised as raised:
            if isinstance(raised.error, KeyboardInterrupt):
                raise raised.error from None
            return _failure(raised.error)
        except BaseException as error:  # noqa: BLE001 - exit() in a tool must not end the service
            return _failure(error)

    async def _stop(self, name: str, task: asyncio.Task[Any], why: str | None = None) -> bool:
        """Cancel a tool, and give it time to clean up; return whether it has ended."""
        task.cancel(why)
        self._ignoring.add(task)  # asyncio holds tasks weakly
        task.add_done_callback(self._ignoring.discard)
        await wait(task, GRACE)
        if not task.done():
            _log.warning("tool %r ignores its cancellation: it was left running", name)
        return task.done()

    async def _in_thread(self, name: str, bound: Bound) -> Any:
        if self._left[name] * 2 >= self._threads:
            raise OutputError(
                f"not run: {self._left[name]} earlier calls of it overran and still run"
            )
        await self._free.acquire()
        outcome: asyncio.Future[Any] = self.loop.create_future()
        work = functools.partial(self._work, name, bound, outcome)
        context = contextvars.copy_context()
        thread = threading.Thread(
            target=context.run, args=(work,), name=f"aiollm tool {name}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            self._free.release()
            raise OutputError(f"not run: {error}") from None
        try:
            return await outcome
        except asyncio.CancelledError:
            if not outcome.cancelled():
                outcome.exception()  # it has just ended: nothing is left, and nobody asks for it
                raise
            self._left[name] += 1
            _log.info("tool %r overran or was cancelled: its thread was left running", name)
            raise

    def _work(self, name: str, bound: Bound, outcome: asyncio.Future[Any]) -> None:
        """Run a tool in its thread."""
        value, error = None, None
        try:
            value = bound()
        except BaseException as raised:  # noqa: BLE001 - as above
            error = _Raised(raised)
        try:
            self.loop.call_soon_threadsafe(self._ended, name, outcome, value, error)
        except RuntimeError:
            return  # the loop has been closed: nobody waits

    def _ended(
        self, name: str, outcome: asyncio.Future[Any], value: Any, error: _Raised | None
    ) -> None:
        self._free.release()
        if outcome.done():
            self._left[name] -= 1
        elif error is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(value)


class _Raised(Exception):
    """Carries any error out of a thread; a future refuses StopIteration."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


def _failure(error: BaseException) -> Outcome:
    name = type(error).__name__
    try:
        reason = error.message if isinstance(error, OutputError) else f"{name}: {error}"
    except Exception:  # noqa: BLE001 - a foreign error's own fault, and no reason to end the run
        reason = name
    return Outcome(error=error, reason=reason)


def is_async(function: Any) -> bool:
    """Return whether calling a tool's function gives a coroutine."""
    return inspect.iscoroutinefunction(called(function))


def called(function: Any) -> Any:
    """Return the function or method that runs when a callable is called."""
    while isinstance(function, functools.partial):
        function = function.func
    return function if inspect.isroutine(function) else type(function).__call__
