"""The event loop turns between the bytes of one reply, also where no read ever waits."""

from __future__ import annotations

import asyncio
import itertools
from functools import partial

import pytest

from aiollm import (
    DeadlineError,
    FailoverError,
    ImageRequest,
    LLMError,
    Registry,
    Timeouts,
)
from aiollm._http import answer, image_streaming, streaming, turns
from aiollm._http.turns import FIRST, PIECE, TURN, Turns
from aiollm._http.unary import UnaryRequester
from aiollm._wire.framing import SSE
from aiollm.provider import HttpRequest, Operation, Provider
from aiollm.providers.openai.chat_codec import ChatCodec
from aiollm.providers.openai.images_codec import OpenAIImages
from aiollm.servers import llama_swap
from tests.turns import turns as counted_turns

EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"hello"}}]}\n\n'
LAST = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
SIZE = 40 * TURN
READS = {
    "many small reads": [EVENT * 10] * (SIZE // len(EVENT) // 10),
    "one huge read": [EVENT * (SIZE // len(EVENT))],
    "comments": [b": ping\n\n" * (TURN // 8)] * 40,
    "blank lines": [b"\n" * SIZE],
    "one event": [b'data: {"choices":[{"index":0,"delta":{"content":"', *[b"x" * TURN] * 40],
    "a document": [b'{"choices": [', *[b" " * TURN] * 40],
}


class Ready:
    """A transport, and its reply, of which every byte is there already."""

    def transport_of(self, _provider):
        return self

    status = 200
    content_type = "text/event-stream"
    has_body = True

    def __init__(self, reads, then=None):
        self.headers = {}
        self.taken = 0
        self._reads = iter(reads)
        self._then = then

    async def send(self, request, connect):
        return self

    async def read(self):
        found = next(self._reads, b"")
        self.taken += len(found)
        return found if found or self._then is None else await self._then

    async def drain(self):
        pass

    def close(self):
        pass


def provider(transport):
    def chat(row, _, target, request, timeouts):
        return streaming.stream(row, transport, target, request, timeouts)

    def images(row, _, target, request, timeouts):
        return image_streaming.draw(row, transport, target, request, timeouts)

    return Provider(
        "mem",
        "openai",
        "http://mem.invalid/v1",
        ChatCodec(),
        operations={
            "chat": Operation(adapter=chat),
            "images": Operation(lambda: (OpenAIImages(),), images),
        },
    )


async def turns_of_the_loop(work):
    """Return how often the loop turned until `work` was done."""
    task = asyncio.ensure_future(work)
    turns = 0
    while not task.done():
        await asyncio.sleep(0)
        turns += 1
    error = task.exception()
    assert error is None or isinstance(error, LLMError)
    return turns


@pytest.mark.parametrize("reads", READS.values(), ids=READS)
@pytest.mark.parametrize("operation", ["chat", "images", "unary"])
async def test_the_loop_turns_once_in_so_many_bytes(operation, reads):
    async with Registry(env={}, retries=0) as reg:
        transport = Ready(reads)
        reg.register("mem", provider(transport))
        match operation:
            case "chat":
                work = reg.generate("mem/m", "hi")
            case "images":
                work = reg.generate_images("mem/m", ImageRequest("a boat"))
            case "unary":
                request = HttpRequest("http://mem.invalid", {})
                transport.content_type = "text/html"  # all else is refused before its end
                requester = UnaryRequester(transport)
                work = requester.request(provider(transport), Timeouts(), request)
        turns = await turns_of_the_loop(work)
        ended = 4096 * len(EVENT) if operation == "images" else transport.taken  # by an error
        assert turns >= min(transport.taken, ended) / TURN / 2
        assert operation == "images" or transport.taken == sum(map(len, reads))


async def test_pieces_of_quick_work_share_a_single_turn_in_so_many_bytes(monkeypatch):
    monkeypatch.setattr(turns, "monotonic", lambda: 1.0)
    async with Registry(env={}, retries=0) as reg:
        reg.register("mem", provider(Ready([EVENT * (SIZE // len(EVENT)), LAST])))
        assert await turns_of_the_loop(reg.generate("mem/m", "hi")) < 1.5 * SIZE / TURN


@pytest.mark.parametrize(
    ("seconds", "usual"), [(0.0001, TURN), (0.01, 1024)], ids=["quick work", "slow work"]
)
async def test_pieces_become_as_large_as_their_work_allows(monkeypatch, seconds, usual):
    now = itertools.count(1.0, seconds)
    monkeypatch.setattr(turns, "monotonic", lambda: next(now))
    whole = bytes(8 * TURN)
    reader = Turns(Ready([whole]).read, whole, piece=8192)
    sizes = [len(piece) async for piece in pieces(reader)]
    assert sizes[0] == 8192
    assert max(sizes[4:]) == usual
    assert sum(sizes) == 2 * len(whole)


async def test_pieces_of_an_answer_never_become_large():
    """Cheap bytes may be followed by dear ones, so that the size of a piece bounds a stall."""
    whole = bytes(8 * TURN)
    reader = Turns(Ready([]).read, whole, 4096, 16 * 1024)
    sizes = [len(piece) async for piece in pieces(reader)]
    assert sizes[0] == 4096
    assert max(sizes) == 16 * 1024


async def test_pieces_whose_work_takes_long_do_not_share_a_turn(monkeypatch):
    now = itertools.count(1.0, 0.001)
    monkeypatch.setattr(turns, "monotonic", lambda: next(now))
    reader = Turns(Ready([]).read, bytes(16 * 4096), 4096)

    async def read():
        return [len(piece) async for piece in pieces(reader)]

    assert await turns_of_the_loop(read()) >= 16


async def test_a_task_whose_timer_is_due_waits_for_one_piece_whose_work_takes_long(monkeypatch):
    now = itertools.count(1.0, 0.001)
    monkeypatch.setattr(turns, "monotonic", lambda: next(now))
    reader = Turns(Ready([]).read, bytes(16 * 4096), 4096)
    loop, after = asyncio.get_running_loop(), []

    async def wait(due) -> None:
        after.append(await due)

    async with asyncio.TaskGroup() as group:
        for place in range(16):
            assert await reader.read()
            due = loop.create_future()
            group.create_task(wait(due))
            loop.call_at(loop.time(), due.set_result, place)
            assert after == [*range(place)]


async def test_a_piece_that_is_small_because_a_read_ends_makes_the_next_no_larger(monkeypatch):
    """It takes a moment only because it is small."""
    now = [1.0]
    monkeypatch.setattr(turns, "monotonic", lambda: now[0])
    reader = Turns(Ready([bytes(4 * 8192 + 100)] * 9).read, bytes(4 * 8192), 8192)
    async for piece in pieces(reader):
        now[0] += len(piece) * 1e-7  # 0.8 ms for a whole one
        assert len(piece) <= 8192


async def test_the_events_of_a_model_server_come_in_small_pieces(monkeypatch):
    """Each event is handed on, so that a large piece would hold up the loop for long."""
    sizes = []

    class Counting(SSE):
        __slots__ = ()

        def feed(self, data):
            sizes.append(len(data))
            return super().feed(data)

    now = itertools.count(1.0, 0.0001)
    monkeypatch.setattr(turns, "monotonic", lambda: next(now))
    monkeypatch.setattr(llama_swap, "SSE", Counting)
    transport = Ready([b'data:{"type":"a"}\n\n' * 20_000])
    row = provider(transport)
    opened = partial(UnaryRequester(transport).open, row, Timeouts())
    async for _ in llama_swap.LlamaSwap(row, opened, opened).events():
        pass
    assert sizes[0] == FIRST
    assert max(sizes) <= PIECE


async def pieces(reader):
    while piece := await reader.read():
        yield piece


@pytest.mark.parametrize("reads", READS.values(), ids=READS)
async def test_a_call_can_be_cancelled_while_bytes_are_there(reads):
    async with Registry(env={}) as reg:
        reg.register("mem", provider(Ready(reads)))
        task = asyncio.create_task(reg.generate("mem/m", "hi"))
        while not reg.health():
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_deadline_fires_while_bytes_are_there():
    """The clock is past the deadline when the loop first turns: the bytes do not hide that."""
    loop = asyncio.get_running_loop()

    def endless():
        while True:
            yield EVENT * 100

    async with Registry(env={}, retries=0, timeouts=Timeouts(total=0.001)) as reg:
        reg.register("mem", provider(Ready(endless())))
        with pytest.raises((DeadlineError, FailoverError)) as caught:
            await reg.generate("mem/m", "hi")
    error = caught.value
    last = error.last if isinstance(error, FailoverError) else error
    assert isinstance(last, DeadlineError)
    assert loop.is_running()


@pytest.mark.parametrize("cut", [True, False], ids=["read by read", "all in one read"])
async def test_the_loop_turns_between_a_large_frame_and_what_follows_it_in_the_same_read(cut):
    start, end = EVENT.split(b"hello")
    pieces = [start, *[b"x" * 8192] * 40, end + EVENT + LAST]
    reads = pieces if cut else [b"".join(pieces)]
    async with Registry(env={}) as reg, counted_turns() as seen:
        reg.register("mem", provider(Ready(reads)))
        async with reg.stream("mem/m", "hi") as stream:
            found = [(chunk.text, len(seen)) async for chunk in stream]
    (large, before), (small, after), _ = found
    assert (len(large), small) == (40 * 8192, "hello")
    assert after > before


async def test_what_follows_a_large_frame_shares_its_turns_again():
    start, end = EVENT.split(b"hello")
    reads = [start, *[b"x" * 8192] * 40, end + EVENT * 100 + LAST]
    async with Registry(env={}) as reg, counted_turns() as seen:
        reg.register("mem", provider(Ready(reads)))
        async with reg.stream("mem/m", "hi") as stream:
            found = [(chunk.text, len(seen)) async for chunk in stream]
    (_, before), *rest, (_, after) = found
    assert [text for text, _ in rest] == ["hello"] * 100
    assert after - before < 10


async def test_what_is_held_behind_large_frames_is_counted_once(monkeypatch):
    start, end = EVENT.split(b"hello")
    reads = [start, *[b"x" * 8192] * 10, end + EVENT * 100] * 10 + [LAST]
    monkeypatch.setattr(answer, "MAX_ANSWER", sum(map(len, reads)))
    async with Registry(env={}) as reg:
        reg.register("mem", provider(Ready(reads)))
        response = await reg.generate("mem/m", "hi")
    assert response.text == ("x" * 81920 + "hello" * 100) * 10


async def test_a_long_turn_lets_a_task_run_whose_timer_is_due():
    """Two steps would not: the timer comes behind the first, and the task that it wakes next."""
    loop, ran = asyncio.get_running_loop(), []
    due = loop.create_future()

    async def wait() -> None:
        await due
        ran.append(True)

    waits = asyncio.create_task(wait())
    await asyncio.sleep(0)
    loop.call_at(loop.time(), due.set_result, None)
    await turns.long_turn()
    assert ran
    await waits
