"""What open streams and long histories leave the garbage collector to walk, counted in objects."""

from __future__ import annotations

import asyncio
import gc

import pytest

from aiollm import Message, Registry, TextPart, ToolCallPart, assistant, tool_results, user
from aiollm._failover.lines import FIRST_WINDOW
from aiollm._http import streaming
from aiollm._wire.body import Body
from aiollm.provider import HttpRequest, Operation, Provider
from aiollm.providers.openai.chat_codec import ChatCodec
from aiollm.types import CachePoint, DocumentPart, ToolResultPart

FIRST = b'data: {"choices":[{"delta":{"content":"word"}}]}\n\n'
STREAMS = 50
OBJECTS = 41
"""An open stream may keep so many, its task included, and aiohttp's left out."""

OBJECTS_IN_LINE = 28
"""So many while it waits, its task included."""


class Held:
    """An answer whose first chunk came, and whose second does not."""

    status = 200
    content_type = "text/event-stream"
    has_body = True

    def __init__(self):
        self.headers = {}
        self._reads = [FIRST]

    async def read(self):
        return self._reads.pop() if self._reads else await asyncio.Event().wait()

    def close(self):
        pass


class Memory:
    async def send(self, request, connect):
        return Held()


def adapter(provider, _, target, request, timeouts):
    return streaming.stream(provider, Memory(), target, request, timeouts)


async def test_an_open_stream_leaves_the_collector_few_objects():
    chat = {"chat": Operation(adapter=adapter)}
    row = Provider("mem", "openai", "http://mem.invalid/v1", ChatCodec(), operations=chat)
    came = 0

    async def hold(reg):
        nonlocal came
        async for _ in reg.stream("mem/model", "hi"):
            came += 1

    async with Registry(env={}) as reg:
        reg.register("mem", row)
        tasks = [asyncio.create_task(hold(reg)) for _ in range(STREAMS)]
        while came < STREAMS:
            await asyncio.sleep(0)
        gc.collect()
        before = len(gc.get_objects())
        tasks += [asyncio.create_task(hold(reg)) for _ in range(STREAMS)]
        while came < 2 * STREAMS:
            await asyncio.sleep(0)
        gc.collect()
        # A few objects of others come and go.
        held = round((len(gc.get_objects()) - before) / STREAMS)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    assert held <= OBJECTS


async def silent(provider, transport, target, request, timeouts):
    await asyncio.Event().wait()
    yield []


async def test_a_call_in_line_leaves_the_collector_few_objects():
    chat = {"chat": Operation(adapter=silent)}
    row = Provider("mem", "openai", "http://mem.invalid/v1", ChatCodec(), operations=chat)

    async def ask(reg):
        async for _ in reg.stream("mem/model", "hi"):
            pass

    async with Registry(env={}) as reg:
        reg.register("mem", row)
        counts, tasks = [], []
        for waiting in (STREAMS, 2 * STREAMS):
            while len(tasks) < FIRST_WINDOW + waiting:
                tasks.append(asyncio.create_task(ask(reg)))
            while sum(each.waiting for each in reg.limits()) < waiting:
                await asyncio.sleep(0)
            gc.collect()
            counts.append(len(gc.get_objects()))
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    few, many = counts
    assert round((many - few) / STREAMS) <= OBJECTS_IN_LINE


def bodies():
    gc.collect()
    return sum(type(each) is Body for each in gc.get_objects())


async def test_an_open_stream_has_let_go_of_the_body_that_it_sent():
    chat = {"chat": Operation(adapter=adapter)}
    row = Provider("mem", "openai", "http://mem.invalid/v1", ChatCodec(), operations=chat)
    async with Registry(env={}) as reg:
        reg.register("mem", row)
        before = bodies()
        async with reg.stream("mem/model", "hi") as stream:
            await anext(stream)
            assert bodies() == before


@pytest.mark.parametrize(
    "message",
    [
        user("a question", CachePoint(), DocumentPart(b"%PDF")),
        assistant(TextPart("an answer"), ToolCallPart("id", "name")),
        tool_results(ToolResultPart("id", "a result")),
    ],
    ids=lambda message: message.role,
)
def test_the_collector_does_not_walk_through_the_parts_of_a_history(message: Message):
    assert not any(map(gc.is_tracked, message.parts))


def test_the_collector_does_not_walk_through_a_request_on_its_way():
    assert not gc.is_tracked(HttpRequest("http://mem.invalid", {}))
