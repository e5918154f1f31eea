"""Against llmock, which judges: every test ends with its verdict, a pass without warnings."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from aiollm import Registry, RunResult, tool
from aiollm.errors import (
    AuthenticationError,
    ContextLengthError,
    DeadlineError,
    FailoverError,
    InvalidRequestError,
    LLMError,
    ModelNotFoundError,
    OverloadedError,
    ProtocolError,
    RateLimitError,
    StreamInterrupted,
    TransportError,
)
from aiollm.types import Request, Restart, TextDelta, Timeouts, Tool

WIRES: dict[str, tuple[str, str, dict[str, str]]] = {
    "chat": ("openai", "/v1", {"api": "chat"}),
    "responses": ("openai", "/v1", {"api": "responses"}),
    "anthropic": ("anthropic", "/anthropic", {}),
    "gemini": ("google", "/gemini", {}),
}
HOSTS = ["mistral/v1", "groq/openai/v1", "together/v1", "perplexity/v1", "ai21/v1", "xai/v1"]
QUESTION = "Name three good reasons to walk in the woods."
LONG = {"type": "reply", "text": "and so on " * 500}
"""An answer that is still being sent when its reader leaves, so that the judge sees that."""
SEEN = 0.6
"""Seconds of cooldown in which the judge sees it, too: what it is asked before is not a retry."""

Expect = Callable[..., Awaitable[Registry]]


@pytest.fixture(params=WIRES)
def wire(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def expect(llmock: Any, registry: Callable[..., Registry]) -> Expect:
    """Give llmock a scenario; return a registry that knows its wires and retries twice."""

    async def give(*behaviors: dict[str, Any], **options: Any) -> Registry:
        if behaviors:
            await llmock.ask("/_llmock/scenario", {"behaviors": list(behaviors)})
        dsns = {
            name: llmock.dsn(scheme, path, **given) for name, (scheme, path, given) in WIRES.items()
        }
        dsns |= {path.partition("/")[0]: llmock.dsn("openai", f"/{path}") for path in HOSTS}
        return registry(dsns, **({"retries": 2, "cooldown": 0.1} | options))

    return give


def fail(status: int, **more: Any) -> dict[str, Any]:
    return {"type": "fail", "status": status, **more}


def fault(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": "stream_fault", "kind": kind, "after_chunks": 3, **more}


def only(caught: pytest.ExceptionInfo[LLMError]) -> Exception:
    """Return the one error of a call, in its group or by itself."""
    error = caught.value
    if isinstance(error, FailoverError):
        (error,) = error.exceptions
    return error


async def test_a_stream_comes_in_pieces_with_its_usage(expect, wire):
    reg = await expect()
    async with reg.stream(f"{wire}/m", QUESTION) as stream:
        pieces = [chunk.text async for chunk in stream if isinstance(chunk, TextDelta)]
    assert len(pieces) > 3
    assert "".join(pieces) == stream.response.text
    assert stream.response.finish_reason == "stop"
    assert stream.response.usage.certainty == "exact"
    assert stream.response.usage.output_tokens > 0


@pytest.mark.parametrize("host", [path.partition("/")[0] for path in HOSTS])
async def test_hosts_of_openais_wire_differ_in_their_base_alone(expect, host):
    reg = await expect()
    response = await reg.generate(f"{host}/m", QUESTION)
    assert response.text
    assert response.finish_reason == "stop"


async def test_a_scripted_answer_arrives_as_it_is(expect, wire):
    text = 'Zażółć "gęślą" jaźń 🦊\n\n- one\n- two'
    reg = await expect({"type": "reply", "text": text})
    assert (await reg.generate(f"{wire}/m", QUESTION)).text == text


async def test_an_answer_at_its_limit_says_so(expect, wire):
    reg = await expect({"type": "reply", "text": "Once", "finish_reason": "length"})
    assert (await reg.generate(f"{wire}/m", QUESTION)).finish_reason == "length"


async def test_an_agent_runs_its_tools_and_ends(expect, wire):
    asked = []

    @tool
    async def weather(city: str) -> str:
        """Tell the weather."""
        asked.append(city)
        return "drizzle"

    call = {"name": "weather", "arguments": {"city": "Oslo"}}
    reg = await expect({"type": "reply", "tool_calls": [call]})
    events = [event async for event in reg.run(f"{wire}/m", "Weather in Oslo?", tools=[weather])]
    assert asked == ["Oslo"]
    assert isinstance(events[-1], RunResult)
    assert events[-1].response.text


class Invoice(msgspec.Struct):
    """A bill."""

    number: str
    total: float
    lines: list[str]


@pytest.mark.parametrize("wire", ["chat", "responses", "gemini"])
async def test_an_answer_fits_the_type_that_was_asked_for(expect, wire):
    reg = await expect()
    assert isinstance(await reg.generate(f"{wire}/m", "Bill me", output=Invoice), Invoice)


async def test_the_wait_that_a_rate_limit_asks_for_is_kept(expect, wire):
    reg = await expect(fail(429, retry_after=0.3, times=2))
    response = await reg.generate(f"{wire}/m", QUESTION)
    assert [type(each.error) for each in response.attempts] == [
        RateLimitError, RateLimitError, type(None),
    ]  # fmt: skip
    assert response.attempts[0].error.retry_after == pytest.approx(0.3)


async def test_a_limited_target_is_left_alone_for_another(expect, llmock, wire):
    other = next(name for name in WIRES if name != wire)
    reg = await expect(fail(429, retry_after=60, match={"model": "busy"}))
    for _ in range(3):
        assert (await reg.generate(f"{wire}/busy,{other}/free", QUESTION)).text
    seen = (await llmock.ask("/_llmock/requests"))["requests"]
    assert [each["model"] for each in seen] == ["busy", "free", "free", "free"]


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504, 529])
async def test_an_outage_that_passes_is_survived_with_backoff(expect, wire, status):
    reg = await expect(fail(status, retry_after=0.05, times=2))
    response = await reg.generate(f"{wire}/m", QUESTION)
    assert [each.outcome for each in response.attempts] == ["failed", "failed", "success"]


async def test_an_outage_that_stays_is_given_up(expect, llmock, wire):
    reg = await expect(fail(503, retry_after=0.05, times=3))
    with pytest.raises(FailoverError) as caught:
        await reg.generate(f"{wire}/m", QUESTION)
    assert {type(each) for each in caught.value.exceptions} == {OverloadedError}
    assert (await llmock.ask("/_llmock/requests"))["count"] == 3


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequestError),
        (401, AuthenticationError),
        (403, AuthenticationError),
        (404, ModelNotFoundError),
        (422, InvalidRequestError),
    ],
)
async def test_what_cannot_get_better_is_not_tried_again(expect, llmock, wire, status, kind):
    reg = await expect(fail(status))
    with pytest.raises(LLMError) as caught:
        await reg.generate(f"{wire}/m", QUESTION)
    if (wire, status) == ("gemini", 422):
        kind = AuthenticationError  # for llmock says FAILED_PRECONDITION, Gemini's word for it
    assert type(only(caught)) is kind
    assert (await llmock.ask("/_llmock/requests"))["count"] == 1


async def test_a_prompt_too_long_for_one_goes_to_the_next(expect):
    overflow = fail(
        400,
        code="context_length_exceeded",
        message="This model's maximum context length is 8 tokens.",
        match={"model": "small"},
    )
    reg = await expect(overflow)
    response = await reg.generate("chat/small,anthropic/large", QUESTION)
    assert isinstance(response.attempts[0].error, ContextLengthError)


async def test_a_truncated_stream_is_raised_and_the_caller_may_try_again(expect, wire):
    reg = await expect(fault("truncate"))
    with pytest.raises(LLMError) as caught:
        await reg.generate(f"{wire}/m", QUESTION, retries=0)
    error = only(caught)
    assert isinstance(error, StreamInterrupted)
    assert error.partial is None or error.partial.finish_reason is None
    again = await reg.generate(f"{wire}/m", QUESTION)
    assert again.finish_reason == "stop"


async def test_the_judge_does_see_who_takes_half_an_answer(expect, llmock, wire):
    reg = await expect(fault("truncate"))
    with pytest.raises(LLMError):
        await reg.generate(f"{wire}/m", QUESTION, retries=0)
    verdict = await llmock.ask("/_llmock/verdict")
    assert [each["code"] for each in verdict["findings"]] == ["truncated_stream_accepted"]
    await llmock.ask("/_llmock/reset", {})


@pytest.mark.parametrize("kind", ["truncate", "disconnect", "malformed"])
async def test_a_broken_stream_is_begun_anew(expect, wire, kind):
    broken = {
        "truncate": StreamInterrupted,
        "disconnect": TransportError,
        "malformed": ProtocolError,
    }
    reg = await expect(fault(kind), LONG, cooldown=0.1 if kind != "malformed" else SEEN)
    async with reg.stream(f"{wire}/m", QUESTION, on_interrupt="restart") as stream:
        text = ""
        async for chunk in stream:
            text = "" if isinstance(chunk, Restart) else text + chunk.text
    assert isinstance(stream.attempts[0].error, broken[kind])
    assert text == stream.response.text
    assert [each.outcome for each in stream.attempts] == ["failed", "success"]


async def test_a_stream_broken_at_its_first_byte_is_begun_anew_unseen(expect, wire):
    reg = await expect(fault("truncate", after_chunks=0))
    chunks = [chunk async for chunk in reg.stream(f"{wire}/m", QUESTION)]
    assert not any(isinstance(chunk, Restart) for chunk in chunks)
    assert "".join(chunk.text for chunk in chunks)


async def test_a_stalled_stream_is_left(expect, wire):
    reg = await expect(fault("stall", stall_seconds=30))
    async with reg.stream(
        f"{wire}/m", QUESTION, on_interrupt="restart", timeouts=Timeouts(idle=0.3)
    ) as stream:
        response = await stream.collect()
    error = stream.attempts[0].error
    assert isinstance(error, DeadlineError)
    assert error.which == "idle"
    assert response.finish_reason == "stop"


async def test_a_first_token_that_does_not_come_is_not_waited_for(expect, llmock, wire):
    other = next(name for name in WIRES if name != wire)
    slow = {"type": "slow_first_token", "seconds": 30, "match": {"model": "slow", "stream": True}}
    reg = await expect(slow)
    scheme, path, given = WIRES[wire]
    reg.register("slow", llmock.dsn(scheme, path, first_output_timeout="1", **given))
    await reg.preload(f"slow/slow,{other}/fast")
    response = await reg.generate(f"slow/slow,{other}/fast", QUESTION)
    assert isinstance(response.attempts[0].error, DeadlineError)
    assert str(response.target) == f"{other}/fast"


async def test_a_slow_target_loses_the_race_and_is_left(expect, wire):
    other = next(name for name in WIRES if name != wire)
    slow = {"type": "slow_first_token", "seconds": 30, "match": {"model": "slow", "stream": True}}
    reg = await expect(slow)
    await reg.preload(f"{wire}/slow|{other}/fast")
    response = await reg.generate(f"{wire}/slow|{other}/fast", QUESTION, stagger=1)
    assert str(response.target) == f"{other}/fast"


@pytest.mark.parametrize("wire", ["chat", "responses", "anthropic"])
async def test_arguments_that_are_no_json_are_marked(expect, wire):
    reg = await expect({"type": "tool_fault", "kind": "malformed_arguments"})
    request = Request("Weather in Oslo?", tools=(Tool("weather"),))
    response = await reg.generate(f"{wire}/m", request)
    assert [call.valid for call in response.tool_calls] == [False]


async def test_a_call_of_a_tool_that_does_not_exist_is_answered(expect, wire):
    @tool
    async def weather(city: str) -> str:
        """Tell the weather."""
        return f"drizzle in {city}"

    reg = await expect({"type": "tool_fault", "kind": "unknown_tool"})
    events = [event async for event in reg.run(f"{wire}/m", "Weather in Oslo?", tools=[weather])]
    assert isinstance(events[-1], RunResult)


async def test_models_are_listed(expect):
    reg = await expect()
    assert await reg.models("chat")
    assert await reg.models("gemini")


async def test_images_are_made_and_a_limit_is_heeded(expect):
    reg = await expect(fail(429, retry_after=0.3))
    result = await reg.generate_images("chat/gpt-image-2", "a paper boat")
    assert len(result.images) == 1
    assert [each.outcome for each in result.attempts] == ["failed", "success"]


FAULTS = (
    fail(429, retry_after=0.2),
    fail(500, retry_after=0),
    fail(503, retry_after=0.1, times=2),
    fault("truncate"),
    fault("truncate", after_chunks=0),
    fault("disconnect"),
    fault("malformed"),
    fault("stall", stall_seconds=30),
)


async def test_a_battery_of_all_that_goes_wrong_ends_in_a_pass(expect, llmock):
    """All faults on all wires, the wires at once; the verdict is over the whole run."""
    battery = [
        each | {"match": {"model": f"{name}-{number}"}}
        for name in WIRES
        for number, given in enumerate(FAULTS)
        for each in ((given, LONG) if given.get("kind") == "malformed" else (given,))
    ]
    # A sound answer must not be taken for a stalled one where llmock gets no CPU for a moment.
    limits = Timeouts(idle=3)
    reg = await expect(*battery, on_interrupt="restart", timeouts=limits, cooldown=SEEN)

    async def endure(name: str) -> None:
        for number, each in enumerate(FAULTS):
            response = await reg.generate(f"{name}/{name}-{number}", f"{QUESTION} ({number})")
            assert response.finish_reason == "stop"
            assert len(response.attempts) == each.get("times", 1) + 1

    await asyncio.gather(*map(endure, WIRES))
    verdict = await llmock.ask("/_llmock/verdict")
    assert verdict["passed"] is True
    assert verdict["findings"] == []
    assert verdict["calls"] == len(FAULTS) * len(WIRES)
    assert verdict["faults_injected"] == (len(FAULTS) + 1) * len(WIRES)
