"""Saved runs: what goes on where it was, what never runs twice, and saves that cannot be used."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aiollm import (
    ApprovalNeeded,
    ConfigError,
    Cost,
    FailoverError,
    Finish,
    Registry,
    Request,
    RunResult,
    SavedCall,
    SavedRun,
    ServerError,
    TextPart,
    Tool,
    ToolCallPart,
    ToolEnded,
    ToolResultPart,
    Usage,
    assistant,
    from_json,
    to_json,
    tool,
    tool_results,
    user,
)
from aiollm._validation import check
from aiollm.testing import NEVER, FakeProvider, FaultServer, Gate, chat, sse, tool_call

ROOT = Path(__file__).parents[2]


class Desk:
    """Two tools, of which one needs approval, and what they did."""

    def __init__(self) -> None:
        self.done: list[str] = []

        @tool
        async def look(place: str) -> str:
            """Look."""
            self.done.append(f"look {place}")
            return f"seen {place}"

        @tool(approve=True)
        async def pay(amount: int) -> str:
            """Pay."""
            self.done.append(f"pay {amount}")
            return f"paid {amount}"

        self.tools = [look, pay]


@pytest.fixture
def desk() -> Desk:
    return Desk()


LOOK = tool_call("look", {"place": "here"}, id="l")
PAY = tool_call("pay", {"amount": 5}, id="p")
USED = Finish("tool_calls", "", Usage(10, 5, certainty="exact"))


async def gather(run: Any) -> list[Any]:
    return [event async for event in run]


async def stopped(over: Any, desk: Desk, *script: Any, **options: Any) -> SavedRun:
    """Return a run that waits for approval, as it comes out of a file."""
    fake = FakeProvider([*(script or (PAY, LOOK)), USED])
    run = over(fake).run("fake/m", "hi", tools=desk.tools, **options)
    events = await gather(run)
    assert isinstance(events[-1], ApprovalNeeded)
    return from_json(run.to_json(), SavedRun)


async def test_a_saved_run_goes_on_with_another_provider_and_runs_nothing_twice(over, desk):
    saved = await stopped(over, desk, system="Be brief.", temperature=0.5)
    other = FakeProvider(["done", Finish("stop", "", Usage(7, 1, certainty="exact"))], name="b")
    run = over(other).run("b/y", saved, tools=desk.tools, approvals={"p": True})
    assert run.messages == saved.messages
    events = await gather(run)
    assert desk.done == ["look here", "pay 5"]
    assert [type(event).__name__ for event in events[:2]] == ["ToolStarted", "ToolEnded"]
    result = events[-1]
    assert isinstance(result, RunResult)
    assert result.messages == run.messages
    assert [part.text for part in run.messages[2].parts] == ["paid 5", "seen here"]
    assert (run.turns, run.usage.input_tokens, run.response.text) == (2, 17, "done")
    (asked,) = other.requests
    assert (asked.system, asked.temperature) == ("Be brief.", 0.5)
    assert asked.messages == run.messages[:-1]


@pytest.mark.parametrize(
    ("approval", "text"),
    [
        (False, "not run: it was not approved"),
        ("too dear", "not run: it was not approved: too dear"),
        ({"amount": 1}, 'Run with other arguments than yours: {"amount":1}\npaid 1'),
    ],
)
async def test_each_answer_reaches_the_call_that_was_saved(over, desk, approval, text):
    saved = await stopped(over, desk)
    run = over(FakeProvider("ok")).run("fake/m", saved, tools=desk.tools, approvals={"p": approval})
    await run.collect()
    assert run.messages[2].parts[0].text == text


async def test_without_an_answer_it_waits_again_and_asks_no_model(over, desk):
    saved = await stopped(over, desk, PAY, tool_call("pay", {"amount": 6}, id="q"))
    fake = FakeProvider("ok")
    run = over(fake).run("fake/m", saved, tools=desk.tools, approvals={"q": True, "p": None})
    events = await gather(run)
    assert [call.id for call in events[-1].calls] == ["p"]
    assert (desk.done, fake.calls) == (["pay 6"], [])
    run = over(fake).run("fake/m", run.saved, tools=desk.tools, approvals={"p": True})
    assert (await run.collect()).text == "ok"
    assert desk.done == ["pay 6", "pay 5"]


async def test_what_waited_for_a_hook_waits_where_there_is_none(over, desk):
    free = Tool("free", function=lambda: desk.done.append("free"))
    run = over(FakeProvider([tool_call("free", id="f")])).run(
        "fake/m", "hi", tools=[free], approve=lambda call: None
    )
    await gather(run)
    again = over(FakeProvider()).run("fake/m", run.saved, tools=[free])
    assert isinstance((await gather(again))[-1], ApprovalNeeded)
    assert not desk.done


async def test_a_hook_is_asked_about_saved_calls_without_an_answer(over, desk):
    saved = await stopped(over, desk)
    run = over(FakeProvider("ok")).run("fake/m", saved, tools=desk.tools, approve=lambda call: True)
    await run.collect()
    assert desk.done == ["look here", "pay 5"]


async def test_a_run_that_ended_ends_again_with_the_same_answer(over, desk):
    first = over(FakeProvider("hello")).run("fake/m", "hi", tools=[])
    await first.collect()
    fake = FakeProvider()
    again = over(fake).run("fake/m", from_json(first.to_json(), SavedRun), tools=[])
    (result,) = await gather(again)
    assert (result.messages, result.response.text) == (first.messages, "hello")
    assert not fake.calls


async def test_a_turn_that_was_being_answered_is_asked_again(over):
    run = over(FakeProvider(["half", NEVER])).run("fake/m", "hi", tools=[])
    async with run:
        await anext(run)
        saved = run.saved
    assert (saved.messages, saved.turns, saved.ended) == ((user("hi"),), 0, False)
    assert (await over(FakeProvider("all")).run("fake/m", saved, tools=[]).collect()).text == "all"


async def test_messages_that_were_put_in_wait_in_the_save(over, desk):
    fake = FakeProvider([PAY])
    run = over(fake).run("fake/m", "hi", tools=desk.tools, approve=lambda call: run.steer("wait"))
    await gather(run)
    other = FakeProvider("ok")
    again = over(other).run("fake/m", run.saved, tools=desk.tools, approvals={"p": True})
    await again.collect()
    assert other.requests[0].messages[-1] == user("wait")


async def test_turns_count_on_and_a_forced_tool_is_forced_once(over, desk):
    saved = await stopped(over, desk, tool_choice="pay", max_turns=1)
    assert saved.turns == 1
    other = FakeProvider("ok")
    run = over(other).run("fake/m", saved, tools=desk.tools, approvals={"p": True}, max_turns=2)
    await run.collect()
    assert other.requests[0].tool_choice == "auto"


# The save hook


async def test_a_run_is_saved_before_and_after_each_tool_and_at_its_end(over, desk):
    kept: list[SavedRun] = []
    seen: list[int] = []

    @tool
    async def note() -> None:
        """Note."""
        seen.append(len(kept))

    fake = FakeProvider([tool_call("note", id="n"), tool_call("pay", {"amount": 1}, id="p")])
    await gather(over(fake).run("fake/m", "hi", tools=[note, *desk.tools], save=kept.append))
    states = [[call.state for call in saved.calls] for saved in kept]
    assert ["started", "waiting"] in states[: seen[0]]
    assert states[-1] == ["done", "waiting"]
    for saved in kept:
        check(Request(saved.messages))
        assert from_json(to_json(saved), SavedRun).calls == saved.calls


async def test_a_call_that_is_held_back_is_so_in_every_save(over, desk):
    kept: list[SavedRun] = []
    run = over(FakeProvider([LOOK])).run(
        "fake/m", "hi", tools=desk.tools, save=kept.append, approve=lambda call: None
    )
    await gather(run)
    assert [saved.calls for saved in kept] == [(SavedCall("l", "waiting"),)] * len(kept)
    again = over(FakeProvider()).run("fake/m", kept[0], tools=desk.tools)
    assert isinstance((await gather(again))[-1], ApprovalNeeded)
    assert not desk.done


async def test_what_a_turn_that_was_cut_has_cost_is_in_the_save(over, desk):
    begun = SavedRun((user("hi"),), Request(()), usage=Usage(9, 2, certainty="partial"))
    fake = FakeProvider(["ok", Finish("stop", "", Usage(7, 1, certainty="exact"))])
    run = over(fake).run("fake/m", begun, tools=[])
    await gather(run)
    assert (run.usage.input_tokens, run.usage.output_tokens) == (16, 3)


async def test_a_tool_may_have_the_name_of_a_hook(over):
    gate = threading.Event()

    @tool(timeout=0.01)
    def save() -> None:
        """Take too long."""
        gate.wait()

    kept: list[SavedRun] = []
    registry = over(FakeProvider([tool_call("save")], "ok"), tool_threads=2)
    try:
        await registry.run("fake/m", "hi", tools=save, save=kept.append).collect()
    finally:
        gate.set()
    assert kept[-1].ended


async def test_a_run_is_saved_where_it_waits(over, desk):
    kept: list[SavedRun] = []
    await gather(over(FakeProvider([PAY])).run("fake/m", "hi", tools=desk.tools, save=kept.append))
    assert kept[-1].calls == (SavedCall("p", "waiting"),)


async def test_what_is_approved_already_does_not_wait_for_what_a_person_is_asked(over, desk):
    saved = await stopped(over, desk, PAY, tool_call("pay", {"amount": 6}, id="q"))
    gate = Gate()

    async def hook(call: ToolCallPart) -> bool:
        await gate.passes()
        return True

    run = over(FakeProvider("ok")).run(
        "fake/m", saved, tools=desk.tools, approve=hook, approvals={"q": True}
    )
    async for event in run:
        if isinstance(event, ToolEnded):
            gate.open()
    assert desk.done == ["pay 6", "pay 5"]


async def test_a_save_that_fails_ends_the_run_before_the_tool(over, desk):
    async def save(saved: SavedRun) -> None:
        if any(call.state == "started" for call in saved.calls):
            raise OSError("the disk is full")

    run = over(FakeProvider([LOOK])).run("fake/m", "hi", tools=desk.tools, save=save)
    with pytest.raises(OSError, match="the disk is full"):
        await run.collect()
    assert not desk.done
    check(Request(run.messages))
    assert [call.state for call in run.saved.calls] == ["open"]


async def test_saves_never_overtake_each_other(over):
    """An older state that is written last would run a tool twice."""
    first, kept, running = Gate(), [], []

    async def save(saved: SavedRun) -> None:
        running.append(1)
        assert len(running) == 1
        if not kept:
            await first.passes()
        kept.append([call.state for call in saved.calls].count("done"))
        running.pop()

    spin = Tool("spin", function=lambda: "ok")
    fake = FakeProvider([tool_call("spin", index=n) for n in range(5)], "ok")
    run = over(fake).run("fake/m", "hi", tools=[spin], save=save)
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(gather(run))
        await first.reached()
        first.open()
    assert isinstance(reading.result()[-1], RunResult)
    assert kept.pop() == 0  # the last answer has no calls
    assert kept == sorted(kept)
    assert kept[-1] == 5


async def test_a_call_that_had_begun_is_not_run_again_and_the_model_is_told(over, desk):
    run = over(FakeProvider([LOOK])).run("fake/m", "hi", tools=desk.tools, save=lambda saved: None)
    async with run:
        async for event in run:
            if isinstance(event, ToolEnded):
                break
    begun = msgspec.structs.replace(run.saved, calls=(SavedCall("l", "started"),))
    desk.done.clear()
    other = FakeProvider("ok")
    again = over(other).run("fake/m", begun, tools=desk.tools)
    await again.collect()
    assert not desk.done
    (result,) = other.requests[0].messages[-1].parts
    assert "whether it took effect is not known" in result.text
    assert result.is_error
    repeated = over(FakeProvider("ok")).run(
        "fake/m", begun, tools=desk.tools, approvals={"l": True}
    )
    await repeated.collect()
    assert desk.done == ["look here"]


# Saves that cannot be used


def waiting(*ids: str) -> SavedRun:
    calls = [ToolCallPart(id_, "pay", '{"amount":1}') for id_ in ids]
    results = [ToolResultPart(id_, "none yet", "pay", is_error=True) for id_ in ids]
    return SavedRun(
        (user("hi"), assistant(*calls), tool_results(*results)),
        Request(()),
        tuple(SavedCall(id_, "waiting") for id_ in ids),
        turns=1,
    )


@pytest.mark.parametrize(
    ("saved", "approvals", "reason"),
    [
        (waiting("p"), {"gone": True}, r"'gone'\] is about a call that is gone; .*: 'p'"),
        (waiting("p", "p"), {"p": True}, r"about 2 calls of that id: use an approve hook"),
        (waiting("p"), {"p": 7}, r"approvals\['p'\] is 7: expected True"),
        (waiting("p"), ["p"], r"approvals is \['p'\]: expected a mapping"),
        ("hi", {"p": True}, r"approvals are for a saved run"),
        (SavedRun((user("hi"),), Request(())), {"p": True}, r"a call that is gone; .*: none"),
        (msgspec.structs.replace(waiting("p"), calls=()), {}, None),
        (msgspec.structs.replace(waiting("p"), version=2), {}, r"in version 2 .* reads version 1"),
        (
            msgspec.structs.replace(waiting("p"), calls=(SavedCall("q"),)),
            {},
            r"damaged: its calls are not those of its last message",
        ),
        (
            msgspec.structs.replace(waiting("p"), messages=(user("hi"),)),
            {},
            r"damaged: the results of its calls are not its end",
        ),
        (
            msgspec.structs.replace(waiting("p"), messages=()),
            {},
            r"messages is empty",
        ),
    ],
)
async def test_what_cannot_be_honoured_is_an_error_before_anything_is_sent(
    over, desk, saved, approvals, reason
):
    fake = FakeProvider("ok")
    registry = over(fake)
    if reason is None:
        await registry.run("fake/m", saved, tools=desk.tools).collect()
        return
    with pytest.raises(ConfigError, match=reason):
        registry.run("fake/m", saved, tools=desk.tools, approvals=approvals)
    assert not fake.calls


async def test_a_tool_that_is_gone_is_named_and_the_save_can_be_used_again(over, desk):
    saved = await stopped(over, desk)
    registry = over(FakeProvider("ok"))
    with pytest.raises(ConfigError, match=r"is to call the tool 'pay', .* tools: look"):
        registry.run("fake/m", saved, tools=desk.tools[:1], approvals={"p": True})
    check(Request(saved.messages))
    run = registry.run("fake/m", saved, tools=desk.tools, approvals={"p": True})
    assert (await run.collect()).text == "ok"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "this is not a saved run: Input data was truncated"),
        (b"[]", "this is not a saved run: Expected `object`"),
        (to_json(Request("hi")), "this is not a saved run: it has no version"),
        (b'{"version":9}', "saved in version 9 of the format, and this aiollm reads version 1"),
        (b'{"version":1}', "not a saved run: Object missing required field `messages`"),
        (b"[" * 100_000, "this is not a saved run"),
    ],
)
def test_other_data_is_an_error_that_says_what_it_is(data, reason):
    with pytest.raises(ConfigError, match=reason):
        from_json(data, SavedRun)


def test_the_history_of_a_save_of_any_version_can_be_read():
    later = json.loads(to_json(waiting("p"))) | {"version": 9, "calls": "of another kind"}
    data = json.dumps(later)
    with pytest.raises(ConfigError, match=r"from_json\(data, Request\)\.messages"):
        from_json(data, SavedRun)
    history = from_json(data, Request).messages
    assert history == waiting("p").messages
    check(Request((*history, user("go on"))))


def test_a_save_cut_anywhere_is_an_error():
    data = to_json(waiting("p"))
    for end in range(len(data)):
        with pytest.raises(ConfigError):
            from_json(data[:end], SavedRun)


async def test_a_save_holds_no_functions_and_describes_the_output_type(over, desk):
    saved = await stopped(over, desk, output=int)
    assert saved.request.tools == ()
    assert saved.request.output["properties"] == {"value": {"type": "integer"}}
    assert saved.cost == Cost()
    assert saved.response is not None
    assert saved.messages[2].parts[1].content == (TextPart("seen here"),)


# Processes

PROGRAM = '''
import asyncio, os, signal, sys
from pathlib import Path
from aiollm import ApprovalNeeded, Registry, SavedRun, from_json, to_json, tool

kept, log, how = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]


def note(text):
    with log.open("a") as file:
        print(text, file=file)


def save(run):
    part = kept.with_suffix(".part")
    part.write_bytes(to_json(run))
    part.replace(kept)


@tool
def look() -> str:
    """Look."""
    note("look")
    return "seen"


@tool(approve=True)
def pay(amount: int) -> str:
    """Pay."""
    note(f"pay {amount}")
    if how == "die in the tool":
        os.kill(os.getpid(), signal.SIGKILL)
    return "paid"


def die():
    if how == "die after approval":
        os.kill(os.getpid(), signal.SIGKILL)


async def main():
    async with Registry() as reg:
        if kept.exists():
            saved = from_json(kept.read_bytes(), SavedRun)
            undone = [call for call in saved.calls if call.state == "waiting"]
            approvals = {call.id: True for call in undone}
            run = reg.run(sys.argv[4], saved, tools=[look, pay], approvals=approvals, save=save)
            die()
        else:
            run = reg.run(sys.argv[4], "Pay.", tools=[look, pay], save=save)
        async for event in run:
            if isinstance(event, ApprovalNeeded):
                print("waits for", *(call.name for call in event.calls))
                return
        print(run.response.text)


asyncio.run(main())
'''


async def start(tmp_path: Path, server: FaultServer, how: str, provider: str) -> tuple[int, str]:
    """Run the program in a new process; return its exit code and what it printed."""
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "LLM_ONE": server.dsn("openai", path="/v1", api="chat"),
        "LLM_TWO": server.dsn("anthropic"),
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, tmp_path / "run.json", tmp_path / "log", how, provider),
        env=env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    if process.returncode == 1:
        raise AssertionError(errors.decode())
    assert process.returncode is not None
    return process.returncode, output.decode()


def asks() -> Any:
    calls = [
        {"index": n, "id": name, "type": "function", "function": {"name": name, "arguments": text}}
        for n, (name, text) in enumerate((("pay", '{"amount": 5}'), ("look", "{}")))
    ]
    return chat({"tool_calls": calls}, finish="tool_calls")


def says(text: str) -> Any:
    """Answer as Anthropic does."""
    return sse(
        ("message_start", {"type": "message_start", "message": {"role": "assistant"}}),
        (
            "content_block_start",
            {
                "type": "content_block_start",
                "index": 0,
                "content_block": {"type": "text", "text": text},
            },
        ),
        ("content_block_stop", {"type": "content_block_stop", "index": 0}),
        ("message_delta", {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}),
        ("message_stop", {"type": "message_stop"}),
    )


@pytest.mark.parametrize("how", ["go on", "die after approval", "die in the tool"])
async def test_a_run_goes_on_in_a_new_process_with_another_provider(tmp_path, how):
    """A tool runs once, whether the process that goes on lives, or is killed before or in it."""
    log = tmp_path / "log"
    async with FaultServer(asks(), says("All done.")) as server:
        assert await start(tmp_path, server, "", "one/gpt-6.1-sol") == (0, "waits for pay\n")
        assert log.read_text() == "look\n"
        if how != "go on":
            assert (await start(tmp_path, server, how, "two/claude-sonnet-5.5"))[
                0
            ] == -signal.SIGKILL
            assert server.counts.requests == 1
        assert await start(tmp_path, server, "", "two/claude-sonnet-5.5") == (0, "All done.\n")
        sent = server.requests[-1].json()
    assert log.read_text() == "look\npay 5\n"
    results = sent["messages"][-1]["content"]
    assert [block["tool_use_id"] for block in results] == ["pay", "look"]
    paid = results[0]["content"]
    assert ("not known" in str(paid)) == (how == "die in the tool")


async def test_a_registry_is_not_needed_to_read_a_save(over, desk):
    saved = await stopped(over, desk)
    assert [call for call in saved.calls if call.state == "waiting"] == [SavedCall("p", "waiting")]
    async with Registry(env={}) as reg:
        with pytest.raises(ConfigError, match=r"one\b"):
            reg.run("one/x", saved, tools=desk.tools)


async def test_an_approval_is_for_the_saved_call_and_for_no_later_one_of_the_same_id(over, desk):
    """Many servers number the calls of each answer from the same beginning."""
    saved = await stopped(over, desk)
    fake = FakeProvider([tool_call("pay", {"amount": 9000}, id="p")])
    run = over(fake).run("fake/m", saved, tools=desk.tools, approvals={"p": True})
    events = await gather(run)
    assert isinstance(events[-1], ApprovalNeeded)
    assert desk.done == ["look here", "pay 5"]


async def test_no_arguments_at_all_are_arguments_too(over, desk):
    @tool(approve=True)
    async def stop(reason: str = "late") -> None:
        """Stop."""
        desk.done.append(reason)

    calls = (ToolCallPart("s", "stop", '{"reason":"tired"}'),)
    messages = (user("hi"), assistant(*calls), tool_results(ToolResultPart("s", "?", "stop")))
    begun = SavedRun(messages, Request(()), (SavedCall("s", "started"),), turns=1)
    run = over(FakeProvider("ok")).run("fake/m", begun, tools=[stop], approvals={"s": {}})
    await run.collect()
    assert desk.done == ["late"]
    with pytest.raises(ConfigError, match="is to call the tool 'stop'"):
        over(FakeProvider("ok")).run("fake/m", begun, tools=[], approvals={"s": {}})


async def test_a_run_that_goes_on_is_ready_when_it_has_something_new(over, desk):
    saved = await stopped(over, desk)
    registry = over(FakeProvider(ServerError("down", status=500)))
    async with registry.run("fake/m", saved, tools=desk.tools) as run:
        await run.ready()
    async with registry.run("fake/m", saved, tools=desk.tools, approvals={"p": True}) as run:
        with pytest.raises(FailoverError):
            await run.ready()


async def test_a_saved_run_ends_in_a_value_in_another_process_or_has_it_already(over, desk):
    saved = await stopped(over, desk, output=int)
    fake = FakeProvider('{"value": 7}')
    run = over(fake).run("fake/m", saved, tools=desk.tools, approvals={"p": True}, output=int)
    await gather(run)
    assert run.value == 7
    ended = from_json(run.to_json(), SavedRun)
    again = over(FakeProvider()).run("fake/m", ended, tools=desk.tools, output=int)
    events = await gather(again)
    assert again.value == 7 == events[-1].value
