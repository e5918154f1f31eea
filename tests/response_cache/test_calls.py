"""Calls that use the response cache: what is asked, what is replayed, and what says so."""

from __future__ import annotations

import asyncio
import gc
import struct
import zlib
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from aiollm import (
    Budget,
    ConfigError,
    FailoverError,
    Limits,
    OutputError,
    Price,
    Registry,
    Request,
    StreamInterrupted,
    Target,
    user,
)
from aiollm.errors import ProviderError
from aiollm.events import AttemptStarted, CallEnded, CallStarted
from aiollm.otel.semconv import response_attributes
from aiollm.testing import NEVER, FakeProvider, Gate
from aiollm.types import (
    Cost,
    Finish,
    ImagePart,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)

USED = Usage(10, 20, certainty="exact", billed_usd=0.5)
SAID = [ReasoningDelta("hm"), "Hel", "lo", Finish("stop", "end", USED)]
DOWN = ProviderError("down", status=500)


class City(msgspec.Struct):
    name: str


async def test_an_equal_request_is_answered_without_being_asked(keeping: Callable) -> None:
    fake = FakeProvider(SAID)
    reg = await keeping(fake)
    first = await reg.generate("fake/m", "hi", response_cache="use")
    second = await reg.generate("fake/m", Request("hi"), response_cache="use")
    assert len(fake.calls) == 1
    assert (first.cached, second.cached) == (False, True)
    own = {"attempts", "timings", "cost"}
    for name in set(first.__struct_fields__) - own:
        assert getattr(first, name) == getattr(second, name), name
    assert second.cost == Cost(0.0, "billed", 0.0)
    (attempt,) = second.attempts
    assert (attempt.target, attempt.outcome, attempt.usd) == (Target("fake", "m"), "success", 0.0)
    assert attempt.cached
    assert second.timings.first_output is not None


async def test_another_registry_finds_what_one_kept(keeping: Callable) -> None:
    async with await keeping(FakeProvider(SAID)) as reg:
        await reg.generate("fake/m", "hi", response_cache="use")
    reg = await keeping(FakeProvider(AssertionError("asked")))
    assert (await reg.generate("fake/m", "hi", response_cache="use")).text == "Hello"


async def test_a_hit_is_a_stream(keeping: Callable) -> None:
    reg = await keeping(FakeProvider(SAID))
    await reg.generate("fake/m", "hi", response_cache="use")
    async with reg.stream("fake/m", "hi", response_cache="use") as stream:
        await stream.ready()
        assert stream.target == Target("fake", "m")
        chunks = [chunk async for chunk in stream.heartbeat(60)]
    assert chunks == [ReasoningDelta("hm"), TextDelta("Hello"), Finish("stop", "end", USED)]
    assert stream.response.cached


async def test_only_calls_that_say_so_use_it(keeping: Callable, threads: Callable) -> None:
    fake = FakeProvider(default="Hello")
    reg = await keeping(fake)
    for _ in range(2):
        await reg.generate("fake/m", "hi")
        await reg.generate("fake/m", "hi", response_cache=None)
    assert len(fake.calls) == 4
    assert not threads()
    assert not (await reg.generate("fake/m", "hi", response_cache="use")).cached


async def test_refresh_asks_anew_and_keeps_the_new_answer(keeping: Callable) -> None:
    reg = await keeping(FakeProvider("old", "new"))
    said = [
        (await reg.generate("fake/m", "hi", response_cache=word)).text
        for word in ("use", "use", "refresh", "use")
    ]
    assert said == ["old", "old", "new", "new"]


@pytest.mark.parametrize(
    "script",
    [
        ["Hel", DOWN],
        [TextDelta("Hel"), Finish("length", "length")],
        [TextDelta("Hel"), Finish("content_filter", "filter")],
        [Finish("stop", "stop")],
        ["Hel", [Finish("stop", "stop"), "lo"], DOWN],
    ],
    ids=["cut", "limit of the server", "filtered", "empty", "failed after its end"],
)
async def test_an_answer_that_is_not_complete_is_not_kept(keeping: Callable, script: Any) -> None:
    reg = await keeping(FakeProvider(script, "whole"), retries=0)
    for _ in range(2):
        try:
            response = await reg.generate("fake/m", "hi", response_cache="use")
        except (ProviderError, StreamInterrupted):
            continue
    assert response.text == "whole"
    assert not response.cached


