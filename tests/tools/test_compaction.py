"""Shorter histories: what a hook learns, what it may return, and the ready-made ones."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiollm import (
    Compacted,
    ConfigError,
    Finish,
    Message,
    NextTurn,
    Request,
    RunResult,
    Summarize,
    Target,
    TokenCount,
    Tool,
    ToolCallPart,
    ToolResultPart,
    TrimTo,
    Usage,
    assistant,
    system,
    tool,
    tool_results,
    user,
)
from aiollm._agent.trimming import grouped
from aiollm._validation import check
from aiollm.events import HistoryCompacted
from aiollm.testing import FakeProvider, tool_call


@tool
async def look(size: int) -> str:
    """Look."""
    return "x" * size


def looking(size: int, tokens: int | None = None) -> list[Any]:
    step: list[Any] = [tool_call("look", {"size": size})]
    if tokens is not None:
        step.append(Finish("tool_calls", "", Usage(tokens, 5, certainty="exact")))
    return step


async def gather(run: Any) -> list[Any]:
    return [event async for event in run]


async def test_a_hook_is_called_once_before_each_turn_with_what_would_be_sent(over):
    seen: list[NextTurn] = []
    fake = FakeProvider(looking(1), looking(2), "ok")
    request = Request("hi", system="Be brief.")
    await over(fake).run("fake/m", request, tools=[look], compact=seen.append).collect()
    assert [turn.turn for turn in seen] == [1, 2, 3]
    assert [turn.messages for turn in seen] == [sent.messages for sent in fake.requests]
    assert all(turn.request.system == "Be brief." for turn in seen)
    assert [turn.tokens for turn in seen] == sorted(turn.tokens for turn in seen)


@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_what_a_hook_returns_is_the_history_from_then_on(over, kind):
    def plain(turn: NextTurn) -> list[Message] | None:
        return [*turn.messages[:1], *turn.messages[-2:]] if turn.turn == 3 else None

    async def hook(turn: NextTurn) -> list[Message] | None:
        return plain(turn)

    fake = FakeProvider(looking(1), looking(2), "ok")
    registry = over(fake)
    told: list[Any] = []
    registry.on_event(told.append)
    run = registry.run("fake/m", "hi", tools=[look], compact=plain if kind == "plain" else hook)
    events = await gather(run)
    (compacted,) = [event for event in events if isinstance(event, Compacted)]
    assert (len(compacted.before), len(compacted.after), compacted.text) == (5, 3, "")
    assert fake.requests[2].messages == compacted.after
    assert run.messages == (*compacted.after, assistant("ok")) == events[-1].messages
    (event,) = [event for event in told if isinstance(event, HistoryCompacted)]
    assert (event.run, event.turn, event.before, event.after) == (1, 3, 5, 3)


async def test_the_first_turn_may_be_shortened_and_keeps_its_forced_tool(over):
    fake = FakeProvider(looking(1), "ok")
    history = [user("a"), assistant("b"), user("c")]
    request = Request(history, tool_choice="look")
    run = over(fake).run(
        "fake/m", request, tools=[look], compact=lambda turn: [turn.messages[-1]]
        if turn.turn == 1 else None,
    )  # fmt: skip
    await run.collect()
    assert [sent.tool_choice for sent in fake.requests] == ["look", "auto"]
    assert fake.requests[0].messages == (user("c"),)


BROKEN = {
    "without a result": lambda turn: turn.messages[:-1],
    "without a call": lambda turn: [turn.messages[0], turn.messages[-1]],
    "out of order": lambda turn: turn.messages[::-1],
    "twice": lambda turn: [*turn.messages, turn.messages[-1]],
    "nothing": lambda turn: [],
    "parts": lambda turn: [Message("user", ToolResultPart("call_0", "x"))],
    "no messages": lambda turn: ["hi"],
    "a text": lambda turn: "hi",
    "no list": lambda turn: 7,
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
async def test_a_history_that_cannot_be_sent_is_the_hooks_error_and_the_old_one_is_kept(
    over, broken
):
    def hook(turn: NextTurn) -> Any:
        return broken(turn) if turn.turn == 2 else None

    fake = FakeProvider(looking(1), "ok")
    run = over(fake).run("fake/m", "hi", tools=[look], compact=hook)
    with pytest.raises(ConfigError, match="the compact hook returned a"):
        await run.collect()
    assert len(fake.calls) == 1
    assert len(run.messages) == 3
    check(Request(run.messages))
    again = over(FakeProvider("ok")).run("fake/m", run.saved, tools=[look])
    assert (await again.collect()).text == "ok"


@given(st.data())
async def test_whatever_a_hook_leaves_out_a_pair_is_never_sent_broken(data):
    from aiollm import Registry

    fake = FakeProvider(*[looking(1)] * 4, "ok")

    def hook(turn: NextTurn) -> list[Message]:
        keeps = data.draw(st.lists(st.booleans(), min_size=len(turn.messages)))
        return [message for message, kept in zip(turn.messages, keeps, strict=False) if kept]

    async with Registry(env={}) as reg:
        reg.register("fake", fake.provider())
        run = reg.run("fake/m", "hi", tools=[look], compact=hook)
        with contextlib.suppress(ConfigError):
            await run.collect()
        check(Request(run.messages))
    for request in fake.requests:
        check(request)


async def test_an_error_of_the_hook_ends_the_run_and_keeps_the_history(over):
    def hook(turn: NextTurn) -> None:
        if turn.turn == 2:
            raise LookupError("no summary")

    run = over(FakeProvider(looking(1))).run("fake/m", "hi", tools=[look], compact=hook)
    with pytest.raises(LookupError):
        await run.collect()
    check(Request(run.messages))
    assert len(run.messages) == 3


async def test_tokens_are_learnt_from_the_answers_of_the_run(over):
    seen: list[NextTurn] = []
    fake = FakeProvider(looking(4000, tokens=500), looking(1, tokens=2500), "ok")
    request = Request("x" * 4000)
    await over(fake).run("fake/m", request, tools=[look], compact=seen.append).collect()
    # Four bytes were taken for a token, and the provider counted two for each of them.
    assert 1000 <= seen[0].tokens <= 1100
    assert 950 <= seen[1].tokens <= 1150
    assert 2500 <= seen[2].tokens <= 2700
    assert seen[2].tokens_of(seen[2].messages) <= seen[2].tokens


# Trimming


def call(number: int) -> Message:
    return assistant(ToolCallPart(f"c{number}", "look", '{"size":1}'))


def result(number: int, size: int = 400) -> Message:
    return tool_results(ToolResultPart(f"c{number}", "x" * size, "look"))


HISTORY = (
    system("rules"),
    user("the task"),
    *(message for number in range(10) for message in (call(number), result(number))),
)


def turn_of(messages: tuple[Message, ...], rate: int = 4) -> NextTurn:
    from aiollm._failover.estimate import size_of_message

    def count(some: Any) -> int:
        return int(sum(map(size_of_message, some)) / rate)

    return NextTurn(1, Request(messages), count(messages), count)


async def test_a_history_that_fits_stays():
    assert await TrimTo(100_000)(turn_of(HISTORY)) is None


async def test_the_rules_the_task_and_the_newest_turns_stay():
    kept = await TrimTo(1000, to=500)(turn_of(HISTORY))
    assert kept is not None
    assert kept[:2] == HISTORY[:2]
    assert kept[2:] == HISTORY[-len(kept) + 2 :]
    assert 2 < len(kept) < len(HISTORY)
    assert turn_of(kept).tokens <= 500
    check(Request(kept))


async def test_it_cuts_to_three_quarters_so_that_the_beginning_stays_for_a_while():
    kept = await TrimTo(1200)(turn_of(HISTORY))
    assert kept is not None
    assert 700 < turn_of(kept).tokens <= 900


async def test_the_newest_turn_stays_whatever_its_size():
    large = (*HISTORY, call(10), result(10, 100_000))
    kept = await TrimTo(1000)(turn_of(large))
    assert kept == (*HISTORY[:2], *large[-2:])
    assert await TrimTo(1000)(turn_of(kept)) is None


async def test_results_that_the_model_has_not_seen_stay_where_a_message_was_put_in():
    said = (user("Leave Bergen out."), user("And Oslo."))
    kept = await TrimTo(1)(turn_of((*HISTORY, *said)))
    assert kept == (*HISTORY[:2], *HISTORY[-2:], *said)


async def test_of_messages_without_an_answer_the_newest_stays():
    kept = await TrimTo(1)(turn_of(tuple(user(f"{number}") for number in range(9))))
    assert kept == (user("0"), user("8"))


async def test_system_messages_within_the_history_stay():
    history = (*HISTORY[:4], system("from now on in Polish"), *HISTORY[4:])
    kept = await TrimTo(500)(turn_of(history))
    assert kept is not None
    assert kept[2] == system("from now on in Polish")


def test_messages_of_the_assistant_that_follow_each_other_are_one_turn():
    several = [call(1), call(2), result(1), result(2)]
    head, groups = grouped(
        [*HISTORY[:2], *several, user("so?"), assistant("ok"), call(3), result(3)]
    )
    assert head == [*HISTORY[:2]]
    assert groups == [several, [user("so?")], [assistant("ok"), call(3), result(3)]]


@given(
    st.lists(st.sampled_from(["user", "system", "call", "calls", "text"]), max_size=20), st.data()
)
async def test_no_cut_breaks_a_pair(kinds, data):
    messages: list[Message] = []
    for number, kind in enumerate(kinds):
        match kind:
            case "user" | "system":
                messages.append(Message(kind, (f"{kind} {number}",)))
            case "text":
                messages.append(assistant("so"))
            case "call":
                messages += [call(number), result(number)]
            case _:
                twice = (call(number), call(-number - 1))
                messages += [*twice, result(-number - 1, 50), result(number, 5)]
    turn = turn_of(tuple(messages), data.draw(st.integers(1, 9)))
    tokens = data.draw(st.integers(1, 2000))
    kept = await TrimTo(tokens, data.draw(st.integers(1, tokens)))(turn)
    if kept is not None:
        assert len(kept) < len(messages)
        assert [message for message in messages if message.role == "system"] == [
            message for message in kept if message.role == "system"
        ]
        left = iter(messages)
        assert all(any(message is other for other in left) for message in kept)
        check(Request(kept))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: TrimTo(0), "tokens is 0: expected an integer, 1 or more"),
        (lambda: TrimTo(True), "tokens is True"),
        (lambda: TrimTo(10, to=0), "to is 0"),
        (lambda: TrimTo(10, to=11), "to is 11: expected at most tokens"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(make, reason):
    with pytest.raises(ConfigError, match=reason):
        make()


async def test_a_count_is_asked_for_only_near_the_budget_and_believed():
    counted: list[Request] = []

    async def count(request: Request) -> TokenCount:
        counted.append(request)
        return TokenCount(5000, "exact", Target("a", "b"))

    turn = turn_of(HISTORY)
    assert 1100 < turn.tokens < 1500
    assert await TrimTo(4000, count=count)(turn) is None
    assert not counted
    kept = await TrimTo(2000, count=count)(turn)
    assert counted == [turn.request]
    assert kept is not None
    assert 0.15 < turn_of(kept).tokens / turn.tokens <= 1500 / 5000


async def test_a_provider_that_counts_is_asked_through_the_registry(over):
    fake = FakeProvider("ok", tokens=lambda target, request: 1000 * len(request.messages))
    registry = over(fake)

    async def count(request: Request) -> TokenCount:
        return await registry.count_tokens("fake/m", request)

    history = [user("task"), assistant("a"), user("b"), assistant("c"), user("d")]
    run = registry.run("fake/m", history, tools=[], compact=TrimTo(40, count=count))
    await run.collect()
    assert len(fake.counted) == 1
    assert fake.requests[0].messages == (user("task"), assistant("c"), user("d"))


# Summaries


async def test_a_summary_takes_the_place_of_the_oldest_turns():
    given_: list[tuple[Message, ...]] = []

    async def by(messages: Any) -> str:
        given_.append(messages)
        return "Nine looks, nothing found."

    kept = await Summarize(1000, to=300, by=by)(turn_of(HISTORY))
    assert kept is not None
    (oldest,) = given_
    assert (*HISTORY[:2], *oldest, *kept[3:]) == HISTORY
    assert kept[2].role == "user"
    assert kept[2].text.endswith("Nine looks, nothing found.")
    check(Request(kept))


async def test_an_earlier_summary_goes_into_the_next_one():
    said: list[str] = []

    def by(messages: Any) -> str:
        said.append(messages[0].text)
        return f"summary {len(said)}"

    hook = Summarize(1000, to=300, by=by)
    kept = await hook(turn_of(HISTORY))
    assert kept is not None
    more = (*kept, *(message for n in range(20, 30) for message in (call(n), result(n))))
    again = await hook(turn_of(more))
    assert again is not None
    assert "summary 1" in said[1]
    assert [message.text[-9:] for message in again if "summary" in message.text] == ["summary 2"]


@pytest.mark.parametrize("text", ["", " \n", None, 7])
async def test_an_empty_summary_is_an_error(text):
    with pytest.raises(ConfigError, match=r"the summary of the history is .*: expected text"):
        await Summarize(1000, by=lambda messages: text)(turn_of(HISTORY))


async def test_a_summary_by_a_model_is_one_more_call_of_the_same_registry(over):
    writer = FakeProvider(default="in short", name="writer")
    fake = FakeProvider(*[looking(2000)] * 6, "ok")
    registry = over(fake, writer)

    async def by(messages: Any) -> str:
        asked = [*messages, user("Summarize this.")]
        answer = await registry.generate("writer/m", asked, tools=[look], tool_choice="none")
        return answer.text

    run = registry.run("fake/m", "hi", tools=[look], compact=Summarize(2000, by=by))
    events = await gather(run)
    assert isinstance(events[-1], RunResult)
    assert writer.calls
    assert any("in short" in message.text for message in run.messages)
    assert len(run.messages) < 12
    assert isinstance(look, Tool)
