"""A start that is broken off, at each step that any of its tasks takes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from aiollm import ClosedError
from tests.broken_off import cancelled_everywhere


class Stepped(Coroutine[Any, Any, Any]):
    """A coroutine that tells of each of its steps."""

    def __init__(self, inner: Coroutine[Any, Any, Any], told: Callable[[], None]) -> None:
        self._inner = inner
        self._told = told

    def send(self, value: Any) -> Any:
        self._told()
        return self._inner.send(value)

    def throw(self, *error: Any) -> Any:
        self._told()
        return self._inner.throw(*error)

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Any:
        return self._inner.__await__()


async def steps_of(make: Callable[[], Any], at: int, then: Callable[[], None]) -> int:
    """Return how many steps all tasks took until one ended; call `then` in the given one."""
    loop = asyncio.get_running_loop()
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        if count == at:
            loop.call_soon(then)

    loop.set_task_factory(lambda _, coro, **more: asyncio.Task(Stepped(coro, step), **more))
    try:
        await asyncio.wait((make(),))
    finally:
        loop.set_task_factory(None)
    return count


@pytest.mark.parametrize("how", ["close", "cancel", "cancel the close"])
async def test_a_start_that_is_broken_off_at_any_step_leaves_nothing(served, how):
    at, steps = 0, 1
    while at <= steps:
        at += 1
        server = served()
        before = asyncio.all_tasks()
        tasks = []

        def start(server=server, tasks=tasks):
            tasks.append(asyncio.ensure_future(server.start()))
            return tasks[0]

        def break_off(server=server, tasks=tasks):
            if how == "cancel":
                tasks[0].cancel()
                return
            tasks.append(asyncio.ensure_future(server.aclose()))
            if how == "cancel the close":
                asyncio.get_running_loop().call_soon(tasks[-1].cancel)

        taken = await steps_of(start, at, break_off)
        steps = max(steps, taken)
        await server.aclose()  # once more, unless only the start was cancelled
        transport = getattr(server._connection, "_transport", None)  # None while modules load
        child = getattr(transport, "child", None)
        assert child is None or not child._was_begun or child._gone.done(), at
        await asyncio.wait(tasks)
        assert tasks[0].cancelled() or isinstance(tasks[0].exception(), ClosedError | None), at
        assert asyncio.all_tasks() <= before, at
    assert steps >= 20


@pytest.mark.parametrize("times", [1, 2])
async def test_a_call_that_is_broken_off_before_any_callback_leaves_the_server_to_others(
    served, times
):
    server = served()

    async def call():
        await server.call("echo", {"text": "x"})

    async def check():
        await call()
        return server.status.starts - 1

    await call()
    await cancelled_everywhere(call, check, times=times)
    await server.aclose()
