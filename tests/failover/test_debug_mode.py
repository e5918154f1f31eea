"""asyncio's debug mode, which refuses calls from other threads: everything works in it, too."""

from __future__ import annotations

import asyncio
import threading
import warnings

import pytest

from aiollm import FailoverError, ImageRequest, Registry, StreamInterrupted
from aiollm.testing import Answer, Gate, Reset, chat

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5E"


@pytest.fixture(autouse=True)
async def debug():
    asyncio.get_running_loop().set_debug(True)


@pytest.fixture(params=[True, False], ids=["debug", "plain"])
async def in_both_modes(request, debug):
    asyncio.get_running_loop().set_debug(request.param)


async def test_streams_share_a_connection_in_debug_mode(serve, registry):
    server = await serve(chat("Hel", "lo"))
    reg = registry({"a": server})
    for _ in range(3):
        assert (await reg.generate("a/m", "hi")).text == "Hello"
    assert server.counts.opened == 1


async def test_a_cancelled_stream_is_closed_in_debug_mode(serve, registry):
    gate = Gate()
    server = await serve(chat("x", gate))
    task = asyncio.create_task(registry({"a": server}).generate("a/m", "hi"))
    await gate.reached()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await server.wait_closed()


async def test_a_race_in_a_chain_closes_its_loser_in_debug_mode(serve, registry):
    slow, fast, broken = (
        await serve(chat(Gate(), "x")),
        await serve(chat("y")),
        await serve(Reset()),
    )
    reg = registry({"a": slow, "b": fast, "c": broken}, stagger=0.0)
    assert (await reg.generate("c/m,a/m|b/m", "hi")).text == "y"
    await slow.wait_closed()


async def test_a_failure_is_raised_in_debug_mode(serve, registry):
    server = await serve(Answer(503))
    with pytest.raises(FailoverError):
        await registry({"a": server}).generate("a/m", "hi")


async def test_images_and_lists_of_models_come_in_debug_mode(serve, registry):
    image = await serve(Answer(200, {}, {"data": [{"b64_json": PNG}]}))
    assert len((await registry({"a": image}).generate_images("a/m", ImageRequest("x"))).images) == 1
    models = await serve(Answer(200, {}, {"data": [{"id": "m"}]}))
    assert await registry({"b": models}).models("b") == ("m",)


async def test_the_last_reference_dropped_in_another_thread_closes_the_connection(
    serve, registry, in_both_modes
):
    server = await serve(chat("x", Gate()))
    reg = registry({"a": server})
    held = [reg.stream("a/m", "hi")]
    await anext(held[0])
    thread = threading.Thread(target=held.clear)
    thread.start()
    while thread.is_alive():
        await asyncio.sleep(0)
    await server.wait_closed()
    assert reg.limits()[0].held == 0
    await reg.aclose()


async def test_closing_the_registry_in_mid_stream(serve, registry):
    gate = Gate()
    server = await serve(chat("x", gate))
    reg = registry({"a": server})
    task = asyncio.create_task(reg.generate("a/m", "hi"))
    await gate.reached()
    await reg.aclose()
    with pytest.raises(StreamInterrupted):
        await task


async def test_a_registry_that_is_dropped_in_another_thread_closes_through_its_loop(
    serve, in_both_modes
):
    server = await serve(chat("x"))
    reg = Registry(env={"LLM_A": f"openai+http://k@127.0.0.1:{server.port}/v1"})
    assert (await reg.generate("a/m", "hi")).text == "x"
    held = [reg]
    del reg
    found: list[threading.Thread] = []
    transport = held[0]._resources._transport
    kill = transport.kill
    transport.kill = lambda: (found.append(threading.current_thread()), kill())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        thread = threading.Thread(target=held.clear)
        thread.start()
        while thread.is_alive():
            await asyncio.sleep(0)
    assert [str(each.message) for each in said] == ["a Registry was not closed: use `async with`"]
    await server.wait_closed()
    assert found == [threading.current_thread()]
