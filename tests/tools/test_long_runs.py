"""Runs of 200 turns within a budget: each request is valid on every wire, whatever happened."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from functools import cache
from importlib import import_module
from itertools import cycle, pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiollm import (
    ApprovalNeeded,
    Compacted,
    Message,
    PartChunk,
    Registry,
    Request,
    SavedRun,
    Summarize,
    Target,
    Tool,
    TrimTo,
    from_json,
    to_json,
    user,
)
from aiollm._agent.trimming import grouped
from aiollm._failover.estimate import size_of
from aiollm._validation import check
from aiollm.dsn import Secret
from aiollm.provider import Provider
from aiollm.testing import FakeProvider, FaultServer, sse, tool_call
from aiollm.types import OpaquePart, ProviderData

TURNS = 200

# What each wire wants of calls and results


def chat_order(body: dict[str, Any]) -> None:
    waiting: list[str] = []
    for turn in body["messages"]:
        if turn["role"] == "tool":
            waiting.remove(turn["tool_call_id"])
            continue
        assert not waiting
        waiting = [call["id"] for call in turn.get("tool_calls", ())]
        assert len(waiting) == len(set(waiting))
    assert not waiting


def responses_order(body: dict[str, Any]) -> None:
    asked: list[str] = []
    answered: list[str] = []
    for item in body["input"]:
        match item.get("type"):
            case "function_call":
                asked.append(item["call_id"])
            case "function_call_output":
                assert item["call_id"] in asked
                answered.append(item["call_id"])
            case _:
                assert sorted(asked) == sorted(answered)
    assert sorted(asked) == sorted(answered)
    assert len(asked) == len(set(asked))


def anthropic_order(body: dict[str, Any]) -> None:
    seen: set[str] = set()
    waiting: list[str] = []
    roles = [turn["role"] for turn in body["messages"]]
    assert roles[0] == "user"
    assert all(a != b for a, b in pairwise(roles))
    for turn in body["messages"]:
        blocks = turn["content"] if isinstance(turn["content"], list) else []
        results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        assert sorted(results) == sorted(waiting)
        kinds = [block["type"] == "tool_result" for block in blocks]
        assert kinds == sorted(kinds, reverse=True)  # results come first
        waiting = [block["id"] for block in blocks if block["type"] == "tool_use"]
        assert not seen.intersection(waiting)
        seen.update(waiting)
    assert not waiting


def google_order(body: dict[str, Any]) -> None:
    waiting: Counter[str] = Counter()
    assert body["contents"][0]["role"] == "user"
    for turn in body["contents"]:
        parts = turn["parts"]
        results = Counter(p["functionResponse"]["name"] for p in parts if "functionResponse" in p)
        assert results == waiting
        waiting = Counter(p["functionCall"]["name"] for p in parts if "functionCall" in p)
    assert not waiting


def ollama_order(body: dict[str, Any]) -> None:
    waiting: list[str] = []
    for turn in body["messages"]:
        if turn["role"] == "tool":
            waiting.remove(turn["tool_name"])
            continue
        assert not waiting
        waiting = [call["function"]["name"] for call in turn.get("tool_calls", ())]
    assert not waiting


WIRES: dict[str, tuple[str, Any]] = {
    "chat": ("openai.chat_codec:ChatCodec", chat_order),
    "responses": ("openai.responses_codec:ResponsesCodec", responses_order),
    "anthropic": ("anthropic.codec:AnthropicCodec", anthropic_order),
    "google": ("google.codec:GoogleCodec", google_order),
    "ollama": ("ollama.codec:OllamaCodec", ollama_order),
}


@cache
def provider_of(wire: str) -> Provider:
    module, name = WIRES[wire][0].split(":")
    codec = getattr(import_module(f"aiollm.providers.{module}"), name)()
    return Provider("p", wire, "https://h.invalid/v1", codec, token=Secret("k"))


def sent(wire: str, request: Request) -> dict[str, Any]:
    """Return the body that a wire sends."""
    provider = provider_of(wire)
    http = provider.codec.encode(provider, Target("p", "m"), request)
    body: dict[str, Any] = json.loads(bytes(http.body or b""))
    return body


def check_wires(request: Request) -> None:
    check(request)
    for wire, (_, order) in WIRES.items():
        order(sent(wire, request))


# What happens in a run

OPAQUE = PartChunk(OpaquePart(ProviderData("anthropic", {"block": {"type": "compaction"}})))


@st.composite
def happenings(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "said": draw(st.sampled_from(["", "Let me see. ", "Żółw. " * 40])),
        "calls": draw(
            st.lists(st.sampled_from(["look", "fail", "gone", "ask"]), min_size=1, max_size=4)
        ),
        "size": draw(st.integers(0, 3000)),
        "steered": draw(st.integers(0, 9)) == 0,
        "opaque": draw(st.integers(0, 9)) == 0,
    }


def summary(messages: Any) -> str:
    return f"{len(messages)} messages, in short"


HOOKS = {"trim": TrimTo, "summarize": lambda *sizes: Summarize(*sizes, by=summary)}


def tools(run: list[Any], now: list[Any]) -> list[Tool]:
    def look() -> str:
        if now[0]["steered"]:
            run[0].steer("Hurry up.")
        return "x" * now[0]["size"]

    async def fail() -> str:
        raise LookupError("nothing there")

    async def ask() -> str:
        return "asked"

    async def steering_look() -> str:
        return look()

    return [
        Tool("look", function=steering_look),
        Tool("fail", function=fail),
        Tool("ask", function=ask, approve=True),
    ]


@pytest.mark.parametrize("hook", HOOKS)
@settings(max_examples=4)
@given(plan=st.lists(happenings(), min_size=1, max_size=12), budget=st.integers(300, 3000))
def test_each_request_of_a_long_run_is_valid_on_every_wire(hook, plan, budget):
    """The run is saved and goes on whenever a call needs approval; ids repeat in each answer."""
    runs: list[Any] = [None]
    now: list[Any] = [None]
    turns = cycle(plan)
    asked: list[Request] = []

    def model(target: Target, request: Request) -> Any:
        check_wires(request)
        asked.append(request)
        if len(asked) >= TURNS:
            return "The end."
        now[0] = happening = next(turns)
        opaque = [OPAQUE] if happening["opaque"] else []
        said = [happening["said"]] if happening["said"] else []
        return [*said, *opaque, *(tool_call(name) for name in happening["calls"])]

    async def go() -> None:
        given: Any = Request("The task.", system="The rules.")
        approvals: dict[str, Any] = {}
        async with Registry(env={}) as reg:
            reg.register("fake", FakeProvider(default=model).provider())
            while given is not None:
                runs[0] = run = reg.run(
                    "fake/m", given, tools=tools(runs, now), approvals=approvals,
                    compact=HOOKS[hook](budget), max_turns=TURNS,
                )  # fmt: skip
                given = None
                async for event in run:
                    match event:
                        case Compacted(before=before, after=after):
                            assert after[0] == before[0] == user("The task.")
                            assert after[-1] is before[-1]
                        case ApprovalNeeded(calls=calls):
                            given = from_json(run.to_json(), SavedRun)
                            approvals = {call.id: len(asked) % 2 == 0 or "no" for call in calls}
                            check_wires(Request((*given.messages, user("go on"))))
                        case _:
                            pass
            assert run.response.text == "The end."
            assert run.turns == TURNS

    asyncio.run(go())
    assert len(asked) == TURNS
    for request in asked:
        _, groups = grouped(request.messages)
        newest = size_of(Request(tuple(groups[-1]))) / 4 if groups else 0
        assert size_of(request) / 4 <= budget + newest + 100


# Providers that shorten histories themselves

BLOCK = {"type": "compaction", "content": "so far: seven"}
ITEM = {"type": "compaction", "id": "cmp_1", "encrypted_content": "c2V2ZW4="}

ANTHROPIC = sse(
    *(
        (event["type"], event)
        for event in (
            {"type": "message_start", "message": {"role": "assistant"}},
            {
                "type": "content_block_start",
                "index": 0,
                "content_block": {"type": "compaction", "content": None},
            },
            *(
                {
                    "type": "content_block_delta",
                    "index": 0,
                    "delta": {"type": "compaction_delta", "content": piece},
                }
                for piece in ("so far: ", "seven")
            ),
            {"type": "content_block_stop", "index": 0},
            {
                "type": "content_block_start",
                "index": 1,
                "content_block": {"type": "text", "text": "Seven."},
            },
            {"type": "content_block_stop", "index": 1},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
            {"type": "message_stop"},
        )
    )
)
SAID = {
    "type": "message",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "Seven.", "annotations": []}],
}
RESPONSES = sse(
    *(
        (event["type"], event)
        for event in (
            {"type": "response.output_item.added", "output_index": 0, "item": ITEM},
            {"type": "response.output_item.done", "output_index": 0, "item": ITEM},
            {"type": "response.output_item.done", "output_index": 1, "item": SAID},
            {
                "type": "response.completed",
                "response": {"status": "completed", "output": [ITEM, SAID]},
            },
        )
    )
)


@pytest.mark.parametrize(
    ("scheme", "api", "answer", "wanted"),
    [("anthropic", "anthropic", ANTHROPIC, BLOCK), ("openai", "responses", RESPONSES, ITEM)],
    ids=["anthropic", "responses"],
)
async def test_a_providers_own_compaction_goes_back_to_it_as_it_came_and_to_nobody_else(
    scheme, api, answer, wanted
):
    async with FaultServer(answer, answer) as server:
        options = {"path": "/v1", "api": api} if scheme == "openai" else {}
        async with Registry(env={"LLM_A": server.dsn(scheme, **options)}) as reg:
            first = await reg.generate("a/m", "How many?")
            saved = from_json(to_json(first.message), Message)
            history = [user("How many?"), saved, user("Sure?")]
            await reg.generate("a/m", history)
        body = server.requests[-1].json()
    assert first.text == "Seven."
    if scheme == "anthropic":
        assert body["messages"][1]["content"][0] == wanted
    else:
        assert wanted in body["input"]
    for other in WIRES:
        if other != api:
            body = sent(other, Request(tuple(history)))
            assert "compaction" not in json.dumps(body)
            assert "Seven." in json.dumps(body)
