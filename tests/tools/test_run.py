"""Agent runs: turns, tools side by side, errors as results, a history that always fits."""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
import threading
import weakref
from collections import Counter
from typing import Any

import msgspec
import pytest

from aiollm import (
    ClosedError,
    ConfigError,
    FailoverError,
    Finish,
    ImagePart,
    Message,
    Registry,
    Request,
    Restart,
    RunResult,
    ServerError,
    SpecError,
    StreamInterrupted,
    TextDelta,
    TextPart,
    Tool,
    ToolCallDelta,
    ToolCallPart,
    ToolEnded,
    ToolResultPart,
    ToolStarted,
    TurnEnded,
    TurnLimitError,
    Usage,
    WebSearch,
    assistant,
    tool,
    tool_results,
    user,
)
from aiollm._agent import tool_runner
from aiollm._agent.tool_runner import ToolRunner
from aiollm._validation import check
from aiollm.testing import NEVER, FakeProvider, Gate, chat, tool_call

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)


@tool
async def double(number: int) -> int:
    """Double a number."""
    return 2 * number


@tool
def fail(reason: str) -> str:
    """Fail."""
    raise LookupError(reason)


def kinds(events: list[Any]) -> list[str]:
    return [type(event).__name__ for event in events]


def results(events: list[Any]) -> dict[str, ToolEnded]:
    return {event.call.id: event for event in events if isinstance(event, ToolEnded)}


async def gather(run: Any) -> list[Any]:
    return [event async for event in run]


async def test_a_run_calls_tools_until_the_model_answers(over):
    fake = FakeProvider(["Hm. ", tool_call("double", {"number": 4})], ["It is ", "8."])
    run = over(fake).run("fake/m", "2 * 4?", tools=[double])
    events = await gather(run)
    assert kinds(events) == [
        "TextDelta",
        "ToolCallDelta",
        "Finish",
        "TurnEnded",
        "ToolStarted",
        "ToolEnded",
        "TextDelta",
        "TextDelta",
        "Finish",
        "TurnEnded",
        "RunResult",
    ]
    called = ToolCallPart("call_0", "double", '{"number":4}')
    answer = ToolResultPart("call_0", (TextPart("8"),), "double")
    history = (
        user("2 * 4?"),
        assistant("Hm. ", called),
        tool_results(answer),
        assistant("It is 8."),
    )
    assert run.messages == events[-1].messages == history
    assert run.response is events[-1].response is events[-2].response
    assert run.response.text == "It is 8."
    assert run.turns == 2
    check(Request(run.messages))


async def test_the_text_of_all_events_is_what_the_model_said(over):
    fake = FakeProvider(["Hm. ", tool_call("double", {"number": 4})], "It is 8.")
    events = await gather(over(fake).run("fake/m", "hi", tools=[double]))
    assert "".join(event.text for event in events) == "Hm. It is 8."


async def test_a_model_that_needs_no_tool_just_answers(over):
    fake = FakeProvider("Hello")
    run = over(fake).run("fake/m", "hi", tools=[])
    assert (await run.collect()).text == "Hello"
    assert kinds(await gather(run)) == []
    assert run.messages == (user("hi"), assistant("Hello"))


async def test_nothing_is_sent_before_the_first_event(over):
    fake = FakeProvider()
    run = over(fake).run("fake/m", "hi", tools=[double])
    assert (fake.calls, run.turns, run.messages) == ([], 0, (user("hi"),))
    with pytest.raises(ClosedError, match="not ended yet"):
        _ = run.response
    assert run.usage == Usage()


async def test_what_was_closed_is_not_said_to_go_on(over):
    """Neither a run nor a stream has a result then, and waiting for one would be in vain."""
    reg = over(FakeProvider(default=["a", NEVER]))
    for opened in (reg.run("fake/m", "hi", tools=[double]), reg.stream("fake/m", "hi")):
        await anext(opened)
        with pytest.raises(ClosedError, match="not ended yet"):
            _ = opened.response
        await opened.aclose()
        with pytest.raises(ClosedError, match="ended before it was complete: use"):
            _ = opened.response


async def test_the_request_keeps_its_settings_and_its_own_tools_in_every_turn(over):
    fake = FakeProvider([tool_call("double", {"number": 1}), tool_call("own", {}, 1)], "2")
    own = Tool("own", function=lambda: "mine")
    request = Request("hi", system="Be brief.", temperature=0.0, tools=(own,))
    await over(fake).run("fake/m", request, tools=[double]).collect()
    first, second = fake.requests
    assert [each.name for each in first.tools] == ["own", "double"]
    assert (second.system, second.temperature, second.tools) == ("Be brief.", 0.0, first.tools)
    assert second.messages[-1].parts[1].text == "mine"
    assert request.messages == (user("hi"),)