async def test_an_answer_that_nobody_waited_for_is_not_kept(keeping: Callable) -> None:
    fake = FakeProvider(["Hel", NEVER], "whole", default=["Hel", "lo"])
    reg = await keeping(fake)
    async with reg.stream("fake/m", "hi", response_cache="use") as stream:
        await anext(stream)
    assert (await reg.generate("fake/m", "hi", response_cache="use")).text == "whole"
    async with reg.stream("fake/m", "bye", response_cache="use") as stream:
        async for chunk in stream:
            if isinstance(chunk, Finish):
                break  # it is complete, though nobody reads on
    assert (await reg.generate("fake/m", "bye", response_cache="use")).cached


async def test_an_answer_that_two_targets_wrote_is_not_kept(keeping: Callable) -> None:
    one = FakeProvider(["Hel", DOWN], name="one")
    two = FakeProvider("lo", "Hello of two", name="two")
    reg = await keeping(one)
    reg.register("two", two.provider(facts={"prefill": True}))
    options = {"on_interrupt": "continue", "response_cache": "use"}
    assert (await reg.generate("one/m,two/m", "hi", **options)).text == "Hello"
    assert (await reg.generate("two/m", "hi", response_cache="use")).text == "Hello of two"


async def test_what_one_target_began_anew_is_kept(keeping: Callable) -> None:
    one, two = FakeProvider(["Hel", DOWN], name="one"), FakeProvider("Bye", name="two")
    reg = await keeping(one, two)
    options = {"on_interrupt": "restart", "response_cache": "use"}
    assert (await reg.generate("one/m,two/m", "hi", **options)).text == "Bye"
    response = await reg.generate("two/m", "hi", response_cache="use")
    assert (response.text, response.cached) == ("Bye", True)


async def test_the_second_answer_of_a_chain_does_not_stand_for_the_first(keeping: Callable) -> None:
    one = FakeProvider(DOWN, "one is back", name="one")
    two = FakeProvider("two", name="two")
    reg = await keeping(one, two)
    chain = "one/m,two/m"
    said = [
        (await reg.generate(spec, "hi", response_cache="use", retries=0)).text
        for spec in (chain, chain, "two/m", "two/m,one/m", chain)
    ]
    assert said == ["two", "one is back", "two", "two", "one is back"]
    assert (len(one.calls), len(two.calls)) == (2, 1)


@pytest.mark.parametrize("spec", ["one/m|two/m", "one/m&two/m"])
async def test_any_target_of_a_race_or_spread_will_do(keeping: Callable, spec: str) -> None:
    one, two = FakeProvider("one", name="one"), FakeProvider("two", name="two")
    reg = await keeping(one, two)
    await reg.generate("two/m", "hi", response_cache="use")
    response = await reg.generate(spec, "hi", response_cache="use")
    assert (response.text, response.target) == ("two", Target("two", "m"))
    assert not one.calls


async def test_a_hit_needs_neither_health_nor_room(keeping: Callable) -> None:
    fake = FakeProvider("kept", DOWN, ["Hel", NEVER])
    reg = await keeping(retries=0)
    reg.register("fake", fake.provider(), limits=Limits(max_concurrency=1))
    await reg.generate("fake/m", "hi", response_cache="use")
    with pytest.raises(FailoverError):
        await reg.generate("fake/m", "bye", response_cache="use")
    assert (await reg.generate("fake/m", "hi", response_cache="use")).cached


