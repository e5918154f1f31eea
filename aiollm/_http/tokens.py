"""Tokens: keeps what callables give until it expires; many callers share one flight."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import msgspec

from aiollm._time_limits import wait
from aiollm._wire.tokens import DynamicToken
from aiollm.dsn import Secret
from aiollm.errors import ClosedError, LocalError

MARGIN = 60.0
"""Seconds before its expiry from which a token is not used; at most a tenth of its life."""

UNKNOWN_LIFE = 60.0
"""Seconds to keep a token without an expiry: callables that give one often keep it themselves."""

SHOWN = 300
"""Characters of a callable's own error that a message shows."""


class _Kept(msgspec.Struct, frozen=True):
    secret: Secret
    until: float


class _Flight:
    """A call of a callable, and how many wait for it."""

    __slots__ = ("can_stop", "task", "waiting")

    def __init__(self, task: asyncio.Task[_Kept | LocalError], *, can_stop: bool) -> None:
        self.task = task
        self.can_stop = can_stop
        self.waiting = 0


class Tokens:
    """The tokens of a registry's callables."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Call nothing yet."""
        self._clock = clock
        self._kept: dict[DynamicToken, _Kept] = {}
        self._flights: dict[DynamicToken, _Flight] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closed = False

    async def get(
        self, source: DynamicToken, seconds: float | None, refused: Secret | None = None
    ) -> Secret:
        """Return a token that is not `refused`, waiting `seconds` at most for a new one.

        Raises: LocalError, ClosedError.
        """
        kept = self._kept.get(source)
        if kept is not None and self._clock() < kept.until and kept.secret != refused:
            return kept.secret
        flight = self._flight(source)
        flight.waiting += 1
        try:
            # Neither the end of this wait nor its cancellation ends the flight of the others.
            await wait(flight.task, seconds)
        finally:
            flight.waiting -= 1
            if flight.can_stop and not flight.waiting and not flight.task.done():
                self._abandon(source, flight)
        return self._result(flight, seconds)

    def _abandon(self, source: DynamicToken, flight: _Flight) -> None:
        """End a flight that nobody waits for, and let no later caller join it."""
        flight.task.cancel()
        if self._flights.get(source) is flight:
            del self._flights[source]

    def _result(self, flight: _Flight, seconds: float | None) -> Secret:
        if self._is_closed:
            raise ClosedError("the registry is closed")
        if not flight.task.done():
            raise LocalError(f"the token callable gave no token within {seconds:g} s (connect)")
        if flight.task.cancelled():
            raise LocalError("the token callable was cancelled")
        match flight.task.result():
            case LocalError(message=reason, may_retry=may_retry):
                # A new one for each caller: errors get a target and a traceback.
                raise LocalError(reason, may_retry=may_retry)
            case _Kept(secret=secret):
                return secret

    def _flight(self, source: DynamicToken) -> _Flight:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._flights.clear()  # nobody waits on the earlier loop any more
            self._loop = loop
        flight = self._flights.get(source)
        if flight is None or flight.task.done():
            can_stop = _is_async(source.call)
            task = loop.create_task(self._fly(source, in_thread=not can_stop))
            flight = self._flights[source] = _Flight(task, can_stop=can_stop)
        return flight

    async def _fly(self, source: DynamicToken, *, in_thread: bool) -> _Kept | LocalError:
        """Call once; return the token or what is wrong, so that no error is left unread."""
        try:
            value = await _in_own_thread(source.call) if in_thread else source.call()
            if inspect.isawaitable(value):
                value = await value
            secret, expires = source.read(value)
        except LocalError as error:
            return LocalError(error.message, may_retry=error.may_retry)
        except Exception as error:  # noqa: BLE001 - whatever a user's function raises
            said = "".join(char if char.isprintable() else " " for char in str(error)[:SHOWN])
            kind = type(error).__name__
            return LocalError(f"the token callable raised {kind}: {source.redact(said)}")
        life = UNKNOWN_LIFE if expires is None else expires - time.time()
        margin = 0.0 if expires is None else min(MARGIN, max(life, 0.0) / 10)
        # One that has expired by this machine's clock is tried once: the clock may be wrong.
        kept = self._kept[source] = _Kept(secret, self._clock() + life - margin)
        return kept

    async def aclose(self) -> None:
        """End all flights; their callers get a ClosedError."""
        self.kill()

    def kill(self) -> None:
        """End all flights, without a running loop."""
        self._is_closed = True
        if self._loop is not None and not self._loop.is_closed():
            for flight in self._flights.values():
                flight.task.cancel()
        self._flights.clear()


def _is_async(call: Callable[[], object]) -> bool:
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(
        getattr(call, "__call__", None)  # noqa: B004 - of an object, what is called
    )


async def _in_own_thread(call: Callable[[], object]) -> object:
    """Call a function that may block in a thread of its own.

    In the loop's pool, one that hangs would hold up the lookups of host names, and the end of the
    program.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[tuple[object, BaseException | None]] = loop.create_future()
    context = contextvars.copy_context()

    def settle(value: object, error: BaseException | None) -> None:
        if not answer.done():
            answer.set_result((value, error))

    def work() -> None:
        value, failure = None, None
        try:
            value = context.run(call)
        except BaseException as error:  # noqa: BLE001 - the caller reports it
            failure = error
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, value, failure)

    threading.Thread(target=work, name="aiollm-token", daemon=True).start()
    value, error = await answer
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        raise error
    if error is not None:
        raise RuntimeError(type(error).__name__)
    return value