async def test_plain_functions_can_be_passed_as_tools(over):
    def half(number: int) -> float:
        """Halve a number."""
        return number / 2

    fake = FakeProvider([tool_call("half", {"number": 3})], "ok")
    run = over(fake).run("fake/m", "hi", tools=[half])
    await run.collect()
    assert run.messages[2].parts[0].text == "1.5"


async def test_a_forced_tool_is_forced_in_the_first_turn_only(over):
    fake = FakeProvider([tool_call("double", {"number": 1})], "2")
    request = Request("hi", tool_choice="double")
    await over(fake).run("fake/m", request, tools=[double]).collect()
    assert [each.tool_choice for each in fake.requests] == ["double", "auto"]


async def test_an_errors_text_goes_back_to_the_model(over, caplog):
    fake = FakeProvider([tool_call("fail", {"reason": "no such city"})], "Sorry.")
    with caplog.at_level(logging.INFO, "aiollm"):
        events = await gather(over(fake).run("fake/m", "hi", tools=[fail]))
    finished = results(events)["call_0"]
    assert finished.result.is_error
    assert finished.result.text == "LookupError: no such city"
    assert isinstance(finished.error, LookupError)
    assert fake.requests[1].messages[-1] == tool_results(finished.result)
    assert "tool 'fail' raised LookupError" in caplog.text


async def test_an_exception_without_readable_text_goes_back_by_its_name(over):
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError("no text")

    async def f() -> None:
        raise Mute

    fake = FakeProvider([tool_call("f", {})], "Sorry.")
    events = await gather(over(fake).run("fake/m", "hi", tools=[f]))
    assert results(events)["call_0"].result.text == "Mute"


@pytest.mark.parametrize(
    "arguments",
    [
        '"\\"{\\\\\\"number\\\\\\":2}\\""',
        '```json\n{"number":2}\n```',
        '<think>two</think>{"number":2}',
        "{'number': 2,}",
        '{"name":"double","arguments":{"number":2}}',
        '{"parameters":"{\\"number\\":2}"}',
        '{"number":2,"factor":""}',
    ],
)
async def test_arguments_in_another_spelling_cost_no_turn(over, arguments):
    ran = []

    @tool(name="double")
    def spy(number: int, factor: int | None = 2) -> str:
        """Multiply a number."""
        ran.append((number, factor))
        return "4"

    whole = [ToolCallDelta(0, "c", "double", arguments), Finish("tool_calls", "tool_calls")]
    fake = FakeProvider(whole, "4")
    await over(fake).run("fake/m", "hi", tools=[spy]).collect()
    assert ran == [(2, 2)]
    assert isinstance(fake.requests[1].messages[1].parts[0].parsed(), dict)


async def test_another_spelling_in_an_answer_that_was_cut_is_not_read(over):
    cut = [ToolCallDelta(0, "c", "double", "{'number': 2}"), Finish("length", "length")]
    fake = FakeProvider(cut, "Sorry.")
    events = await gather(over(fake).run("fake/m", "hi", tools=[double]))
    assert results(events)["c"].result.is_error


@pytest.mark.parametrize(
    ("delta", "reason"),
    [
        (tool_call("double", {"name": "other", "arguments": {"number": 2}}), "unknown field"),
        (tool_call("doubel", {}), "there is no tool 'doubel'; the tools are: double"),
        (tool_call("double", {"number": "x"}), "Expected `int`, got `str` - at `$.number`"),
        (ToolCallDelta(0, "call_0", "double", '{"numb'), "not a complete JSON object"),
        (ToolCallDelta(0, "call_0", "double", "[4]"), "not a complete JSON object"),
        (tool_call("double", {"number": 1, "junk": "x" * 3_000_000}), "more than 1572864 bytes"),
        (
            ToolCallDelta(0, "call_0", "double", '{"junk":"%s"}' % ("\u6587" * 600_000)),
            "more than 1572864 bytes",
        ),
    ],
    ids=range(7),
)
async def test_a_call_that_cannot_be_run_is_not_started(over, delta, reason):
    fake = FakeProvider([delta], "Sorry.")
    events = await gather(over(fake).run("fake/m", "hi", tools=[double]))
    assert "ToolStarted" not in kinds(events)
    finished = results(events)["call_0"]
    assert finished.result.is_error
    assert reason in finished.result.text
    assert finished.seconds == 0.0
    assert fake.requests[1].messages[-1] == tool_results(finished.result)


async def test_a_call_cut_at_the_output_limit_is_never_run(over):
    cut = [ToolCallDelta(0, "c", "double", '{"number": 4'), Finish("length", "length")]
    fake = FakeProvider(cut, "Sorry.")
    events = await gather(over(fake).run("fake/m", "hi", tools=[double]))
    assert results(events)["c"].result.is_error


