"""What callers do while a call runs, or ask for wrongly: it ends, it is told, it harms nobody."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import math
import weakref

import aiohttp
import pytest

from aiollm import (
    ClosedError,
    ConfigError,
    DeadlineError,
    FailoverError,
    ImagePart,
    InvalidRequestError,
    LLMError,
    Registry,
    StreamInterrupted,
    TextDelta,
    Timeouts,
    classify,
    user,
)
from aiollm._http import last_words
from aiollm._http.translation import translate
from aiollm.events import CallQueued, ImageElided
from aiollm.testing import NEVER, Answer, Cut, FakeProvider, Gate, Hang, chat

pytestmark = pytest.mark.loops

OK = chat("Hello")


@pytest.mark.parametrize("spec", ["a/m", "a/m|b/m"])
async def test_closing_the_registry_ends_calls_over_adapters_of_ones_own(spec):
    reg = Registry(env={}, retries=0, stagger=0.0)
    fakes = [FakeProvider(default=[NEVER]) for _ in range(2)]
    for name, fake in zip("ab", fakes, strict=True):
        reg.register(name, fake.provider())
    task = asyncio.create_task(reg.generate(spec, "hi"))
    while not fakes[0].requests:
        await asyncio.sleep(0)
    await reg.aclose()
    with pytest.raises(ClosedError):
        await task


async def test_closing_the_registry_cuts_an_answer_of_an_adapter_of_ones_own():
    reg = Registry(env={})
    reg.register("a", FakeProvider(default=[TextDelta("Half"), NEVER]).provider())
    stream = reg.stream("a/m", "hi")
    assert (await anext(stream)).text == "Half"
    await reg.aclose()
    with pytest.raises(StreamInterrupted) as caught:
        await anext(stream)
    assert caught.value.partial.text == "Half"


async def test_closing_the_registry_ends_a_call_that_still_loads_the_transport(serve):
    server = await serve(OK)
    reg = Registry(env={"LLM_A": f"openai+{server.url}/v1"}, retries=0)
    task = asyncio.create_task(reg.generate("a/m", "hi"))
    await asyncio.sleep(0)
    await reg.aclose()
    with pytest.raises(ClosedError):
        await task
    assert server.counts.opened == 0


async def test_several_tasks_may_close_one_stream_while_another_reads(serve, registry):
    gate = Gate()
    server = await serve(chat("first", gate, "never"))
    stream = registry({"a": server}).stream("a/m", "hi")

    async def read() -> list[str]:
        return [chunk.text async for chunk in stream]

    reader = asyncio.create_task(read())
    await gate.reached()
    await asyncio.gather(*(stream.aclose() for _ in range(3)))
    assert await reader == ["first"]


async def test_an_error_before_anything_arrived_has_no_partial(serve, registry):
    reg = registry({"a": await serve(Answer(400, {}, {"error": {"message": "no"}}))})
    with pytest.raises(FailoverError) as caught:
        await reg.generate("a/m", "hi")
    assert isinstance(caught.value.last, InvalidRequestError)
    assert caught.value.partial is None


async def test_the_deadlines_of_an_attempt_begin_when_it_has_a_slot(serve):
    gate = Gate()
    server = await serve(chat("x", gate), Hang())
    env = {"LLM_A": f"openai+{server.url}/v1?max_concurrency=1"}
    async with Registry(env=env, retries=0) as reg:
        first = asyncio.create_task(reg.generate("a/m", "hi"))
        await gate.reached()
        limits, queued = Timeouts(first_output=0.2), asyncio.Event()
        reg.on_event(lambda event: queued.set() if type(event) is CallQueued else None)
        second = asyncio.create_task(reg.generate("a/m", "hi", timeouts=limits, patience=30))
        await queued.wait()
        began = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() == began:  # uvloop counts whole milliseconds
            await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(FailoverError) as caught:
            await second
        assert isinstance(caught.value.last, DeadlineError)
        (attempt,) = caught.value.attempts
        assert attempt.started >= attempt.queued > 0
        assert attempt.ended - attempt.started >= 0.199
        assert reg.health()[0].failed == 1


async def test_an_answer_is_whole_at_its_finish_reason_though_the_connection_breaks(
    serve, registry
):
    whole = chat("Hello", done=False, usage=None)
    reg = registry({"a": await serve(Cut(after=10_000, answer=whole))})
    response = await reg.generate("a/m", "hi")
    assert (response.text, response.finish_reason) == ("Hello", "stop")
    assert response.usage.certainty == "missing"


async def test_an_answer_is_whole_at_its_finish_reason_though_the_server_stays_silent(
    serve, registry, monkeypatch
):
    monkeypatch.setattr(last_words, "UNSURE", 0.05)
    whole = chat("Hello", done=False, usage=None)
    server = await serve(Hang(after=10_000, answer=whole))
    response = await registry({"a": server}).generate("a/m", "hi")
    assert (response.text, response.finish_reason) == ("Hello", "stop")
    await server.wait_closed()


@pytest.mark.parametrize(
    ("behaviour", "spec"),
    [
        (Cut(after=10_000, answer=chat("Half", finish=None, done=False)), "a/m"),
        (chat("Half", finish=None, done=False), "a/m"),
        (Answer(400, {}, {"error": {"message": "no"}}), "a/m|a/n"),
    ],
)
async def test_a_handled_error_leaves_no_cycle(serve, registry, behaviour, spec):
    reg = registry({"a": await serve(behaviour)}, stagger=0.0)

    async def fail() -> weakref.ref:
        stream = reg.stream(spec, "hi")
        with contextlib.suppress(LLMError):
            await stream.collect()
        return weakref.ref(stream)

    await fail()
    gc.disable()
    try:
        assert (await fail())() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"on_interrupt": "Restart"}, "on_interrupt"),
        ({"retries": "2"}, "retries"),
        ({"retries": -1}, "retries"),
        ({"stagger": math.nan}, "stagger"),
        ({"timeouts": 5}, "timeouts"),
    ],
)
async def test_a_wrong_setting_is_told_at_once(options, field):
    with pytest.raises(ConfigError, match=field):
        Registry(env={}, **options)
    async with Registry(env={"LLM_A": "openai://k@h"}) as reg:
        with pytest.raises(ConfigError, match=field):
            reg.stream("a/m", "hi", **options)


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -1, "1"])
def test_a_wrong_cooldown_is_told_at_once(seconds):
    with pytest.raises(ConfigError, match="cooldown"):
        Registry(env={}, cooldown=seconds)


async def test_none_is_no_limit(serve, registry):
    limits = Timeouts(connect=None, first_output=None, idle=None)
    reg = registry({"a": await serve(OK)}, timeouts=limits)
    assert (await reg.generate("a/m", "hi")).text == "Hello"


def test_a_certificate_that_is_not_trusted_is_not_tried_again():
    key = aiohttp.client_reqrep.ConnectionKey("h", 443, True, True, None, None, None)
    error = translate(aiohttp.ClientConnectorCertificateError(key, ValueError("self-signed")))
    assert classify(error).harms == "long"


PICTURE = ImagePart(
    base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
    )
)
"""One red pixel."""


async def test_an_image_left_out_is_an_event_and_a_warning():
    async with Registry(env={}) as reg:
        facts = {"images": True, "max_images_per_request": 1}
        reg.register("a", FakeProvider(default="fine").provider(facts=facts))
        events: list[object] = []
        reg.on_event(events.append)
        response = await reg.generate("a/m", [user("What?", PICTURE, PICTURE)])
    assert [event.message for event in events if isinstance(event, ImageElided)] == [
        *response.warnings
    ]
    assert len(response.warnings) == 1


async def test_leaving_a_stream_with_images_closes_its_adapter_at_once():
    async with Registry(env={}) as reg:
        fake = FakeProvider(default=[TextDelta("first"), NEVER])
        reg.register("a", fake.provider(facts={"images": True, "max_images_per_request": 1}))
        stream = reg.stream("a/m", [user("What?", PICTURE)])
        assert (await anext(stream)).text == "first"
        closing = stream.aclose()
        with pytest.raises(StopIteration):
            closing.send(None)
        assert fake.calls[0].outcome == "closed"
