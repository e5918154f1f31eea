"""Ids of tool calls: none repeats in what is sent, and each result stays with its call."""

from __future__ import annotations

import json
from importlib import import_module
from typing import Any

import pytest

from aiollm.dsn import Secret
from aiollm.provider import Provider
from aiollm.providers.call_ids import unique_calls
from aiollm.providers.decoding import own_call_id
from aiollm.types import (
    Message,
    Request,
    Target,
    ToolCallPart,
    ToolResultPart,
    assistant,
    tool_results,
    user,
)


def call(id_: str, name: str = "f", **arguments: Any) -> ToolCallPart:
    return ToolCallPart(id_, name, json.dumps(arguments))


def pairs(messages: tuple[Message, ...]) -> list[tuple[str, str]]:
    """Return the name of each call with the text of its result."""
    parts = [part for message in messages for part in message.parts]
    calls = [part for part in parts if isinstance(part, ToolCallPart)]
    results = {part.id: part.text for part in parts if isinstance(part, ToolResultPart)}
    assert len({part.id for part in calls}) == len(calls)
    return [(part.name, results.get(part.id, "")) for part in calls]


def turn(number: int) -> tuple[Message, Message]:
    return (
        assistant(call("call_0", f"f{number}")),
        tool_results(ToolResultPart("call_0", f"r{number}")),
    )


HISTORY = (user("go"), *turn(1), *turn(2), user("more"), *turn(3))


def test_ids_that_do_not_repeat_are_left_alone() -> None:
    history = (user("go"), *turn(1))
    assert all(new is old for new, old in zip(unique_calls(history), history, strict=True))


def test_a_call_that_repeats_an_id_gets_another_and_keeps_its_result() -> None:
    assert pairs(unique_calls(HISTORY)) == [("f1", "r1"), ("f2", "r2"), ("f3", "r3")]


def test_a_conversation_that_grows_keeps_its_beginning() -> None:
    for end in range(len(HISTORY)):
        assert unique_calls(HISTORY)[:end] == unique_calls(HISTORY[:end])


def test_a_new_id_is_never_one_that_was_used_before() -> None:
    history = [assistant(call("a_2"), call("a"), call("a"), call("a_2"))]
    made = unique_calls(history)
    assert [part.id for part in made[0].parts] == ["a_2", "a", "a_3", "a_2_2"]


def test_parallel_calls_with_one_id_get_their_results_in_order() -> None:
    history = (
        assistant(call("x", "f"), call("x", "f")),
        tool_results(ToolResultPart("x", "1"), ToolResultPart("x", "2")),
    )
    assert pairs(unique_calls(history)) == [("f", "1"), ("f", "2")]


def test_parallel_calls_with_one_id_get_their_results_by_name() -> None:
    history = (
        assistant(call("x", "f"), call("x", "g")),
        tool_results(ToolResultPart("x", "of g", "g"), ToolResultPart("x", "of f", "f")),
    )
    assert pairs(unique_calls(history)) == [("f", "of f"), ("g", "of g")]


def test_results_in_messages_of_their_own_and_after_both_turns_find_their_calls() -> None:
    history = (
        assistant(call("x", "f")),
        assistant(call("x", "g")),
        tool_results(ToolResultPart("x", "1")),
        tool_results(ToolResultPart("x", "2")),
    )
    assert pairs(unique_calls(history)) == [("f", "1"), ("g", "2")]


def test_a_result_never_goes_to_a_call_of_an_earlier_turn() -> None:
    history = (
        user("go"),
        assistant(call("x", "cut")),
        user("go on"),
        assistant(call("x", "f")),
        tool_results(ToolResultPart("x", "1")),
    )
    assert pairs(unique_calls(history)) == [("cut", ""), ("f", "1")]