async def test_a_call_cut_before_its_arguments_is_not_run_with_its_defaults(over):
    ran = []

    @tool
    def wipe(path: str = "/") -> None:
        """Delete what is there."""
        ran.append(path)

    cut = [ToolCallDelta(0, "c", "wipe"), Finish("length", "length")]
    whole = [ToolCallDelta(0, "c", "wipe"), Finish("tool_calls", "tool_calls")]
    await over(FakeProvider(cut, "sorry")).run("fake/m", "?", tools=[wipe]).collect()
    assert ran == []
    await over(FakeProvider(whole, "done")).run("fake/m", "?", tools=[wipe]).collect()
    assert ran == ["/"]


async def test_a_call_cut_before_its_name_leaves_the_history(over):
    cut = ["I will ", ToolCallDelta(0, "c", "", ""), Finish("length", "length")]
    run = over(FakeProvider(cut)).run("fake/m", "hi", tools=[double])
    assert (await run.collect()).finish_reason == "length"
    assert run.messages == (user("hi"), assistant("I will "))


async def test_calls_of_a_filtered_answer_are_not_run(over):
    ran = []
    spy = Tool("spy", function=lambda: ran.append(1))
    fake = FakeProvider([tool_call("spy"), Finish("content_filter", "safety")])
    run = over(fake).run("fake/m", "hi", tools=[spy])
    events = await gather(run)
    assert kinds(events)[-3:] == ["TurnEnded", "ToolEnded", "RunResult"]
    assert "stopped (content_filter)" in results(events)["call_0"].result.text
    assert ran == []
    check(Request(run.messages))


async def test_an_empty_answer_adds_nothing_to_the_history(over):
    run = over(FakeProvider([Finish("stop", "stop")])).run("fake/m", "hi", tools=[])
    assert (await run.collect()).text == ""
    assert run.messages == (user("hi"),)


async def test_tools_run_side_by_side_and_results_keep_the_order_of_the_calls(over):
    gates = {name: Gate() for name in "ab"}

    @tool
    async def wait(name: str) -> str:
        """Wait."""
        await gates[name].passes()
        return name

    calls = [tool_call("wait", {"name": name}, index) for index, name in enumerate("ab")]
    fake = FakeProvider(calls, "ok")
    run = over(fake).run("fake/m", "hi", tools=[wait])
    seen: list[Any] = []
    async for event in run:
        if isinstance(event, ToolStarted | ToolEnded):
            seen.append((type(event).__name__, event.call.id))
        if len(seen) == 2:
            await gates["a"].reached()
            gates["b"].open()
        if len(seen) == 3:
            gates["a"].open()
    assert seen == [
        ("ToolStarted", "call_0"),
        ("ToolStarted", "call_1"),
        ("ToolEnded", "call_1"),
        ("ToolEnded", "call_0"),
    ]
    assert [part.text for part in run.messages[2].parts] == ["a", "b"]
    assert run.messages[2].role == "tool"


async def test_no_more_tools_than_allowed_run_at_a_time(over):
    running, most = 0, 0

    @tool
    async def step(number: int) -> int:
        """Take a step."""
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        running -= 1
        return number

    calls = [tool_call("step", {"number": number}, number) for number in range(20)]
    run = over(FakeProvider(calls, "ok")).run("fake/m", "hi", tools=[step], max_parallel=3)
    await run.collect()
    assert most == 3
    assert [part.text for part in run.messages[2].parts] == [str(n) for n in range(20)]


async def test_a_waiting_tool_is_told_as_started_once_it_runs(over):
    gate = Gate()

    @tool
    async def wait() -> str:
        """Wait."""
        await gate.passes()
        return "ok"

    calls = [tool_call("wait", {}, index) for index in range(2)]
    run = over(FakeProvider(calls, "ok")).run("fake/m", "hi", tools=[wait], max_parallel=1)
    order = []
    async for event in run:
        if isinstance(event, ToolStarted | ToolEnded):
            order.append((type(event).__name__, event.call.id))
            gate.open()
    assert order == [
        ("ToolStarted", "call_0"),
        ("ToolEnded", "call_0"),
        ("ToolStarted", "call_1"),
        ("ToolEnded", "call_1"),
    ]


async def test_a_tool_that_takes_too_long_is_an_error_result(over):
    cancelled = asyncio.Event()

    @tool
    async def hang() -> str:
        """Hang."""
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cancelled.set()

    fake = FakeProvider([tool_call("hang")], "Sorry.")
    events = await gather(over(fake).run("fake/m", "hi", tools=[hang], tool_timeout=0.01))
    finished = results(events)["call_0"]
    assert finished.result.text == "no result within 0.01 s"
    assert isinstance(finished.error, TimeoutError)
    assert finished.seconds > 0
    assert cancelled.is_set()


