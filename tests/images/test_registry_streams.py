"""Drafts of images as an async iterator: order, leaving early, cuts, restarts."""

from __future__ import annotations

import asyncio
import base64
import gc
import weakref
from typing import Any

import pytest

from aiollm.errors import ClosedError, DeadlineError, FailoverError, ServerError, StreamInterrupted
from aiollm.images import ImageRequest, ImageResult, PartialImage
from aiollm.testing import Answer, Flood, Gate, Hang, Trickle, sse
from aiollm.types import ImagePart, Restart, Target, Timeouts, Usage

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)
PNG64 = base64.b64encode(PNG).decode()
IMAGE = ImagePart(PNG, mime="image/png")
ASKED = ImageRequest("a paper boat", extra={"*": {"stream": True, "partial_images": 2}})


def draft(index: object) -> tuple[str, dict[str, Any]]:
    kind = "image_generation.partial_image"
    return kind, {"type": kind, "b64_json": PNG64, "partial_image_index": index}


def done() -> tuple[str, dict[str, Any]]:
    kind = "image_generation.completed"
    usage = {"input_tokens": 12, "output_tokens": 272}
    return kind, {"type": kind, "b64_json": PNG64, "usage": usage}


def failed(code: str = "server_error") -> tuple[str, dict[str, Any]]:
    return "error", {"type": "error", "error": {"code": code, "message": "it went wrong"}}


WELL = sse(draft(0), draft(1), done())


async def test_drafts_come_in_order_and_the_result_last(serve, registry):
    server = await serve(WELL)
    reg = registry({"a": server.dsn()})
    async with reg.stream_images("a/m", ASKED) as stream:
        with pytest.raises(ClosedError):
            _ = stream.result
        items = [item async for item in stream]
    assert items[:2] == [PartialImage(IMAGE, 0), PartialImage(IMAGE, 1)]
    assert isinstance(items[2], ImageResult)
    assert len(items) == 3
    assert stream.result.images == (IMAGE,)
    assert stream.result.usage == Usage(12, 272, certainty="exact")
    assert stream.result.target == stream.target == Target("a", "m")
    assert server.requests[0].json()["partial_images"] == 2


@pytest.mark.parametrize("how", ["async for", "anext"])
async def test_the_result_that_comes_last_knows_its_target_and_attempts(serve, registry, how):
    server = await serve(WELL)
    reg = registry({"a": server.dsn()})
    async with reg.stream_images("a/m", ASKED) as stream:
        if how == "async for":
            *_, last = [item async for item in stream]
        else:
            *_, last = [await anext(stream) for _ in range(3)]
    assert (last.target, last.attempts) == (Target("a", "m"), stream.attempts)
    assert last.timings.first_output is not None


async def test_a_draft_is_there_while_the_image_is_still_being_made(serve, registry):
    gate = Gate()
    server = await serve(sse(draft(0), gate, done()))
    reg = registry({"a": server.dsn()})
    async with reg.stream_images("a/m", ASKED) as stream:
        assert isinstance(await anext(stream), PartialImage)
        await gate.reached()
        gate.open()
        assert isinstance(await anext(stream), ImageResult)


async def test_nothing_is_sent_before_the_first_draft_is_asked_for(serve, registry):
    server = await serve(WELL)
    reg = registry({"a": server.dsn()})
    stream = reg.stream_images("a/m", ASKED)
    await stream.aclose()
    assert [item async for item in stream] == []
    assert server.counts.opened == 0


async def test_collecting_gives_the_same_result(serve, registry):
    server = await serve(Trickle(0.0, 7, WELL))
    reg = registry({"a": server.dsn()})
    assert (await reg.generate_images("a/m", ASKED)).images == (IMAGE,)


async def test_after_the_last_event_the_connection_is_used_again(serve, registry):
    server = await serve(sse(draft(0), done(), "[DONE]"))
    reg = registry({"a": server.dsn()})
    for _ in range(3):
        await reg.generate_images("a/m", ASKED)
    assert server.counts.opened == 1