def test_calls_without_ids_get_some() -> None:
    history = (
        assistant(call("", "f"), call("", "g")),
        tool_results(ToolResultPart("", "1"), ToolResultPart("", "2")),
    )
    assert pairs(unique_calls(history)) == [("f", "1"), ("g", "2")]


def test_a_result_without_a_call_keeps_its_id() -> None:
    (message,) = unique_calls([tool_results(ToolResultPart("gone", "1"))])
    assert message.parts[0].id == "gone"


def test_an_answer_gives_each_of_its_calls_an_id_of_its_own() -> None:
    taken: set[str] = set()
    ids = [own_call_id(id_, taken) for id_ in ("a", "a", "", "b", "")]
    assert (ids[0], ids[3]) == ("a", "b")
    assert len(set(ids)) == 5
    assert all(ids)


@pytest.mark.parametrize(("scheme", "codec"), [
    ("openai", "openai.chat_codec:ChatCodec"),
    ("openai", "openai.responses_codec:ResponsesCodec"),
    ("anthropic", "anthropic.codec:AnthropicCodec"),
    ("google", "google.codec:GoogleCodec"),
    ("ollama", "ollama.codec:OllamaCodec"),
])  # fmt: skip
def test_every_wire_sends_each_id_once(scheme: str, codec: str) -> None:
    module, name = codec.split(":")
    made = getattr(import_module(f"aiollm.providers.{module}"), name)()
    provider = Provider("p", scheme, "https://h.invalid/v1", made, token=Secret("k"))
    http = made.encode(provider, Target("p", "gpt-4.1"), Request((*HISTORY, user("and now?"))))
    sent = bytes(http.body).decode()
    for id_ in ("call_0", "call_0_2", "call_0_3"):
        assert sent.count(f'"{id_}"') == 2, "once as the call's, once as its result's"
    places = [sent.index(word) for word in ('"f1"', "r1", '"f2"', "r2", '"f3"', "r3")]
    assert places == sorted(places)


@pytest.mark.parametrize("name", ["chat_codec:ChatCodec", "responses_codec:ResponsesCodec"])
def test_openai_is_sent_no_empty_id(name: str) -> None:
    """It refuses one."""
    module, made = name.split(":")
    codec = getattr(import_module(f"aiollm.providers.openai.{module}"), made)()
    provider = Provider("p", "openai", "https://h.invalid/v1", codec, token=Secret("k"))
    history = (user("go"), assistant(call("")), tool_results(ToolResultPart("", "1")), user("so?"))
    http = codec.encode(provider, Target("p", "gpt-4.1"), Request(history))
    assert b'id":""' not in bytes(http.body)


@pytest.mark.parametrize("name", ["chat_codec:ChatCodec", "responses_codec:ResponsesCodec"])
@pytest.mark.parametrize(("host", "is_kept"), [("gateway.test", True), ("api.openai.com", False)])
@pytest.mark.parametrize("mark", ["call_1__thought__{}", "sig-{}.call_1", "relay-1:Y2FsbA.{}"])
def test_an_id_that_holds_a_signature_goes_back_to_the_gateway_that_made_it(
    name: str,
    host: str,
    is_kept: bool,
    mark: str,
) -> None:
    """LiteLLM and other relays write Gemini's signatures into ids, too long for OpenAI."""
    module, made = name.split(":")
    codec = getattr(import_module(f"aiollm.providers.openai.{module}"), made)()
    provider = Provider("p", "openai", f"https://{host}/v1", codec, token=Secret("k"))
    signed = mark.format("QUJD" * 500)
    plain = "call_" + "x" * 80
    history = (
        assistant(call(signed), call(plain)),
        tool_results(ToolResultPart(signed, "1"), ToolResultPart(plain, "2")),
    )
    request = Request((user("go"), *history, user("so?")))
    sent = bytes(codec.encode(provider, Target("p", "gpt-4.1"), request).body).decode()
    assert sent.count(f'"{signed}"') == 2 * is_kept
    assert plain not in sent