async def test_a_thread_that_takes_too_long_is_left_behind(over):
    leave = threading.Event()

    @tool
    def block() -> str:
        """Block."""
        leave.wait(10)
        return "late"

    fake = FakeProvider([tool_call("block")], "Sorry.")
    run = over(fake).run("fake/m", "hi", tools=[block], tool_timeout=0.01)
    try:
        assert (await run.collect()).text == "Sorry."
        assert run.messages[2].parts[0].text == "no result within 0.01 s"
    finally:
        leave.set()


async def test_a_tools_own_time_limit_wins(over):
    @tool(timeout=0.01)
    async def hang() -> str:
        """Hang."""
        await asyncio.get_running_loop().create_future()

    @tool(timeout=float("inf"))
    async def rest() -> str:
        """Rest."""
        await asyncio.sleep(0.05)
        return "rested"

    fake = FakeProvider([tool_call("hang"), tool_call("rest", {}, 1)], "ok")
    run = over(fake).run("fake/m", "hi", tools=[hang, rest], tool_timeout=0.02)
    await run.collect()
    assert [part.text for part in run.messages[2].parts] == ["no result within 0.01 s", "rested"]


async def test_a_timeout_that_the_tool_itself_raises_keeps_its_words(over):
    @tool
    async def ask() -> str:
        """Ask."""
        raise TimeoutError("the database")

    run = over(FakeProvider([tool_call("ask")], "ok")).run("fake/m", "hi", tools=[ask])
    await run.collect()
    assert run.messages[2].parts[0].text == "TimeoutError: the database"


async def test_a_cancellation_inside_a_tool_is_not_the_runs(over):
    @tool
    async def ask() -> str:
        """Wait for a task that someone else cancels."""
        other = asyncio.create_task(asyncio.sleep(10))
        other.cancel()
        return await other

    run = over(FakeProvider([tool_call("ask")], "ok")).run("fake/m", "hi", tools=[ask])
    assert (await run.collect()).text == "ok"
    assert run.messages[2].parts[0].text == "the tool was cancelled"
    assert run.messages[2].parts[0].is_error


async def test_a_tool_that_cancels_its_own_task_does_not_hang_the_run(over):
    @tool
    async def give_up() -> str:
        """Give up."""
        asyncio.current_task().cancel()
        await asyncio.sleep(0)

    run = over(FakeProvider([tool_call("give_up")], "ok")).run("fake/m", "hi", tools=[give_up])
    await run.collect()
    assert run.messages[2].parts[0].text == "the tool was cancelled"


class Stop(BaseException):
    """Nothing that a tool loop may swallow."""


@pytest.mark.parametrize("raised", [SystemExit(2), Stop(), GeneratorExit(), StopIteration()])
@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_whatever_a_tool_raises_is_its_result(over, raised, kind):
    """argparse and `exit()` raise SystemExit, and a service must not end with a tool."""

    def plain() -> str:
        raise raised

    async def slow() -> str:
        raise raised

    stop = tool(name="stop")(plain if kind == "plain" else slow)
    run = over(FakeProvider([tool_call("stop")], "ok")).run("fake/m", "hi", tools=[stop])
    assert (await run.collect()).text == "ok"
    (result,) = run.messages[2].parts
    assert result.is_error
    assert result.text.startswith((type(raised).__name__, "RuntimeError: coroutine raised Stop"))


