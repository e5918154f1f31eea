"""How many coroutines a read passes, what it minds without them, and that others get the same."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import ClassVar

import pytest

from aiollm import DeadlineError, Registry, Request, StreamInterrupted, Target, Timeouts, user
from aiollm._http import streaming
from aiollm.events import CallEnded
from aiollm.provider import Operation, Provider
from aiollm.providers.openai.chat_codec import ChatCodec
from aiollm.types import TextDelta


def event(text: str) -> bytes:
    return b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % text.encode()


END = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
READS = [event("one "), event("two "), event("three"), END]


class Readable:
    """A reply that can only be read, as one of a transport that knows nothing of `take`."""

    status = 200
    headers: ClassVar[dict[str, str]] = {}
    content_type = "text/event-stream"
    has_body = True

    def __init__(self, reads):
        self.left = list(reads)

    async def read(self):
        return self.left.pop(0) if self.left else b""

    async def drain(self):
        pass

    def close(self):
        pass


class Takable(Readable):
    """A reply whose first bytes are there; for the next there is a future."""

    def __init__(self, reads):
        super().__init__(reads)
        self.has_come = True
        self.future = None

    @property
    def body(self):
        return self

    def take(self):
        if not self.has_come:
            return None
        self.has_come = False
        return self.left.pop(0) if self.left else b""

    def coming(self):
        self.future = asyncio.get_running_loop().create_future()
        return self.future

    def come(self):
        self.has_come = True
        self.future.set_result(None)


class Memory:
    def __init__(self, reply):
        self.reply = reply

    async def send(self, request, connect):
        return self.reply


def row_of(reply):
    def adapter(provider, _, target, request, timeouts):
        return streaming.stream(provider, Memory(reply), target, request, timeouts)

    operations = {"chat": Operation(adapter=adapter)}
    return Provider("mem", "m", "http://mem.invalid/v1", ChatCodec(), operations=operations)


def layers_of(coroutine):
    count = 0
    while coroutine is not None and hasattr(coroutine, "cr_await"):
        count += 1
        coroutine = coroutine.cr_await
    return count


async def test_a_read_that_waits_has_one_coroutine():
    reply = Takable(READS)
    async with Registry(env={}) as reg:
        reg.register("mem", row_of(reply))
        async with reg.stream("mem/model", "hi") as stream:
            assert (await anext(stream)).text == "one "
            waiting = asyncio.create_task(anext(stream))
            await asyncio.sleep(0)
            assert layers_of(waiting.get_coro()) == 1
            reply.come()
            assert (await waiting).text == "two "


@pytest.mark.parametrize("ended_by", [asyncio.CancelledError, DeadlineError])
async def test_who_keeps_the_error_of_a_read_does_not_keep_the_answer(ended_by):
    replies = []

    class Anew:
        async def send(self, request, connect):
            reply = Takable(READS)
            replies.append(weakref.ref(reply))
            return reply

    def adapter(provider, _, target, request, timeouts):
        return streaming.stream(provider, Anew(), target, request, timeouts)

    operations = {"chat": Operation(adapter=adapter)}
    row = Provider("mem", "m", "http://mem.invalid/v1", ChatCodec(), operations=operations)
    idle = 0.01 if ended_by is DeadlineError else None
    async with Registry(env={}, timeouts=Timeouts(idle=idle)) as reg:
        reg.register("mem", row)
        stream = reg.stream("mem/model", "hi")
        assert (await anext(stream)).text == "one "
        waiting = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)
        if ended_by is asyncio.CancelledError:
            waiting.cancel()
        with pytest.raises(ended_by) as kept:
            await waiting
        gc.collect()
        assert kept.value.__traceback__ is not None
        assert [each() for each in replies] == [None]


async def test_what_has_come_is_not_read_after_the_registry_was_closed():
    reply = Takable(READS)
    reg = Registry(env={})
    reg.register("mem", row_of(reply))
    stream = reg.stream("mem/model", "hi")
    assert (await anext(stream)).text == "one "
    reply.has_come = True
    await reg.aclose()
    with pytest.raises(StreamInterrupted) as caught:
        await anext(stream)
    assert caught.value.partial.text == "one "


async def test_a_ping_that_came_in_a_pause_of_the_caller_does_not_count_it_as_silence():
    reply = Takable([event("one "), b": ping\n\n", event("two "), END])
    async with Registry(env={}, timeouts=Timeouts(stall=50.0)) as reg:
        reg.register("mem", row_of(reply))
        async with reg.stream("mem/model", "hi") as stream:
            assert (await anext(stream)).text == "one "
            deadlines = stream._source.answering._deadlines
            deadlines._alive_at -= 100.0  # as if the caller had paused for so long
            reply.has_come = True
            waiting = asyncio.create_task(anext(stream))
            await asyncio.sleep(0)
            assert deadlines.silent < 50.0
            reply.come()
            assert (await waiting).text == "two "


async def test_the_end_of_a_call_names_the_fault_that_a_read_met():
    class Faulty(Takable):
        def take(self):
            if len(self.left) < len(READS):
                raise ZeroDivisionError
            return super().take()

        def translated(self, error):
            return None

    ends = []
    async with Registry(env={}) as reg:
        reg.register("mem", row_of(Faulty(READS)))
        reg.on_event(lambda each: ends.append(each) if isinstance(each, CallEnded) else None)
        with pytest.raises(ZeroDivisionError):
            await reg.stream("mem/model", "hi").collect()
        assert [type(each.error) for each in ends] == [ZeroDivisionError]
        reg.register("other", row_of(Faulty(READS)))
        with pytest.raises(ZeroDivisionError):
            async for _ in reg.stream("other/model", "hi"):
                pass
        assert [type(each.error) for each in ends] == [ZeroDivisionError] * 2


async def test_a_reply_that_can_only_be_read_gives_the_same_answer():
    async with Registry(env={}) as reg:
        reg.register("mem", row_of(Readable(READS)))
        assert (await reg.stream("mem/model", "hi").collect()).text == "one two three"


async def test_whoever_only_iterates_the_adapter_gets_the_same_batches():
    reply = Readable(READS)
    row, request = row_of(reply), Request((user("hi"),))
    batches = streaming.stream(row, Memory(reply), Target("mem", "m"), request, Timeouts())
    items = [item async for batch in batches for item in batch]
    texts = [item.text for item in items if type(item) is TextDelta]
    assert texts == ["one ", "two ", "three"]
