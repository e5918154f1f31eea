"""FakeProvider alone, and under a registry: a chain with failover, no network, no key."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from aiollm import (
    DeadlineError,
    FailoverError,
    Finish,
    RateLimitError,
    Registry,
    Request,
    StreamInterrupted,
    Target,
    TextDelta,
    Timeouts,
    ToolCallDelta,
    UnsupportedError,
    Usage,
)
from aiollm.testing import NEVER, FakeProvider, Gate, Pause, tool_call
from aiollm.types import ReasoningDelta, Status

TARGET = Target("fake", "m")


def run(fake: FakeProvider, prompt: str = "hi"):
    return fake.stream(fake.provider(), None, TARGET, Request(prompt), Timeouts())


async def items(fake: FakeProvider) -> list:
    async with aclosing(run(fake)) as batches:
        return [item async for batch in batches for item in batch]


class TestScripts:
    async def test_a_text_is_one_delta_and_a_finish(self):
        assert await items(FakeProvider("hello")) == [TextDelta("hello"), Finish("stop", "stop")]

    async def test_without_a_script_every_call_is_answered(self):
        fake = FakeProvider()
        assert [(await items(fake))[0].text for _ in range(3)] == ["Hello"] * 3

    @pytest.mark.parametrize(
        "step", [TextDelta("a"), tool_call("f"), Finish("length"), Status("s")]
    )
    async def test_a_step_alone_is_a_script(self, step):
        assert await items(FakeProvider(step)) == await items(FakeProvider([step]))

    async def test_so_is_a_wait(self):
        fake = FakeProvider(NEVER)
        async with asyncio.TaskGroup() as tasks:
            call = tasks.create_task(items(fake))
            await fake.wait_calls(1)
            assert fake.running == 1
            call.cancel()
        assert fake.calls[0].outcome == "closed"

    @pytest.mark.parametrize("script", [5, b"a", {"a": 1}, ["a", None], [["a", 5]], ValueError])
    def test_what_is_no_script_is_refused_where_it_is_written(self, script):
        for make in (FakeProvider, lambda each: FakeProvider(default=each), FakeProvider().push):
            with pytest.raises(TypeError, match="a script has a step of type"):
                make(script)

    async def test_so_is_what_a_function_chooses_when_it_is_called(self):
        with pytest.raises(TypeError, match="a script has a step of type int"):
            await items(FakeProvider(lambda target, request: 5))

    async def test_steps_are_texts_items_and_batches(self):
        usage = Usage(1, 2, certainty="exact")
        script = ["a", ReasoningDelta("b"), ["c", Status("d")], [], Finish("length", usage=usage)]
        fake = FakeProvider(script)
        async with aclosing(run(fake)) as batches:
            got = [batch async for batch in batches]
        assert got == [
            [TextDelta("a")],
            [ReasoningDelta("b")],
            [TextDelta("c"), Status("d")],
            [],
            [Finish("length", usage=usage)],
        ]

    async def test_what_stands_after_a_finish_is_not_played(self):
        assert (await items(FakeProvider([Finish("stop"), "late"]))) == [Finish("stop")]

    async def test_a_tool_call_finishes_with_its_own_reason(self):
        got = await items(FakeProvider([tool_call("weather", {"city": "Oslo"})]))
        call = ToolCallDelta(0, "call_0", "weather", '{"city":"Oslo"}')
        assert got == [call, Finish("tool_calls", "tool_calls")]

    async def test_each_tool_call_of_an_answer_gets_an_index_of_its_own(self):
        raw = ToolCallDelta(3, "raw", "look", "{}")
        script = ["Hm.", tool_call("look"), [tool_call("look"), raw], tool_call("rate")]
        fake = FakeProvider(script, script)
        for _ in range(2):
            calls = [each for each in await items(fake) if isinstance(each, ToolCallDelta)]
            assert [(each.index, each.id) for each in calls] == [
                (0, "call_0"),
                (1, "call_1"),
                (3, "raw"),
                (4, "call_4"),
            ]

    async def test_a_tool_call_may_have_an_id_of_its_own(self):
        got = await items(FakeProvider([tool_call("look"), tool_call("pay", id="p-7")]))
        assert [each.id for each in got if isinstance(each, ToolCallDelta)] == ["call_0", "p-7"]

    async def test_two_tool_calls_of_an_answer_are_two_calls(self):
        fake = FakeProvider([tool_call("look", {"a": 1}), tool_call("rate", {"b": 2})])
        async with Registry(env={}) as reg:
            reg.register("fake", fake.provider())
            calls = (await reg.generate("fake/m", "hi")).tool_calls
        assert [(each.name, each.arguments) for each in calls] == [
            ("look", '{"a":1}'),
            ("rate", '{"b":2}'),
        ]

    async def test_the_same_index_twice_is_an_assertion_error(self):
        fake = FakeProvider([tool_call("look"), tool_call("rate", index=0)])
        with pytest.raises(AssertionError, match="two tool calls of the script have the index 0"):
            await items(fake)

    async def test_scripts_are_used_in_order_and_then_the_default(self):
        fake = FakeProvider("one", default="more")
        fake.push("two")
        assert [(await items(fake))[0].text for _ in range(4)] == ["one", "two", "more", "more"]

    async def test_a_call_beyond_the_scripts_is_an_assertion_error(self):
        fake = FakeProvider("one")
        await items(fake)
        with pytest.raises(AssertionError, match=r"'fake' got call 2, but its scripts are used up"):
            await items(fake)

    async def test_a_callable_chooses_by_target_and_request(self):
        def choose(target, request):
            return f"{target}: {request.messages[0].text}"

        assert (await items(FakeProvider(default=choose)))[0].text == "fake/m: hi"

    async def test_an_error_is_raised_where_it_stands(self):
        fake = FakeProvider(["a", StreamInterrupted("cut")])
        got = []
        with pytest.raises(StreamInterrupted, match="cut"):
            async with aclosing(run(fake)) as batches:
                async for batch in batches:
                    got += batch
        assert got == [TextDelta("a")]

    async def test_an_error_used_twice_is_two_errors(self):
        error = DeadlineError("late", which="idle", after=3.0)
        fake = FakeProvider(default=error)
        seen = []
        for _ in range(2):
            with pytest.raises(DeadlineError) as caught:
                await items(fake)
            seen.append(caught.value)
        assert seen[0] is not seen[1]
        assert error.__traceback__ is None
        assert (seen[1].which, seen[1].after, str(seen[1])) == ("idle", 3.0, "late")

    async def test_a_group_of_errors_may_be_scripted_too(self):
        error = FailoverError("all failed", [RateLimitError("slow")])
        with pytest.raises(FailoverError) as caught:
            await items(FakeProvider(error))
        assert caught.value.exceptions == error.exceptions

    async def test_a_gate_holds_the_answer(self):
        gate = Gate()
        fake = FakeProvider(["a", gate, "b"])
        task = asyncio.create_task(items(fake))
        await gate.reached()
        assert not task.done()
        gate.open()
        assert [item.text for item in await task] == ["a", "b", ""]

    async def test_a_pause_asks_the_sleep_it_was_given(self):
        slept = []

        async def sleep(seconds):
            slept.append(seconds)

        await items(FakeProvider([Pause(60), "a"], sleep=sleep))
        assert slept == [60]


class TestRecords:
    async def test_calls_are_recorded_with_what_became_of_them(self):
        fake = FakeProvider("a", StreamInterrupted("cut"), [NEVER])
        await items(fake)
        with pytest.raises(StreamInterrupted):
            await items(fake)
        task = asyncio.create_task(items(fake))
        await fake.wait_calls(3)
        assert [call.outcome for call in fake.calls] == ["finished", "failed", "running"]
        assert fake.running == 1
        task.cancel()
        await fake.wait_idle()
        assert [call.outcome for call in fake.calls] == ["finished", "failed", "closed"]
        assert fake.calls[0].target == TARGET
        assert fake.requests == (Request("hi"),) * 3

    async def test_a_reader_that_leaves_closes_its_call(self):
        fake = FakeProvider(["a", "b"])
        async with aclosing(run(fake)) as batches:
            await anext(batches)
        assert fake.calls[0].outcome == "closed"

    async def test_a_reader_that_stops_at_the_finish_had_it_all(self):
        fake = FakeProvider("a")
        async with aclosing(run(fake)) as batches:
            await anext(batches)
            await anext(batches)
        assert fake.calls[0].outcome == "finished"

    async def test_waiting_for_calls_that_do_not_come_says_how_many_came(self):
        fake = FakeProvider()
        with pytest.raises(TimeoutError, match="2 calls of 'fake'; so far 0"):
            await fake.wait_calls(2, within=0.01)


class TestUnderARegistry:
    async def test_a_chain_fails_over_to_the_next_target(self):
        down = FakeProvider(RateLimitError("slow down", status=429), name="m5")
        up = FakeProvider("Hello from m1", name="m1")
        async with Registry(env={}) as reg:
            reg.register("m5", down.provider())
            reg.register("m1", up.provider())
            response = await reg.generate("m5/qwen3,m1/qwen3", "Why is the sky blue?")
        assert response.text == "Hello from m1"
        assert [attempt.outcome for attempt in response.attempts] == ["failed", "success"]
        assert down.requests[0].messages[0].text == "Why is the sky blue?"

    async def test_a_deadline_ends_a_provider_that_hangs(self):
        fake = FakeProvider("the first call opens the transport", [NEVER])
        async with Registry(env={}, retries=0) as reg:
            reg.register("fake", fake.provider())
            await reg.generate("fake/m", "hi")
            with pytest.raises(FailoverError) as caught:
                await reg.generate("fake/m", "hi", timeouts=Timeouts(first_output=0.1))
        (error,) = caught.value.exceptions
        assert isinstance(error, DeadlineError)
        assert error.which == "first_output"
        assert fake.calls[1].outcome == "closed"

    async def test_the_loser_of_a_race_is_closed(self):
        slow = FakeProvider([NEVER], name="slow")
        fast = FakeProvider("fast", name="fast")
        async with Registry(env={}, stagger=0.0) as reg:
            reg.register("slow", slow.provider())
            reg.register("fast", fast.provider())
            response = await reg.generate("slow/m|fast/m", "hi")
        assert response.text == "fast"
        assert slow.calls[0].outcome == "closed"

    async def test_facts_and_options_are_those_given(self):
        provider = FakeProvider(name="x").provider(facts={"images": False})
        assert provider.capabilities("m").images is False
        assert (provider.name, provider.scheme, provider.host) == ("x", "fake", "x")

    async def test_what_needs_a_wire_is_refused(self):
        async with Registry(env={}) as reg:
            reg.register("fake", FakeProvider().provider())
            with pytest.raises(UnsupportedError, match="'fake' is a FakeProvider"):
                await reg.models("fake")
            assert await reg.load_models("fake/m") == ()