@pytest.mark.parametrize("kind", ["async def", "def"])
def test_ctrl_c_in_a_tool_ends_the_program(kind):
    program = f"""
import asyncio
from aiollm import Registry
from aiollm.testing import FakeProvider, tool_call

{kind} stop() -> str:
    raise KeyboardInterrupt

async def main():
    async with Registry(env={{}}) as reg:
        reg.register("fake", FakeProvider([tool_call("stop")], "ok").provider())
        try:
            await reg.run("fake/m", "hi", tools=[stop]).collect()
        finally:
            print("ended")

asyncio.run(main())
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=50, check=False
    )
    assert ended.returncode != 0
    assert b"ended" in ended.stdout
    assert b"KeyboardInterrupt" in ended.stderr


async def test_a_tool_that_ignores_its_cancellation_is_reported_and_left(over, monkeypatch):
    monkeypatch.setattr(tool_runner, "GRACE", 0.01)
    release = asyncio.Event()

    @tool(timeout=0.01)
    async def stubborn() -> str:
        """Go on whatever happens."""
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return "late"

    run = over(FakeProvider([tool_call("stubborn")], "ok")).run("fake/m", "hi", tools=[stubborn])
    assert (await run.collect()).text == "ok"
    assert "ignores its cancellation and was left running" in run.messages[2].parts[0].text
    release.set()
    await asyncio.sleep(0)


async def test_closing_a_run_does_not_wait_for_ever_for_a_stubborn_tool(over, monkeypatch):
    monkeypatch.setattr(tool_runner, "GRACE", 0.01)
    release = asyncio.Event()

    @tool
    async def stubborn() -> str:
        """Go on whatever happens."""
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return "late"

    run = over(FakeProvider([tool_call("stubborn")], "ok")).run("fake/m", "hi", tools=[stubborn])
    async for event in run:
        if isinstance(event, ToolStarted):
            break
    await run.aclose()
    release.set()
    await asyncio.sleep(0)


async def test_hung_tools_take_nothing_from_others():
    """Neither name lookups and other threads of the loop, nor other tools, and no call waits."""
    release = threading.Event()

    @tool(timeout=0.01)
    def hung() -> str:
        """Hang, as a call to a dead service does."""
        release.wait(30)
        return "late"

    @tool
    def fine() -> str:
        """Work."""
        return "fine"

    def script(_, request):
        calls = [tool_call("hung", {}, 0), tool_call("fine", {}, 1)]
        return "ok" if len(request.messages) > 1 else calls

    try:
        async with Registry(env={}, tool_threads=8) as reg:
            reg.register("fake", FakeProvider(default=script).provider())
            for number in range(20):
                run = reg.run("fake/m", "hi", tools=[hung, fine])
                await run.collect()
                first, second = run.messages[2].parts
                assert second.text == "fine"
                expected = "no result within" if number < 4 else "4 earlier calls of it overran"
                assert expected in first.text
            threads = [each for each in threading.enumerate() if each.name == "aiollm tool hung"]
            assert len(threads) == 4
            assert all(each.daemon for each in threads)
            assert await asyncio.to_thread(lambda: "free") == "free"
            release.set()
            for each in threads:
                each.join()
            await asyncio.sleep(0)
            patient = msgspec.structs.replace(hung, timeout=None)
            run = reg.run("fake/m", "hi", tools=[fine, patient])
            await run.collect()
            assert run.messages[2].parts[0].text == "late"
    finally:
        release.set()


class Cancelling(ToolRunner):
    """Cancels a call in the very turn of the loop in which its thread has ended."""

    task: asyncio.Task[Any] | None = None

    def _ended(self, *what: Any) -> None:
        super()._ended(*what)
        if self.task is not None:
            self.task.cancel()


@pytest.mark.parametrize("is_failing", [False, True])
async def test_a_thread_that_ends_as_its_time_is_over_is_not_counted_as_left(is_failing):
    def work() -> str:
        if is_failing:
            raise LookupError("nothing")
        return "done"

    runner = Cancelling(2)
    for _ in range(3):
        runner.task = asyncio.create_task(runner._in_thread("work", work))
        with pytest.raises(asyncio.CancelledError):
            await runner.task
    runner.task = None
    outcome = await runner.run("work", lambda: "done", None)
    assert outcome.value == "done"


async def test_plain_tools_wait_for_a_free_thread():
    running = Counter()

    @tool
    def work() -> str:
        """Work, and note how many do."""
        with lock:
            running["now"] += 1
            running["most"] = max(running["most"], running["now"])
        with lock:
            running["now"] -= 1
        return "done"

    lock = threading.Lock()
    calls = [tool_call("work", {}, index) for index in range(20)]
    async with Registry(env={}, tool_threads=2) as reg:
        reg.register("fake", FakeProvider(calls, "ok").provider())
        run = reg.run("fake/m", "hi", tools=[work], max_parallel=20)
        await run.collect()
        assert [part.text for part in run.messages[2].parts] == ["done"] * 20
    assert running["most"] <= 2


async def test_a_tool_without_a_thread_says_so(over, monkeypatch):
    def no_thread(self):
        raise RuntimeError("can't start new thread")

    @tool
    def f() -> str:
        return "done"

    run = over(FakeProvider([tool_call("f")], "ok")).run("fake/m", "hi", tools=[f])
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    await run.collect()
    assert run.messages[2].parts[0].text == "not run: can't start new thread"


@pytest.mark.parametrize("threads", [0, -1, 1.5, "8", None, True])
def test_tool_threads_are_a_number_above_0(threads):
    with pytest.raises(ConfigError, match="tool_threads"):
        Registry(env={}, tool_threads=threads)


async def test_what_a_tool_returns_that_is_no_result_is_an_error_result(over):
    bad = Tool("bad", function=lambda: object())  # noqa: PLW0108
    run = over(FakeProvider([tool_call("bad")], "ok")).run("fake/m", "hi", tools=[bad])
    await run.collect()
    (part,) = run.messages[2].parts
    assert part.is_error
    assert "returned object, which is not JSON" in part.text


async def test_images_in_results_reach_the_model(over):
    @tool
    def look() -> list[Any]:
        """Look."""
        return ["A dot:", ImagePart(PNG)]

    fake = FakeProvider([tool_call("look")], "A dot.")
    facts = {"images": True, "tool_result_images": True}
    run = over(fake, facts=facts).run("fake/m", "hi", tools=[look])
    await run.collect()
    (part,) = fake.requests[1].messages[-1].parts
    assert part.text == "A dot:"
    assert isinstance(part.content[1], ImagePart)


async def test_too_many_turns_raise_with_the_whole_history(over):
    fake = FakeProvider(default=[tool_call("double", {"number": 1})])
    run = over(fake).run("fake/m", "hi", tools=[double], max_turns=2)
    with pytest.raises(TurnLimitError, match="after 2 turns") as caught:
        await run.collect()
    error = caught.value
    assert len(fake.calls) == run.turns == 2
    assert error.messages == run.messages
    assert [message.role for message in error.messages] == [
        "user",
        "assistant",
        "tool",
        "assistant",
        "tool",
    ]
    assert error.response.tool_calls
    check(Request(error.messages))
    fake.push("Enough.")
    again = over(fake).run("fake/m", error.messages, tools=[double])
    assert (await again.collect()).text == "Enough."


@pytest.mark.parametrize(
    "limits",
    [
        {"max_turns": 0},
        {"max_turns": 1.5},
        {"max_turns": True},
        {"max_parallel": 0},
        {"tool_timeout": 0},
        {"tool_timeout": -1.0},
        {"tool_timeout": float("nan")},
    ],
)
async def test_limits_that_make_no_sense_fail_at_once(over, limits):
    with pytest.raises(ConfigError, match=next(iter(limits))):
        over(FakeProvider()).run("fake/m", "hi", tools=[double], **limits)


@pytest.mark.parametrize(
    ("spec", "request_", "tools", "kind"),
    [
        ("nowhere/m", "hi", [double], SpecError),
        ("fake/m", "hi", [double, double], ConfigError),
        ("fake/m", "hi", [Tool("remote")], ConfigError),
        ("fake/m", "hi", [lambda x: x], ConfigError),
        ("fake/m", Request("hi", tools=(Tool("remote"),)), [double], ConfigError),
        ("fake/m", Request("hi", tool_choice="absent"), [double], ConfigError),
        ("fake/m", [], [double], ConfigError),
    ],
)
async def test_what_cannot_work_fails_before_anything_is_sent(over, spec, request_, tools, kind):
    fake = FakeProvider()
    with pytest.raises(kind):
        over(fake).run(spec, request_, tools=tools)
    assert fake.calls == []


async def test_usage_is_summed_over_the_turns(over):
    first = Usage(10, 5, 2, 1, "exact")
    second = Usage(20, 7, 4, 0, "exact")
    fake = FakeProvider(
        [tool_call("double", {"number": 1}), Finish("tool_calls", "", first)],
        ["2", Finish("stop", "", second)],
    )
    run = over(fake).run("fake/m", "hi", tools=[double])
    events = await gather(run)
    assert run.usage == events[-1].usage == Usage(30, 12, 6, 1, "exact")
    assert run.response.usage == second


async def test_a_turn_without_usage_makes_the_sum_partial(over):
    fake = FakeProvider(
        [tool_call("double", {"number": 1}), Finish("tool_calls", "", Usage(1, 1, 0, 0, "exact"))],
        "2",
    )
    run = over(fake).run("fake/m", "hi", tools=[double])
    await run.collect()
    assert run.usage == Usage(1, 1, 0, 0, "partial")


async def test_every_turn_fails_over_by_itself(over):
    broken = FakeProvider(
        [tool_call("double", {"number": 1})], ServerError("down", status=500), name="one"
    )
    spare = FakeProvider("two", name="two")
    run = over(broken, spare).run("one/m,two/m", "hi", tools=[double])
    events = await gather(run)
    targets = [str(event.response.target) for event in events if isinstance(event, TurnEnded)]
    assert targets == ["one/m", "two/m"]
    assert spare.requests[0].messages == run.messages[:-1]


async def test_a_restart_inside_a_turn_voids_what_came_of_it(over):
    calls = [tool_call("double", {"number": 1}), StreamInterrupted("cut")]
    broken = FakeProvider(["Well, ", *calls], name="one")
    spare = FakeProvider("two", name="two")
    ran: list[int] = []

    @tool
    def double(number: int) -> None:
        """Note that it ran."""
        ran.append(number)

    registry = over(broken, spare)
    run = registry.run("one/m,two/m", "hi", tools=[double], on_interrupt="restart")
    events = await gather(run)
    assert "Restart" in kinds(events)
    assert any(isinstance(event, Restart) for event in events)
    assert run.messages == (user("hi"), assistant("two"))
    assert ran == []


async def test_an_error_in_a_later_turn_loses_nothing(over):
    fake = FakeProvider(
        [tool_call("double", {"number": 1}), Finish("tool_calls", "", Usage(1, 2, 0, 0, "exact"))],
        ["I thi", StreamInterrupted("cut")],
    )
    run = over(fake).run("fake/m", "hi", tools=[double])
    with pytest.raises(StreamInterrupted) as caught:
        await run.collect()
    assert caught.value.partial.text == "I thi"
    assert [message.role for message in run.messages] == ["user", "assistant", "tool"]
    assert run.usage == Usage(1, 2, 0, 0, "partial")
    check(Request(run.messages))
    assert kinds(await gather(run)) == []


async def test_the_options_of_a_stream_hold_for_every_turn(over):
    fake = FakeProvider(
        [tool_call("double", {"number": 1})],
        ServerError("down", status=500),
        ServerError("down", status=500),
        "2",
    )
    registry = over(fake, retries=0, max_wait=10.0, cooldown=0.001)
    run = registry.run("fake/m", "hi", tools=[double], retries=2)
    assert (await run.collect()).text == "2"
    fake.push(ServerError("down", status=500))
    with pytest.raises(FailoverError):
        await registry.run("fake/m", "hi", tools=[double]).collect()


async def test_a_run_over_the_wire(serve):
    asks = {
        "tool_calls": [
            {
                "index": 0,
                "id": "c1",
                "type": "function",
                "function": {"name": "double", "arguments": '{"number": 4}'},
            }
        ]
    }
    server, registry = await serve(chat(asks, finish="tool_calls"), chat("It is 8."))
    async with registry.run("a/m", "2 * 4?", tools=[double]) as run:
        events = await gather(run)
    assert isinstance(events[-1], RunResult)
    assert run.usage == Usage(6, 4, certainty="exact")
    first, second = (msgspec.json.decode(seen.body) for seen in server.requests)
    assert first["tools"][0]["function"]["parameters"] == double.parameters
    assert second["messages"][1]["tool_calls"][0]["id"] == "c1"
    assert second["messages"][2] == {"role": "tool", "tool_call_id": "c1", "content": "8"}
    assert server.counts.opened == 1


# Leaving


@tool
async def hang() -> str:
    """Hang, and note how it ended."""
    try:
        return await asyncio.get_running_loop().create_future()
    finally:
        ended.append(asyncio.current_task())


ended: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_ended():
    ended.clear()


async def until_started(run: Any) -> None:
    async for event in run:
        if isinstance(event, ToolStarted):
            return


async def test_leaving_the_async_with_waits_until_the_tools_have_ended(over):
    async with over(FakeProvider([tool_call("hang")])).run("fake/m", "hi", tools=[hang]) as run:
        await until_started(run)
        assert ended == []
    assert len(ended) == 1
    assert ended[0].done()


async def test_aclose_ends_tools_and_is_idempotent(over):
    run = over(FakeProvider([tool_call("hang")])).run("fake/m", "hi", tools=[hang])
    await until_started(run)
    await run.aclose()
    await run.aclose()
    assert len(ended) == 1
    assert kinds(await gather(run)) == []


async def test_aclose_of_a_held_run_ends_the_models_stream(over):
    fake = FakeProvider(["first", NEVER])
    run = over(fake).run("fake/m", "hi", tools=[])
    await anext(run)
    assert fake.running == 1
    await run.aclose()
    assert fake.running == 0


async def test_breaking_out_of_a_run_that_nobody_holds_ends_tools_and_stream(over):
    fake = FakeProvider([tool_call("hang")], ["first", NEVER])
    registry = over(fake)
    async for event in registry.run("fake/m", "hi", tools=[hang]):
        if isinstance(event, ToolStarted):
            break
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(ended) == 1
    async for event in registry.run("fake/m", "hi", tools=[hang]):
        if isinstance(event, TextDelta):
            break
    assert fake.running == 0


async def test_dropping_a_run_needs_no_garbage_collector(over):
    registry = over(FakeProvider([tool_call("hang")], ["first", NEVER]))
    gc.disable()
    try:
        run = registry.run("fake/m", "hi", tools=[hang])
        await until_started(run)
        alive = weakref.ref(run)
        del run
        assert alive() is None
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(ended) == 1
    finally:
        gc.enable()


async def test_cancelling_the_reader_ends_its_tools_first(over):
    run = over(FakeProvider([tool_call("hang")])).run("fake/m", "hi", tools=[hang])
    task = asyncio.create_task(gather(run))
    while not run.turns or run.messages == (user("hi"),):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(ended) == 1
    assert task.cancelling() == 1


async def test_cancelling_the_reader_closes_the_connection(serve):
    gate = Gate()
    server, registry = await serve(chat("first", gate, "never"))
    run = registry.run("a/m", "hi", tools=[hang])
    task = asyncio.create_task(gather(run))
    await gate.reached()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await server.wait_closed()


async def test_a_second_cancellation_leaks_nothing(over):
    slow = Gate()

    @tool
    async def tidy() -> str:
        """Take long to end."""
        try:
            return await asyncio.get_running_loop().create_future()
        finally:
            await slow.passes()
            ended.append(asyncio.current_task())

    run = over(FakeProvider([tool_call("tidy")])).run("fake/m", "hi", tools=[tidy])
    task = asyncio.create_task(gather(run))
    while run.messages == (user("hi"),):
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    await slow.reached()
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    slow.open()
    while not ended:
        await asyncio.sleep(0)


async def test_aclose_from_another_task_ends_the_reader(over):
    run = over(FakeProvider([tool_call("hang")])).run("fake/m", "hi", tools=[hang])
    task = asyncio.create_task(gather(run))
    while run.messages == (user("hi"),):
        await asyncio.sleep(0)
    await run.aclose()
    assert kinds(await task)[:3] == ["ToolCallDelta", "Finish", "TurnEnded"]
    assert task.cancelling() == 0


async def test_several_tasks_may_close_a_run_at_once(over):
    run = over(FakeProvider([tool_call("hang")])).run("fake/m", "hi", tools=[hang])
    task = asyncio.create_task(gather(run))
    while run.messages == (user("hi"),):
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await asyncio.gather(run.aclose(), run.aclose(), run.aclose())
        assert kinds(await task)[:3] == ["ToolCallDelta", "Finish", "TurnEnded"]
    assert task.cancelling() == 0


async def test_aclose_from_another_task_while_the_model_speaks(serve):
    gate = Gate()
    server, registry = await serve(chat("first", gate, "never"))
    run = registry.run("a/m", "hi", tools=[hang])
    task = asyncio.create_task(gather(run))
    await gate.reached()
    await run.aclose()
    assert [event.text for event in await task] == ["first"]
    await server.wait_closed()


async def test_two_tasks_cannot_read_one_run(over):
    fake = FakeProvider(["first", NEVER])
    run = over(fake).run("fake/m", "hi", tools=[])
    task = asyncio.create_task(gather(run))
    await fake.wait_calls()
    with pytest.raises(ClosedError, match="another task"):
        await anext(run)
    await run.aclose()
    await task


async def test_the_history_of_a_run_left_early_answers_every_call(over):
    calls = [tool_call("double", {"number": 4}), tool_call("hang", {}, 1)]
    async with over(FakeProvider(calls)).run("fake/m", "hi", tools=[double, hang]) as run:
        async for event in run:
            if isinstance(event, ToolEnded):
                break
    done, open_ = run.messages[-1].parts
    assert (done.text, done.is_error) == ("8", False)
    assert (open_.text, open_.is_error) == ("the run ended before this call did", True)
    check(Request((*run.messages, Message("user", (TextPart("and now?"),)))))


async def test_an_error_in_the_body_of_the_loop_ends_the_tools(over):
    with pytest.raises(ZeroDivisionError):
        async with over(FakeProvider([tool_call("hang")])).run("fake/m", "", tools=[hang]) as run:
            await until_started(run)
            raise ZeroDivisionError
    assert len(ended) == 1


async def test_a_tool_may_use_the_same_registry(over):
    fake = FakeProvider([tool_call("ask", {"question": "x"})], "inner", "outer")
    registry = over(fake)

    @tool
    async def ask(question: str) -> str:
        """Ask a model."""
        return (await registry.generate("fake/m", question)).text

    run = registry.run("fake/m", "hi", tools=[ask])
    assert (await run.collect()).text == "outer"
    assert run.messages[2].parts[0].text == "inner"


@pytest.mark.parametrize("given", [WebSearch(), double, double.function])
async def test_a_single_tool_needs_no_list(over, given):
    fake = FakeProvider("ok")
    await over(fake).run("fake/m", "hi", tools=given).collect()
    (offered,) = fake.requests[0].tools
    assert offered.name == getattr(given, "name", "double")
