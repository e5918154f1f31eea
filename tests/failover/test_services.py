"""Streams inside services: a heartbeat, an answer that is ready, and reads that were cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref

import pytest

from aiollm import (
    ClosedError,
    ConfigError,
    DeadlineError,
    FailoverError,
    Registry,
    Status,
    StreamInterrupted,
    TextDelta,
    Timeouts,
    tool,
)
from aiollm.codecs import Operation
from aiollm.testing import Answer, FakeProvider, Gate, Hang, chat, tool_call

OK = chat("Hel", "lo")
FAILING = Answer(500, {}, {"error": {"message": "no"}})


async def read_some(stream, seconds=0.01):
    return await asyncio.wait_for(anext(stream), seconds)


@pytest.mark.parametrize("iterator", [lambda stream: stream, aiter], ids=["stream", "aiter"])
async def test_reading_on_after_a_cancelled_read_is_an_error_with_the_partial(
    serve, registry, iterator
):
    gate = Gate()
    server = await serve(chat("Do not ", gate, "delete"))
    async with registry({"a": server}).stream("a/m", "hi") as stream:
        chunks = iterator(stream)
        await anext(chunks)
        with pytest.raises(TimeoutError):
            await read_some(chunks)
        gate.open()
        for _ in range(2):
            with pytest.raises(StreamInterrupted, match=r"cancelled.*heartbeat") as caught:
                await anext(chunks)
            assert caught.value.partial.text == "Do not "
            assert str(caught.value.target) == "a/m"
        with pytest.raises(StreamInterrupted):
            await stream.collect()


async def test_reading_on_in_a_run_after_a_cancelled_read_is_an_error(serve, registry):
    server = await serve(chat("a", Gate(), "b"))
    async with registry({"a": server}).run("a/m", "hi", tools=[]) as run:
        await anext(run)
        with pytest.raises(TimeoutError):
            await read_some(run)
        with pytest.raises(StreamInterrupted, match="this run"):
            await anext(run)


async def test_a_stream_that_was_closed_on_purpose_just_ends(serve, registry):
    server = await serve(chat("a", Gate(), "b"))
    stream = registry({"a": server}).stream("a/m", "hi")
    await anext(stream)
    await stream.aclose()
    assert [chunk async for chunk in stream] == []


async def test_a_heartbeat_loses_nothing(serve, registry):
    gate = Gate()
    server = await serve(chat("Hel", gate, "lo"))
    async with registry({"a": server}).stream("a/m", "hi") as stream:
        texts, beats = [(await anext(stream)).text], []  # however long that takes
        async for item in stream.heartbeat(0.01):
            texts.append(item.text)
            if type(item) is Status:
                beats.append(item.message)
                if len(beats) == 2:
                    gate.open()
        assert "".join(texts) == "Hello" == stream.response.text
        assert beats[:2] == ["nothing came for 0.01 s", "nothing came for 0.02 s"]


async def test_a_heartbeat_goes_on_while_a_tool_works():
    gate = asyncio.Event()

    @tool
    async def slow() -> str:
        """Work for long."""
        await gate.wait()
        return "done"

    def script(_, request):
        return "ok" if len(request.messages) > 1 else [tool_call("slow", {})]

    async with Registry(env={}) as reg:
        reg.register("fake", FakeProvider(default=script).provider())
        async with reg.run("fake/m", "hi", tools=[slow]) as run:
            async for item in run.heartbeat(0.01):
                if type(item) is Status:
                    gate.set()
        assert run.response.text == "ok"


async def test_deadlines_hold_during_a_heartbeat(serve, registry):
    server = await serve(chat("a", Gate()))
    async with registry({"a": server}).stream("a/m", "hi", timeouts=Timeouts(idle=0.1)) as stream:
        with pytest.raises(DeadlineError) as caught:
            async for _ in stream.heartbeat(0.03):
                pass
    assert caught.value.which == "idle"
    assert caught.value.partial.text == "a"


async def test_cancelling_a_heartbeat_closes_the_connection(serve, registry):
    server = await serve(chat("a", Gate(), "b"))
    stream = registry({"a": server}).stream("a/m", "hi")
    beats = stream.heartbeat(60)
    await anext(beats)
    with pytest.raises(TimeoutError):
        await read_some(beats)
    await server.wait_closed()
    with pytest.raises(StreamInterrupted):
        await anext(beats)


async def test_cancelling_a_heartbeat_waits_until_the_tools_are_gone():
    started, gone = asyncio.Event(), []

    @tool
    async def slow() -> str:
        """Work for long, and clean up for a while."""
        started.set()
        try:
            return await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(0.01)
            gone.append("slow")

    async def read(run):
        async for _ in run.heartbeat(60):
            pass

    async with Registry(env={}) as reg:
        reg.register("fake", FakeProvider(tool_call("slow", {})).provider())
        run = reg.run("fake/m", "hi", tools=[slow])
        reading = asyncio.create_task(read(run))
        await started.wait()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert gone == ["slow"]


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("waits", ["heartbeat", "ready"])
async def test_a_wait_that_is_cancelled_just_when_output_comes_closes_the_stream(waits, times):
    reading: asyncio.Task[object]
    closed = []

    async def answer(*_):
        try:
            await asyncio.sleep(0.01)
            reading.cancel()
            if times == 2:
                asyncio.get_running_loop().call_soon(reading.cancel)
            yield [TextDelta("a")]
            await asyncio.get_running_loop().create_future()
        finally:
            closed.append("answer")

    async with Registry(env={}) as reg:
        operations = {"chat": Operation(adapter=answer)}
        reg.register("fake", FakeProvider().provider(operations=operations))
        stream, left = reg.stream("fake/m", "hi"), asyncio.Event()
        wait = anext(stream.heartbeat(60)) if waits == "heartbeat" else stream.ready(left.wait())
        reading = asyncio.ensure_future(wait)
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert closed == ["answer"]
        with pytest.raises(StreamInterrupted):
            async for _ in stream:
                pass


async def test_dropping_a_heartbeat_closes_the_connection(serve, registry):
    server = await serve(chat("a", Gate(), "b"))
    gc.disable()
    try:
        async for item in registry({"a": server}).stream("a/m", "hi").heartbeat(0.01):
            if type(item) is Status and server.counts.requests:
                break
        await server.wait_closed()
    finally:
        gc.enable()


async def silence_after_text(beats):
    """Read until the server is silent; there may be a heartbeat before it is asked, too."""
    while not (await anext(beats)).text:
        pass
    while type(await anext(beats)) is not Status:
        pass


async def test_closing_the_stream_ends_its_heartbeat(serve, registry):
    server = await serve(chat("a", Gate(), "b"))
    stream = registry({"a": server}).stream("a/m", "hi")
    beats = stream.heartbeat(0.01)
    await silence_after_text(beats)
    await stream.aclose()
    await server.wait_closed()
    assert [item async for item in beats] == []


@pytest.mark.parametrize("kind", ["stream", "run"])
async def test_leaving_the_async_with_ends_a_heartbeat_that_is_held(serve, registry, kind):
    server = await serve(chat("a", Gate(), "b"))
    reg = registry({"a": server})
    source = reg.run("a/m", "hi", tools=[]) if kind == "run" else reg.stream("a/m", "hi")
    beats = source.heartbeat(0.01)
    async with source:
        await silence_after_text(beats)
    await server.wait_closed()
    assert [item async for item in beats] == []


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), "5", None, True])
def test_a_heartbeat_needs_seconds_above_0(seconds):
    with pytest.raises(ConfigError, match="heartbeat"):
        Registry(env={"LLM_A": "openai://k@h"}).stream("a/m", "hi").heartbeat(seconds)


async def test_ready_returns_at_the_first_output_and_loses_nothing(serve, registry):
    gate = Gate()
    server = await serve(chat("Hel", gate, "lo"))
    async with registry({"a": server}).stream("a/m", "hi") as stream:
        await stream.ready()
        await stream.ready()
        assert str(stream.target) == "a/m"
        assert stream.partial.text == "Hel"
        gate.open()
        assert [chunk.text async for chunk in stream][:2] == ["Hel", "lo"]
        assert stream.response.text == "Hello"
        await stream.ready()


async def test_collecting_after_ready_gives_the_answer(serve, registry):
    server = await serve(OK)
    async with registry({"a": server}).stream("a/m", "hi") as stream:
        await stream.ready()
        assert (await stream.collect()).text == "Hello"


async def test_ready_raises_what_failed(serve, registry):
    server = await serve(FAILING)
    async with registry({"a": server}).stream("a/m", "hi") as stream:
        with pytest.raises(FailoverError):
            await stream.ready()


async def test_ready_comes_after_failover(serve, registry):
    bad, good = await serve(FAILING), await serve(OK)
    async with registry({"a": bad, "b": good}).stream("a/m,b/m", "hi") as stream:
        await stream.ready()
        assert str(stream.target) == "b/m"


async def test_a_cancelled_ready_closes_the_connection(serve, registry):
    server = await serve(Hang())
    async with registry({"a": server}).stream("a/m", "hi") as stream:
        ready = asyncio.create_task(stream.ready())
        await server.wait_requests()
        ready.cancel()
        with pytest.raises(asyncio.CancelledError):
            await ready
        await server.wait_closed()
        with pytest.raises(StreamInterrupted):
            await stream.ready()


async def test_a_closed_stream_is_never_ready(serve, registry):
    server = await serve(OK)
    reg = registry({"a": server})
    for each in (reg.stream("a/m", "hi"), reg.run("a/m", "hi", tools=[])):
        await each.aclose()
        with pytest.raises(ClosedError, match="before its first output"):
            await each.ready()


async def test_a_run_is_ready_at_its_first_output(serve, registry):
    gate = Gate()
    server = await serve(chat("Hel", gate, "lo"))
    async with registry({"a": server}).run("a/m", "hi", tools=[]) as run:
        await run.ready()
        gate.open()
        assert "".join([event.text async for event in run]) == "Hello"
        await run.ready()
        assert run.response.text == "Hello"


async def test_a_run_that_fails_is_not_ready(serve, registry):
    server = await serve(FAILING)
    async with registry({"a": server}).run("a/m", "hi", tools=[]) as run:
        with pytest.raises(FailoverError):
            await run.ready()


@pytest.mark.parametrize("kind", ["stream", "run"])
async def test_ready_gives_up_when_nobody_waits_any_longer(serve, registry, kind):
    gate = Gate()
    server = await serve(Hang(gate=gate))
    reg = registry({"a": server})
    asked = reg.run("a/m", "hi", tools=[]) if kind == "run" else reg.stream("a/m", "hi")
    with pytest.raises(ClosedError, match="`unless` ended before its first output"):
        await asked.ready(unless=gate.reached())
    await server.wait_closed()


async def test_ready_cancels_the_wait_for_a_client_that_stays(serve, registry):
    server = await serve(OK)
    left = asyncio.get_running_loop().create_future()
    async with registry({"a": server}).stream("a/m", "hi") as stream:
        await stream.ready(unless=left)
        assert left.cancelled()
        assert (await stream.collect()).text == "Hello"


async def test_ready_raises_what_failed_although_a_client_waits(serve, registry):
    server = await serve(FAILING)
    async with registry({"a": server}).stream("a/m", "hi") as stream:
        with pytest.raises(FailoverError):
            await stream.ready(unless=asyncio.Event().wait())


async def test_an_error_of_the_wait_for_a_client_ends_ready(serve, registry):
    async def broken():
        raise OSError("lost")

    server = await serve(Hang())
    async with registry({"a": server}).stream("a/m", "hi") as stream:
        with pytest.raises(OSError, match="lost"):
            await stream.ready(unless=broken())


@pytest.mark.parametrize("unless", [None, "wait"])
async def test_a_failed_ready_leaves_no_reference_cycle(serve, registry, unless):
    server = await serve(FAILING)
    reg = registry({"a": server})
    gc.collect()
    gc.disable()
    try:
        stream = reg.stream("a/m", "hi")
        seen = weakref.ref(stream)
        with contextlib.suppress(FailoverError):
            await stream.ready(unless=unless and asyncio.Event().wait())
        del stream
        for _ in range(3):
            await asyncio.sleep(0)
        assert seen() is None
    finally:
        gc.enable()


async def test_the_health_of_a_plan_includes_targets_that_were_not_used(serve, registry):
    bad, good = await serve(FAILING), await serve(OK)
    reg = registry({"a": bad, "b": good})
    assert reg.health() == ()
    assert [(str(each.target), each.state) for each in reg.health("a/m,b/m")] == [
        ("a/m", "healthy"),
        ("b/m", "healthy"),
    ]
    await reg.generate("a/m,b/m", "hi")
    assert [each.state for each in reg.health("a/m,b/m,b/other")] == [
        "cooling",
        "healthy",
        "healthy",
    ]
    with pytest.raises(ConfigError):
        reg.health("nowhere/m")