async def test_a_hit_costs_nothing_and_needs_no_budget(keeping: Callable) -> None:
    bill = [TextDelta("a"), Finish("stop", "stop", Usage(10, 20, certainty="exact"))]
    reg = await keeping(FakeProvider(bill), prices={"fake/*": Price(1e6, 1e6)})
    options = {"response_cache": "use", "session": "chat", "max_output_tokens": 20}
    paid = await reg.generate("fake/m", "hi", budget=Budget(usd=1000), **options)
    assert paid.cost.usd == 30
    budget, ended = Budget(usd=0), []
    reg.on_event(ended.append)
    free = await reg.generate("fake/m", "hi", budget=budget, **options)
    assert free.cost == Cost(0.0, "billed", 0.0)
    assert (budget.spent, budget.reserved) == (0, 0)
    assert ended[-1].response.cost.usd == 0.0


async def test_events_tell_of_a_call_that_asked_nobody(keeping: Callable) -> None:
    reg = await keeping(FakeProvider(SAID))
    await reg.generate("fake/m", "hi", response_cache="use")
    events: list[Any] = []
    reg.on_event(events.append)
    response = await reg.generate("fake/m", "hi", response_cache="use")
    assert [type(each) for each in events] == [CallStarted, CallEnded]
    assert not any(isinstance(each, AttemptStarted) for each in events)
    end = events[-1]
    assert (end.call, end.outcome, end.target) == (2, "success", Target("fake", "m"))
    assert (end.finish_reason, end.usage) == ("stop", USED)
    assert end.response.cached
    assert end.response.text == response.text
    assert response_attributes(end.response)["aiollm.response_cache.hit"] is True


async def test_typed_answers_and_their_repairs_are_kept(keeping: Callable) -> None:
    fake = FakeProvider("Rome", '{"name": "Rome"}')
    reg = await keeping(fake)
    for _ in range(2):
        city = await reg.generate("fake/m", "Where?", output=City, response_cache="use")
        assert city == City("Rome")
    assert len(fake.calls) == 2


async def test_a_reply_that_does_not_fit_can_be_asked_anew(keeping: Callable) -> None:
    reg = await keeping(FakeProvider("Rome", '{"name": "Rome"}'))
    options: Any = {"output": City, "repairs": 0}
    for _ in range(2):
        with pytest.raises(OutputError):
            await reg.generate("fake/m", "Where?", response_cache="use", **options)
    for word in ("refresh", "use"):
        city = await reg.generate("fake/m", "Where?", response_cache=word, **options)
        assert city == City("Rome")


async def test_the_turns_of_a_run_are_kept(keeping: Callable) -> None:
    call = [ToolCallDelta(0, "1", "double", '{"number": 4}'), Finish("tool_calls", "tool_calls")]
    fake, doubled = FakeProvider(call, "It is 8."), []

    def double(number: int) -> int:
        doubled.append(number)
        return 2 * number

    reg = await keeping(fake)
    for _ in range(2):
        run = reg.run("fake/m", "Double 4.", tools=[double], response_cache="use")
        assert (await run.collect()).text == "It is 8."
    assert len(fake.calls) == 2
    assert doubled == [4, 4], "tools are run again"


async def test_images_in_a_request_are_part_of_it(keeping: Callable) -> None:
    fake = FakeProvider("one", "two")
    reg = await keeping(fake)
    png, other = fake_png(b"\x00"), fake_png(b"\xff")
    said = [
        (await reg.generate("fake/m", [user("?", ImagePart(data))], response_cache="use")).text
        for data in (png, other, png)
    ]
    assert said == ["one", "two", "one"]


def fake_png(colour: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"\x00" + colour * 3))
    return b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b"")


async def test_two_equal_calls_at_once_are_both_asked(keeping: Callable) -> None:
    gate = Gate()
    fake = FakeProvider([gate, "one"], [gate, "two"])
    reg = await keeping(fake)
    calls = [
        asyncio.create_task(reg.generate("fake/m", "hi", response_cache="use")) for _ in range(2)
    ]
    await fake.wait_calls(2)
    gate.open()
    assert {(await each).text for each in calls} == {"one", "two"}