async def test_leaving_at_the_first_draft_closes_the_connection(serve, registry):
    server = await serve(sse(draft(0), Gate(), done()))
    reg = registry({"a": server.dsn()})
    async with reg.stream_images("a/m", ASKED) as stream:
        async for _ in stream:
            break
    await server.wait_closed()
    assert server.counts.closed_by_server == 0
    assert [each.outcome for each in stream.attempts] == ["abandoned"]
    assert all(each.state == "healthy" for each in reg.health())


async def test_dropping_the_stream_closes_the_connection(serve, registry):
    server = await serve(sse(draft(0), Gate(), done()))
    reg = registry({"a": server.dsn()})
    stream = reg.stream_images("a/m", ASKED)
    await anext(stream)
    gone = weakref.ref(stream)
    gc.disable()
    try:
        del stream
        assert gone() is None
    finally:
        gc.enable()
    await server.wait_closed()


async def test_cancelling_the_wait_closes_the_connection(serve, registry):
    gate = Gate()
    server = await serve(sse(draft(0), gate, done()))
    reg = registry({"a": server.dsn()})
    task = asyncio.create_task(reg.generate_images("a/m", ASKED))
    await gate.reached()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await server.wait_closed()
    assert all(each.failures == 0 for each in reg.health())


@pytest.mark.parametrize("before", [(), (draft(0),)], ids=["no draft", "a draft"])
async def test_a_body_that_ends_early_is_no_success(serve, registry, before):
    server = await serve(sse(*before))
    reg = registry({"a": server.dsn()})
    with pytest.raises((StreamInterrupted, FailoverError)) as caught:
        await reg.generate_images("a/m", ASKED)
    error = caught.value.exceptions[0] if not before else caught.value
    assert isinstance(error, StreamInterrupted)
    assert error.target == Target("a", "m")


async def test_before_the_first_draft_a_failure_is_not_seen(serve, registry):
    first = await serve(sse(failed()))
    second = await serve(WELL)
    reg = registry({"a": first.dsn(), "b": second.dsn()})
    items = [item async for item in reg.stream_images("a/m,b/m", ASKED)]
    assert [type(item) for item in items] == [PartialImage, PartialImage, ImageResult]
    assert items[2].target == Target("b", "m")
    assert [each.outcome for each in items[2].attempts] == ["failed", "success"]


async def test_after_a_draft_a_failure_is_raised(serve, registry):
    first = await serve(sse(draft(0), failed()))
    second = await serve(WELL)
    reg = registry({"a": first.dsn(), "b": second.dsn()})
    stream = reg.stream_images("a/m,b/m", ASKED)
    assert isinstance(await anext(stream), PartialImage)
    with pytest.raises(ServerError, match="it went wrong"):
        await anext(stream)
    assert second.counts.requests == 0


async def test_a_draft_and_a_failure_in_one_read_come_one_after_the_other(serve, registry):
    body = b"".join(sse(draft(0), failed()).body)
    server = await serve(Answer(200, {"content-type": "text/event-stream"}, body))
    reg = registry({"a": server.dsn()})
    stream = reg.stream_images("a/m", ASKED)
    assert isinstance(await anext(stream), PartialImage)
    with pytest.raises(ServerError):
        await anext(stream)


async def test_on_request_the_next_target_starts_anew_after_a_cut(serve, registry):
    first = await serve(sse(draft(0)))
    second = await serve(WELL)
    reg = registry({"a": first.dsn(), "b": second.dsn()})
    stream = reg.stream_images("a/m,b/m", ASKED, on_interrupt="restart")
    items = [item async for item in stream]
    assert [type(item) for item in items] == [
        PartialImage, Restart, PartialImage, PartialImage, ImageResult,
    ]  # fmt: skip
    assert items[1].target == Target("b", "m")
    assert stream.result.target == Target("b", "m")
    assert [each.outcome for each in stream.attempts] == ["failed", "success"]


