"""Hosted tools in calls and runs: beside tools of one's own, over chains, and when they pause."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from aiollm import (
    CitationChunk,
    FailoverError,
    Finish,
    OpaquePart,
    PartChunk,
    ProviderData,
    Registry,
    Request,
    Response,
    Tool,
    TurnLimitError,
    UnsupportedError,
    Usage,
    WebSearch,
    hosted_calls,
    tool,
    user,
)
from aiollm.testing import Answer, FakeProvider, FaultServer, hosted_call, sse, tool_call
from aiollm.types import Citation

PAUSE = Finish("other", "pause_turn", Usage(5, 1, certainty="exact", web_search_requests=2))
DONE = Finish("stop", "end_turn", Usage(5, 1, certainty="exact", web_search_requests=1))


@tool
def price(what: str) -> str:
    """Say what something costs."""
    return f"{what}: 3"


@pytest.fixture
async def over() -> AsyncIterator[Any]:
    """Make a registry that knows a fake provider; it ends with the test."""
    async with AsyncExitStack() as stack:

        def make(fake: FakeProvider) -> Registry:
            made = Registry(env={}, retries=0)
            made.register(fake.name, fake.provider())
            stack.push_async_callback(made.aclose)
            return made

        yield make


async def test_a_run_has_hosted_tools_and_its_own(over) -> None:
    found = hosted_call("web_search", {"query": "plums"}, ["a"])
    fake = FakeProvider([found, tool_call("price", {"what": "plums"})], ["3.", found])
    run = over(fake).run("fake/m", "What do plums cost?", tools=[WebSearch(max_uses=2), price])
    async with run:
        response = await run.collect()
    first, second = fake.requests
    assert first.tools == second.tools == (WebSearch(2), price)
    assert response.text == "3."
    (call,) = hosted_calls(response)
    assert (call.name, call.arguments, call.result) == ("web_search", {"query": "plums"}, ["a"])
    assert [part.text for part in run.messages[2].parts] == ["plums: 3"]  # type: ignore[union-attr]
    assert hosted_calls(second.messages[1]) == (call,)


async def test_a_run_goes_on_where_the_providers_own_tools_paused(over) -> None:
    found = hosted_call("web_search", {"query": "plums"})
    fake = FakeProvider([found, PAUSE], ["Three.", DONE])
    run = over(fake).run("fake/m", "What do plums cost?", tools=[WebSearch()])
    async with run:
        response = await run.collect()
    assert (response.text, run.turns) == ("Three.", 2)
    assert [message.role for message in fake.requests[1].messages] == ["user", "assistant"]
    assert run.usage.web_search_requests == 3


async def test_a_run_that_pauses_for_ever_ends_at_its_limit(over) -> None:
    fake = FakeProvider(default=[hosted_call("web_search"), PAUSE])
    with pytest.raises(TurnLimitError):
        await over(fake).run("fake/m", "hi", tools=[WebSearch()], max_turns=3).collect()
    assert len(fake.calls) == 3


async def test_an_empty_pause_ends_the_run(over) -> None:
    fake = FakeProvider([PAUSE])
    response = await over(fake).run("fake/m", "hi", tools=[WebSearch()]).collect()
    assert response.raw_finish_reason == "pause_turn"


@pytest.mark.parametrize(
    ("choice", "later"),
    [("web_search", "auto"), (("web_search", "price"), "auto"), (("auto", "price"),) * 2],
)
async def test_a_forced_choice_holds_for_the_first_turn(over, choice: Any, later: Any) -> None:
    fake = FakeProvider([tool_call("price", {"what": "plums"})], "3.")
    request = Request("hi", tools=[WebSearch(), price], tool_choice=choice)
    await over(fake).run("fake/m", request, tools=[]).collect()
    assert [each.tool_choice for each in fake.requests] == [choice, later]


async def test_a_call_takes_hosted_tools_and_choices_as_keywords(over) -> None:
    fake = FakeProvider("a")
    await over(fake).generate("fake/m", "hi", tools=[WebSearch(), Tool("f")], tool_choice=["f"])
    assert fake.requests[0].tools == (WebSearch(), Tool("f"))


MESSAGES = sse(
    {"type": "message_start", "message": {"usage": {"input_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "Yes."}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}},
    {"type": "message_stop"},
)


async def test_a_chain_moves_past_a_target_that_cannot_run_the_tool() -> None:
    """It is not asked at all, and its health is not harmed."""
    async with FaultServer(MESSAGES) as server, FaultServer(Answer(500)) as other:
        env = {"LLM_A": other.dsn("openai"), "LLM_O": other.dsn("ollama")}
        async with Registry(env=env | {"LLM_C": server.dsn("anthropic")}) as reg:
            spec = "a/m,o/m,c/claude-sonnet-5-5"
            response = await reg.generate(spec, "hi", tools=WebSearch())
            assert (response.text, other.requests) == ("Yes.", ())
            kinds = [type(each.error) for each in response.attempts]
            assert kinds == [UnsupportedError, UnsupportedError, type(None)]
            assert all(each.failures == 0 for each in reg.health())
            sent = server.requests[0].json()
            assert sent["tools"] == [{"type": "web_search_20250305", "name": "web_search"}]
            with pytest.raises(FailoverError) as caught:
                await reg.generate("a/m", "hi", tools=WebSearch())
            assert "HostedTool or extra" in str(caught.value.last)


async def test_what_ran_comes_as_parts_of_the_stream(over) -> None:
    source = CitationChunk(Citation("https://a.test/", "A"))
    fake = FakeProvider([hosted_call("web_search", {"query": "q"}), "Yes.", source])
    async with over(fake).stream("fake/m", "hi", tools=WebSearch()) as stream:
        chunks = [chunk async for chunk in stream]
        said: Response = stream.response
    assert [
        call.name
        for chunk in chunks
        if isinstance(chunk, PartChunk)
        for call in hosted_calls([chunk.part])
    ] == ["web_search"]
    assert [each.url for each in said.citations] == ["https://a.test/"]
    assert hosted_calls([*user("x").parts, OpaquePart(ProviderData("fake", {}))]) == ()
