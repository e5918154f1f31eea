"""Leaving early: every way out closes the connection at once; complete streams reuse one."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import threading

import msgspec
import pytest

from aiollm import (
    ClosedError,
    ConfigError,
    Finish,
    Registry,
    StreamInterrupted,
    TextDelta,
    Timeouts,
)
from aiollm._http import transport
from aiollm.provider import HttpRequest, Operation
from aiollm.testing import Gate, Hang, Stale, Unsolicited, chat

pytestmark = pytest.mark.loops

OK = chat("Hel", "lo")


def endless() -> tuple[Gate, object]:
    gate = Gate()
    return gate, chat("first", gate, "never")


async def test_break_out_of_a_stream_that_nobody_holds(serve, registry):
    server = await serve(endless()[1])
    reg = registry({"a": server})
    async for _ in reg.stream("a/m", "hi"):
        break
    await server.wait_closed()
    assert server.counts.open == 0


async def test_leaving_the_async_with(serve, registry):
    server = await serve(endless()[1])
    async with registry({"a": server}).stream("a/m", "hi") as stream:
        async for _ in stream:
            break
    await server.wait_closed()


async def test_aclose_of_a_held_stream(serve, registry):
    server = await serve(endless()[1])
    stream = registry({"a": server}).stream("a/m", "hi")
    async for _ in stream:
        break
    assert server.counts.open == 1
    await stream.aclose()
    await stream.aclose()
    await server.wait_closed()
    assert stream.partial.text == "first"
    with pytest.raises(ClosedError):
        _ = stream.response


async def test_cancellation_of_the_reader(serve, registry):
    gate, script = endless()
    server = await serve(script)
    stream = registry({"a": server}).stream("a/m", "hi")
    task = asyncio.create_task(stream.collect())
    await gate.reached()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await server.wait_closed()
    assert task.cancelling() == 1


async def test_an_error_in_the_body_of_the_loop(serve, registry):
    server = await serve(endless()[1])
    with pytest.raises(ZeroDivisionError):
        async with registry({"a": server}).stream("a/m", "hi") as stream:
            async for _ in stream:
                raise ZeroDivisionError
    await server.wait_closed()


async def test_dropping_a_stream_needs_no_garbage_collector(serve, registry):
    server = await serve(endless()[1])
    reg = registry({"a": server})
    gc.disable()
    try:
        stream = reg.stream("a/m", "hi")
        await anext(stream)
        del stream
        await server.wait_closed()
    finally:
        gc.enable()


async def test_aclose_from_another_task_ends_the_reader(serve, registry):
    gate, script = endless()
    server = await serve(script)
    stream = registry({"a": server}).stream("a/m", "hi")

    async def read() -> list[str]:
        return [chunk.text async for chunk in stream]

    task = asyncio.create_task(read())
    await gate.reached()
    await stream.aclose()
    assert await task == ["first"]
    assert task.cancelling() == 0
    await server.wait_closed()


async def test_two_tasks_cannot_read_one_stream(serve, registry):
    gate, script = endless()
    server = await serve(script)
    stream = registry({"a": server}).stream("a/m", "hi")
    task = asyncio.create_task(stream.collect())
    await gate.reached()
    with pytest.raises(ClosedError, match="another task"):
        await anext(stream)
    await stream.aclose()
    with pytest.raises(ClosedError):
        await task


async def test_a_second_cancellation_during_teardown_leaks_nothing(serve, registry):
    gate, script = endless()
    server = await serve(script)
    reg = registry({"a": server})
    task = asyncio.create_task(reg.stream("a/m", "hi").collect())
    await gate.reached()
    task.cancel()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await server.wait_closed()
    assert [(h.succeeded, h.failed) for h in reg.health()] == [(0, 0)]


async def test_cancellation_before_the_headers(serve, registry):
    gate = Gate()
    server = await serve(Hang(gate=gate))
    task = asyncio.create_task(registry({"a": server}).stream("a/m", "hi").collect())
    await gate.reached()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await server.wait_closed()


async def test_abandoned_is_neither_success_nor_failure(serve, registry):
    server = await serve(endless()[1])
    reg = registry({"a": server})
    async with reg.stream("a/m", "hi") as stream:
        await anext(stream)
    (health,) = reg.health()
    assert (health.state, health.succeeded, health.failed) == ("healthy", 0, 0)
    assert [attempt.outcome for attempt in stream.attempts] == ["abandoned"]


@pytest.fixture
def patient(monkeypatch):
    """Wait long for the end of an answer: its server shares the loop, and its pauses."""
    monkeypatch.setattr(transport, "DRAIN_SECONDS", 5.0)


@pytest.mark.usefixtures("patient")
async def test_a_hundred_complete_streams_use_one_connection(serve, registry):
    server = await serve(OK)
    reg = registry({"a": server})
    for _ in range(100):
        await reg.stream("a/m", "hi").collect()
    assert server.counts.opened == 1
    assert server.counts.requests == 100


async def test_breaking_at_the_finish_still_returns_the_connection(serve, registry):
    server = await serve(OK)
    reg = registry({"a": server})
    for _ in range(5):
        async for chunk in reg.stream("a/m", "hi"):
            if type(chunk).__name__ == "Finish":
                break
    assert server.counts.requests == 5
    assert [(h.succeeded, h.failed) for h in reg.health()] == [(5, 0)]


async def test_a_stale_connection_is_replaced_once_unseen(serve, registry):
    server = await serve(Stale(OK), OK)
    reg = registry({"a": server})
    await reg.stream("a/m", "hi").collect()
    response = await reg.stream("a/m", "hi").collect()
    assert response.text == "Hello"
    assert len(response.attempts) == 1
    assert [(h.succeeded, h.failed) for h in reg.health()] == [(2, 0)]


@pytest.mark.usefixtures("patient")
async def test_an_unsolicited_answer_is_never_taken_for_the_next_one(serve, registry):
    gate = Gate()
    server = await serve(Unsolicited(OK, chat("EVIL"), gate), OK)
    reg = registry({"a": server})
    await reg.stream("a/m", "hi").collect()
    gate.open()
    (idle,) = [
        each
        for pool in reg._resources._transport._session.connector._conns.values()
        for each in pool
    ]
    while not idle[0].should_close:
        await asyncio.sleep(0)
    response = await reg.stream("a/m", "hi").collect()
    assert response.text == "Hello"


async def test_no_task_outlives_a_stream(serve, registry):
    server = await serve(OK)
    reg = registry({"a": server})
    await reg.stream("a/m", "hi").collect()
    mine = [task for task in asyncio.all_tasks() if "aiollm" in repr(task.get_coro())]
    assert [task for task in mine if "testing" not in repr(task)] == []


def test_one_registry_per_loop_works_and_one_for_two_loops_is_rebound():
    async def ask(reg: Registry, server_text: str) -> str:
        from aiollm.testing import FaultServer

        async with FaultServer(chat(server_text)) as server:
            reg.register("a", f"openai+{server.url}/v1")
            return (await reg.stream("a/m", "hi").collect()).text

    async def own(text: str) -> str:
        async with Registry(env={}) as reg:
            return await ask(reg, text)

    assert [asyncio.run(own(text)) for text in "xyz"] == ["x", "y", "z"]

    shared = Registry(env={})
    assert asyncio.run(ask(shared, "one")) == "one"
    assert asyncio.run(ask(shared, "two")) == "two"
    asyncio.run(shared.aclose())


async def test_a_registry_in_use_on_another_running_loop_says_so(serve, registry):
    server = await serve(OK)
    reg = registry({"a": server})
    await reg.stream("a/m", "hi").collect()

    def other() -> None:
        async def use() -> None:
            await reg.stream("a/m", "hi").collect()

        asyncio.run(use())

    with pytest.raises(ConfigError, match="another event loop"):
        await asyncio.to_thread(other)


async def test_what_is_in_use_on_another_running_loop_is_read_and_closed_there(serve, registry):
    server = await serve(endless()[1])
    reg = registry({"a": server})
    stream = reg.stream("a/m", "hi")
    first = await anext(stream)

    idle = threading.Event()

    async def read() -> None:
        idle.wait()
        await anext(stream)

    # While a task runs on the stream's loop, it would be taken for the one that reads.
    asyncio.get_running_loop().call_soon(idle.set)
    with pytest.raises(ClosedError, match="on the event loop that began it"):
        await asyncio.to_thread(lambda: asyncio.run(read()))
    with pytest.raises(ConfigError, match="in use on another event loop"):
        await asyncio.to_thread(lambda: asyncio.run(reg.aclose()))
    assert (first.text, server.counts.open) == ("first", 1)
    await stream.aclose()
    await reg.aclose()
    await asyncio.to_thread(lambda: asyncio.run(reg.aclose()))  # it is closed, wherever


async def test_a_closed_registry_says_so(serve, registry):
    server = await serve(OK)
    reg = registry({"a": server})
    await reg.aclose()
    with pytest.raises(ClosedError):
        await reg.stream("a/m", "hi").collect()


async def test_closing_the_registry_ends_running_streams_with_an_error(serve, registry):
    gate, script = endless()
    server = await serve(script)
    reg = registry({"a": server})
    task = asyncio.create_task(reg.stream("a/m", "hi").collect())
    await gate.reached()
    await reg.aclose()
    with pytest.raises(StreamInterrupted) as caught:
        await task
    assert caught.value.partial.text == "first"
    await server.wait_closed()


async def test_the_callers_pause_is_not_the_servers_silence(serve, registry):
    server = await serve(OK)
    reg = registry({"a": server}, timeouts=Timeouts(idle=0.5, stall=0.5))
    stream = reg.stream("a/m", "hi")
    await anext(stream)
    await asyncio.sleep(0.6)
    assert (await anext(stream)).text == "lo"
    await stream.aclose()


def noting(closed):
    """Return an adapter that notes when it is closed."""

    async def adapter(provider, transport, target, request, timeouts):
        try:
            yield [TextDelta("first")]
            yield [TextDelta("second")]
        finally:
            closed.append(target)

    return adapter


async def test_an_adapter_is_closed_at_once_without_a_turn_of_the_loop(registry):
    closed = []
    reg = registry({"a": "http://127.0.0.1:1"})
    operations = {"chat": Operation(adapter=noting(closed))}
    reg.register("a", msgspec.structs.replace(reg.provider("a"), operations=operations))
    stream = reg.stream("a/m", "hi")
    await anext(stream)
    await stream.aclose()
    assert len(closed) == 1
    stream = reg.stream("a/m", "hi")
    await anext(stream)
    del stream
    assert len(closed) == 2
    hooks, tasks = sys.get_asyncgen_hooks(), asyncio.all_tasks()
    async for _ in reg.stream("a/m", "hi"):
        break
    assert len(closed) == 3
    assert sys.get_asyncgen_hooks() == hooks
    assert asyncio.all_tasks() == tasks


async def three_at_once(provider, transport, target, request, timeouts):
    yield [TextDelta("one"), TextDelta("two"), TextDelta("three"), Finish("stop")]


@pytest.fixture
def at_once(registry):
    """A stream whose chunks all come at once."""
    reg = registry({"a": "http://127.0.0.1:1"})
    operations = {"chat": Operation(adapter=three_at_once)}
    reg.register("a", msgspec.structs.replace(reg.provider("a"), operations=operations))
    return reg.stream("a/m", "hi")


async def test_a_closed_stream_gives_nothing_of_what_came_together(at_once):
    got = []
    async for chunk in at_once:
        got.append(chunk.text)
        await at_once.aclose()
    assert got == ["one"]
    assert await anext(at_once, None) is None


async def test_a_stream_goes_on_where_a_loop_over_it_was_left(at_once):
    async for chunk in at_once:
        assert chunk.text == "one"
        break
    assert (await anext(at_once)).text == "two"
    assert [chunk.text async for chunk in at_once] == ["three", ""]
    assert [chunk async for chunk in at_once] == []


async def test_a_loop_gives_what_anext_or_another_loop_left_of_a_read(registry):
    async def pairs(provider, transport, target, request, timeouts):
        yield [TextDelta("1"), TextDelta("2")]
        yield [TextDelta("3"), TextDelta("4"), TextDelta("5")]
        yield [TextDelta("6"), TextDelta("7"), Finish("stop")]

    reg = registry({"a": "http://127.0.0.1:1"})
    operations = {"chat": Operation(adapter=pairs)}
    reg.register("a", msgspec.structs.replace(reg.provider("a"), operations=operations))
    stream, got = reg.stream("a/m", "hi"), []
    async for chunk in stream:
        got.append(chunk.text)
        if chunk.text == "2":
            got.append((await anext(stream)).text)
        if chunk.text == "5":
            async for inner in stream:
                got.append(inner.text)
                break
    assert got == ["1", "2", "3", "4", "5", "6", "7", ""]


async def test_closing_a_registry_ends_everything_even_when_one_part_fails(registry):
    ended = []

    class Part:
        def __init__(self, name, fails=False):
            self.name, self.fails = name, fails

        async def aclose(self):
            if self.fails:
                raise OSError(self.name)
            ended.append(f"closed {self.name}")

        def kill(self):
            ended.append(f"killed {self.name}")

    reg = registry({})
    for part in (Part("one"), Part("two", fails=True), Part("three")):
        reg.own(part)
    with pytest.raises(OSError, match="two"):
        await reg.aclose()
    assert ended == ["closed three", "killed one", "killed two"]


async def test_preloading_sends_nothing(serve, registry):
    server = await serve(OK)
    reg = registry({"a": server})
    await reg.preload()
    await reg.preload("a/m")
    assert server.counts.opened == 0
    assert (await reg.generate("a/m", "hi")).text == "Hello"


async def test_an_adapter_whose_teardown_fails_gives_its_slot_back():
    async def adapter(provider, transport, target, request, timeouts):
        try:
            yield [TextDelta("first")]
            yield [TextDelta("second")]
        finally:
            raise ValueError("its teardown is broken")

    async with Registry(env={"LLM_A": "openai+http://127.0.0.1:1?max_concurrency=1"}) as reg:
        operations = {"chat": Operation(adapter=adapter)}
        reg.register("a", msgspec.structs.replace(reg.provider("a"), operations=operations))
        stream = reg.stream("a/m", "hi")
        await anext(stream)
        await stream.aclose()
        assert reg.limits()[0].held == 0
        assert [each.outcome for each in stream.attempts] == ["abandoned"]


async def test_the_collector_may_end_a_request_in_the_context_of_anyone(serve, registry):
    """As it does where a loop is closed under a call: nothing is raised that nobody can catch."""
    gate = Gate()
    server = await serve(Hang(gate=gate))
    reg = registry({"a": server})
    request = HttpRequest(f"{server.url}/v1/models", {}, method="GET")
    task = asyncio.create_task(reg._resources.send(request, 5.0))
    await gate.reached()
    contextvars.copy_context().run(task.get_coro().close)
    await server.wait_closed()
    task.cancel()
    await asyncio.wait([task])
    assert isinstance(task.exception(), RuntimeError), "its coroutine has ended"
