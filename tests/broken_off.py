"""Cancels a call before each callback of its event loop in turn, and looks at what is left."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from aiollm import FailoverError, LLMError, Registry
from tests.loops import FACTORIES

STUCK = 10.0
"""Seconds after which a call that was cancelled will not end any more."""

SETTLES = 5.0
"""Seconds in which what is closing has to be gone, also where no CPU is free."""


async def cancelled_everywhere(
    call: Callable[[], Awaitable[Any]],
    check: Callable[[], Awaitable[object]] | None = None,
    *,
    times: int = 1,
    least: int = 1,
) -> None:
    """Cancel a call before each of its callbacks in turn, until it ends by itself.

    `times`: how many callbacks in a row cancel it. Each time its cancellation comes through, no
    task is left, and `check` returns nothing else that is wrong. `least`: callbacks that it takes.
    """
    at = 0
    while await _is_cancelled_at(call, at, times):
        if check is not None:
            found = await check()
            assert not found, f"cancelled before callback {at}: {found}"
        at += 1
    assert at >= least, f"it was over after {at} callbacks"


async def cancelled_and_repeated(
    call: Callable[[], Awaitable[Any]],
    reg: Registry,
    *,
    is_busy: Callable[[], object] = lambda: False,
    times: int = 1,
    least: int = 1,
) -> None:
    """Cancel a call everywhere: each time its registry holds nothing, and it can be made again.

    `is_busy` says whether anything else still runs. The first of all calls is not cancelled.
    """

    async def check() -> list[str]:
        found = await held(reg)
        if is_busy():
            found.append("something still runs")
        await call()
        return found

    await call()
    await cancelled_everywhere(call, check, times=times, least=least)


async def _is_cancelled_at(call: Callable[[], Awaitable[Any]], at: int, times: int) -> bool:
    """Cancel a call before its callback number `at`; return whether it was not over by then."""
    before = asyncio.all_tasks()

    task = asyncio.get_running_loop().create_task(_awaited(call))
    left, was_cancelled = at, False
    cancelled = [task]

    def look() -> None:
        nonlocal left, was_cancelled
        if -times < left <= 0:
            was_cancelled = cancelled[0].cancel() or was_cancelled
        left -= 1

    with before_callbacks(look):
        await asyncio.wait((task,), timeout=STUCK)
    cancelled.clear()  # `look` may live on, but not the frames of the call's error
    assert task.done(), f"cancelled before callback {at}, it does not end: {task!r}"
    if not was_cancelled:
        task.result()
        return False
    assert task.cancelled(), f"cancelled before callback {at}, it ended with {_end(task)}"
    await settled(lambda: not _tasks_since(before))
    assert not (tasks := _tasks_since(before)), f"cancelled before callback {at}, it left {tasks}"
    return True


async def held(reg: Registry) -> list[str]:
    """Return what a registry's calls still hold after a moment."""
    await settled(lambda: not _held(reg))
    return _held(reg)


def _held(reg: Registry) -> list[str]:
    found = [
        f"{each.target}: {each.held} slots, {each.waiting} waiting"
        for each in reg.limits()
        if each.held or each.waiting
    ]
    found += [
        f"{each.target}: {each.running} running, {each.pending} pending"
        for each in reg._gate._lines.values()
        if each.tickets or each.running or each.pending
    ]
    transport = reg._resources._transport
    if transport is not None:
        found += [f"open: {each}" for each in transport._replies]
        sessions = (transport._session, transport._fresh)
        for connector in (each.connector for each in sessions if each is not None):
            found += [f"acquired: {each}" for each in connector._acquired]
    return found


async def closed_everywhere(
    make: Callable[[], Awaitable[tuple[Callable[[], Awaitable[Any]], Callable[[], Any]]]],
    check: Callable[[], Awaitable[object]],
) -> None:
    """Close what a call needs before each of its callbacks in turn, until it ends by itself.

    `make` returns a call and what closes it, in a task of its own. The call ends with its result
    or an error of ours, no task is left, and `check` returns nothing else that is wrong.
    """
    at, was_closed = 0, True
    while was_closed:
        call, close = await make()
        before = asyncio.all_tasks()
        task = asyncio.get_running_loop().create_task(_awaited(call))
        closing: list[asyncio.Task[Any]] = []
        left = at

        def look(task: asyncio.Task[Any] = task, close: Callable[[], Any] = close) -> None:
            nonlocal left
            if left == 0 and not task.done():
                closing.append(task.get_loop().create_task(_awaited(close)))  # noqa: B023
            left -= 1

        with before_callbacks(look):
            await asyncio.wait((task, *closing), timeout=STUCK)
        assert task.done(), f"closed before callback {at}, it does not end: {task!r}"
        for each in closing:
            await each
        assert isinstance(task.exception(), LLMError | FailoverError | None), at
        await settled(lambda: not _tasks_since(before))  # noqa: B023
        assert not (tasks := _tasks_since(before)), f"closed before callback {at}, it left {tasks}"
        found = await check()
        assert not found, f"closed before callback {at}: {found}"
        at, was_closed = at + 1, bool(closing)


async def _awaited(call: Callable[[], Awaitable[Any]]) -> Any:
    return await call()


@contextlib.contextmanager
def before_callbacks(look: Callable[[], None]) -> Iterator[None]:
    """Call `look` before each callback that asyncio runs: steps of tasks, reads, timers.

    uvloop does not show its reads, which only ever lead to steps of tasks.
    """
    loop: Any = asyncio.get_running_loop()
    if isinstance(loop, FACTORIES.get("uvloop", ())):
        loop.look = look
        try:
            yield
        finally:
            loop.look = None
        return
    run = asyncio.Handle._run

    def looked_at(handle: asyncio.Handle) -> None:
        look()
        run(handle)

    asyncio.Handle._run = looked_at  # type: ignore[method-assign]
    try:
        yield
    finally:
        asyncio.Handle._run = run  # type: ignore[method-assign]


async def settled(is_settled: Callable[[], bool]) -> None:
    """Let the loop turn until something is so, for a moment at most."""
    loop = asyncio.get_running_loop()
    end = loop.time() + SETTLES
    while not is_settled() and loop.time() < end:
        await asyncio.sleep(0)


def _tasks_since(before: set[asyncio.Task[Any]]) -> list[asyncio.Task[Any]]:
    """Return the new tasks that run, without those of the test's servers."""
    return [each for each in asyncio.all_tasks() - before if not (each.done() or _serves(each))]


def _serves(task: asyncio.Task[Any]) -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and "aiollm/testing/" in code.co_filename


def _end(task: asyncio.Task[Any]) -> str:
    error = task.exception()
    return f"the result {task.result()!r:.200}" if error is None else f"{error!r:.500}"