async def test_drafts_cannot_be_gone_on_with(serve, registry):
    first = await serve(sse(draft(0)))
    second = await serve(WELL)
    reg = registry({"a": first.dsn(), "b": second.dsn()}, on_interrupt="continue")
    with pytest.raises(StreamInterrupted):
        await reg.generate_images("a/m,b/m", ASKED)


async def test_a_keep_alive_that_never_ends_hits_a_deadline(serve, registry):
    server = await serve(Flood())
    reg = registry({"a": server.dsn()})
    with pytest.raises(FailoverError) as caught:
        await reg.generate_images("a/m", ASKED, timeouts=Timeouts(first_output=0.1))
    assert caught.value.exceptions[0].which == "first_output"


async def test_silence_after_a_draft_hits_the_idle_deadline(serve, registry):
    server = await serve(Hang(200, WELL))
    reg = registry({"a": server.dsn()})
    with pytest.raises((DeadlineError, FailoverError)) as caught:
        await reg.generate_images("a/m", ASKED, timeouts=Timeouts(idle=0.1))
    error = getattr(caught.value, "exceptions", [caught.value])[0]
    assert error.which == "idle"


async def test_a_server_that_does_not_stream_gives_the_result_alone(serve, registry):
    server = await serve(Answer(200, {}, {"data": [{"b64_json": PNG64}]}))
    reg = registry({"a": server.dsn()})
    items = [item async for item in reg.stream_images("a/m", ASKED)]
    assert [type(item) for item in items] == [ImageResult]


async def test_a_second_reader_is_refused(serve, registry):
    gate = Gate()
    server = await serve(sse(gate, draft(0), done()))
    reg = registry({"a": server.dsn()})
    stream = reg.stream_images("a/m", ASKED)
    reader = asyncio.create_task(anext(stream))
    await gate.reached()
    with pytest.raises(ClosedError, match="another task"):
        await anext(stream)
    gate.open()
    assert isinstance(await reader, PartialImage)
    await stream.aclose()


NUMBERS = [0, 1, 2, 3, -1, 10**18, 1, None, "7"]
"""Whatever a server may write where the number of a draft belongs."""


@pytest.mark.parametrize(
    ("asked", "count"),
    [
        (ImageRequest("x"), 0),
        (ImageRequest("x", partial_images=1), 1),
        (ImageRequest("x", partial_images=3), 3),
        (ImageRequest("x", extra={"*": {"partial_images": 5}}), 5),
        (ImageRequest("x", extra={"*": {"partial_images": "many"}}), 0),
    ],
)
async def test_drafts_are_as_many_as_were_asked_for_and_numbered_as_they_come(
    serve, registry, asked, count
):
    server = await serve(sse(*map(draft, NUMBERS), done()))
    reg = registry({"a": server.dsn()})
    async with reg.stream_images("a/m", asked) as stream:
        *drafts, result = [item async for item in stream]
    assert [each.index for each in drafts] == list(range(count))
    assert all(each.image == IMAGE for each in drafts)
    assert f"{len(NUMBERS) - count} drafts more than were asked for are left out" in result.warnings


async def test_a_draft_nobody_asked_for_does_not_commit_the_call(serve, registry):
    first, second = await serve(sse(draft(0), failed())), await serve(WELL)
    reg = registry({"a": first.dsn(), "b": second.dsn()})
    result = await reg.generate_images("a/m,b/m", "x")
    assert result.target == Target("b", "m")


@pytest.mark.parametrize(
    ("asked", "count"),
    [
        (ImageRequest("x"), 1),
        (ImageRequest("x", count=2), 2),
        (ImageRequest("x", extra={"*": {"n": 3}}), 3),
        (ImageRequest("x", extra={"*": {"batch_size": 2, "n_iter": 2}}), 4),
    ],
)
async def test_images_are_as_many_as_were_asked_for(serve, registry, asked, count):
    server = await serve(Answer(200, {}, {"data": [{"b64_json": PNG64}] * 5}))
    reg = registry({"a": server.dsn()})
    result = await reg.generate_images("a/m", asked)
    assert result.images == (IMAGE,) * count
    assert f"{5 - count} images more than were asked for are left out" in result.warnings