@pytest.mark.parametrize(
    ("address", "word", "reason"),
    [
        (None, "use", r"its registry has none: Registry\(response_cache='sqlite:answers.db'\)"),
        ("sqlite:x.db", "reuse", "response_cache is 'reuse': expected one of use, refresh"),
        ("sqlite:x.db", True, "response_cache is True: expected one of use, refresh"),
    ],
)
def test_a_wrong_word_is_refused_at_once(address: Any, word: Any, reason: str) -> None:
    reg = Registry(env={}, response_cache=address)
    reg.register("fake", FakeProvider().provider())
    with pytest.raises(ConfigError, match=reason):
        reg.stream("fake/m", "hi", response_cache=word)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("answers.db", "expected 'sqlite:' and the path"),
        (5, "response_cache is 5"),
        ("", "expected 'sqlite:'"),
        ("sqlite:", "expected the path of a file"),
        ("sqlite:folder/", "expected the path of a file"),
        ("sqlite::memory:", "expected the path of a file"),
        ("sqlite:///x.db", "without slashes of a host"),
        ("sqlite:x.db?max_mb=0", "max_mb is '0', expected a number from 1 up"),
        ("sqlite:x.db?max_mb=nan", "max_mb is 'nan'"),
        ("sqlite:x.db?days=-1", "days is '-1', expected a number above 0"),
        ("sqlite:x.db?days=", "days is ''"),
        ("sqlite:x.db?size=5", "unknown option 'size'"),
    ],
)
def test_a_wrong_address_is_refused_where_it_is_written(address: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        Registry(env={}, response_cache=address)


async def test_images_out_take_no_such_option(keeping: Callable) -> None:
    reg = await keeping(FakeProvider())
    with pytest.raises(TypeError, match="response_cache"):
        reg.stream_images("fake/m", "a cat", response_cache="use")


async def test_a_lookup_that_is_left_ends_the_call(keeping: Callable) -> None:
    fake = FakeProvider("never asked", "asked")
    reg = await keeping(fake)
    events: list[Any] = []
    began = asyncio.Event()
    reg.on_event(events.append)
    reg.on_event(lambda _: began.set())
    task = asyncio.create_task(reg.generate("fake/m", "hi", response_cache="use"))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not fake.calls
    assert [(type(each), getattr(each, "outcome", "")) for each in events] == [
        (CallStarted, ""),
        (CallEnded, "abandoned"),
    ]
    assert (await reg.generate("fake/m", "hi", response_cache="use")).text == "never asked"


async def test_a_registry_that_is_dropped_ends_its_thread(file: Any, threads: Callable) -> None:
    reg = Registry(env={}, response_cache=f"sqlite:{file}")
    reg.register("fake", FakeProvider("kept").provider())
    reg.on_event(lambda _, reg=reg: None)  # a circle, as hooks make it
    await reg.generate("fake/m", "hi", response_cache="use")
    (thread,) = threads()
    with pytest.warns(ResourceWarning, match="was not closed"):  # noqa: PT031 - both drop it
        del reg
        gc.collect()
    await asyncio.to_thread(thread.join, 10)
    assert not thread.is_alive()
    async with Registry(env={}, response_cache=f"sqlite:{file}") as reg:
        reg.register("fake", FakeProvider().provider())
        assert (await reg.generate("fake/m", "hi", response_cache="use")).text == "kept"


async def test_closing_writes_all_and_ends_the_thread(keeping: Callable, threads: Callable) -> None:
    texts = [f"answer {number}" for number in range(200)]
    async with await keeping(FakeProvider(*texts)) as reg:
        for text in texts:
            await reg.generate("fake/m", text, response_cache="refresh")
    await asyncio.gather(*(asyncio.to_thread(each.join, 10) for each in threads()))
    reg = await keeping(FakeProvider(AssertionError("asked")))
    found = [(await reg.generate("fake/m", text, response_cache="use")).text for text in texts]
    assert found == texts
