"""Histories that hold what providers ran: replayed to their own wire, left out of any other."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aiollm import (
    HostedCall,
    Message,
    OpaquePart,
    Part,
    ProviderData,
    ReasoningPart,
    Request,
    Response,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    assistant,
    hosted_calls,
    tool_results,
    user,
)

if TYPE_CHECKING:
    from conftest import Wire

FAMILIES = {"responses": "openai-responses", "anthropic": "anthropic", "google": "google"}
TEXT = "Plums are blue: 42."


def opaque_in(message: Message) -> list[Any]:
    """Return what stands in the opaque parts of a message, as it came."""
    states = [part.provider_data.data for part in message.parts if isinstance(part, OpaquePart)]
    inner = [state.get("block") or state.get("part") or state for state in states]
    return [each for each in inner if not {"container", "groundingMetadata"} & set(each)]


def objects(value: Any) -> Iterator[Any]:
    """Yield every object inside a body, in order."""
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from objects(item)
    elif isinstance(value, list):
        for item in value:
            yield from objects(item)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_ran_goes_back_as_it_came_and_in_its_order(wire_of, answers, name: str) -> None:
    body = wire_of(name).body(Request([user("hi"), answers[name], user("and?")]))
    sent = [each for each in objects(body) if each in opaque_in(answers[name])]
    assert sent == opaque_in(answers[name])
    assert len(sent) >= 3


@pytest.mark.parametrize("origin", FAMILIES)
def test_another_wire_gets_the_text_alone(wire, answers, origin: str) -> None:
    if wire.codec.family == FAMILIES[origin]:
        return
    http = wire.encode(Request([user("hi"), answers[origin], user("and?")]))
    sent = bytes(http.body or b"").decode()
    assert TEXT in sent
    ids = [json.dumps(each["id"]) for each in opaque_in(answers[origin]) if "id" in each]
    assert not [each for each in ids if each in sent]
    own = wire.codec.family
    assert f"a part of {FAMILIES[origin]} cannot be replayed to {own}: dropped" in http.warnings


def test_the_calls_can_be_read_alike_whoever_ran_them(answers) -> None:
    calls = {name: hosted_calls(message) for name, message in answers.items()}
    assert {name: [call.name for call in found] for name, found in calls.items()} == {
        "responses": ["web_search", "code_execution", "file_search"],
        "anthropic": ["web_search", "code_execution"],
        "google": ["web_search", "code_execution"],
    }
    search, code, files = calls["responses"]
    assert search.arguments["queries"] == ["plums"]
    assert (code.arguments["code"], code.result[0]["logs"]) == ("print(6*7)", "42\n")
    assert files.result[0]["text"] == "Plums are blue."
    search, code = calls["anthropic"]
    assert (search.arguments, search.result[0]["url"]) == ({"query": "plums"}, "https://a.test/")
    assert code.result["stdout"] == "42\n"
    search, code = calls["google"]
    assert (search.arguments, search.id) == ({"queries": ["plums"]}, "s1")
    assert (code.arguments["code"], code.result["output"]) == ("print(6*7)", "42\n")


def test_sources_keep_what_else_the_provider_says(answers) -> None:
    found = {
        name: [source.provider_data for source in Response(message).citations]
        for name, message in answers.items()
    }
    assert found["anthropic"] == [ProviderData("anthropic", {"encrypted_index": "Eo8C=="})]
    assert found["google"] == [None]
    assert [each and [*each.data] for each in found["responses"]] == [
        ["start_index", "end_index"],
        ["file_id", "index"],
    ]


def opaque(family: str, **data: Any) -> OpaquePart:
    return OpaquePart(ProviderData(family, data))


READ = [
    (
        opaque("openai-responses", type="mcp_call", id="m", name="ask", server_label="wiki",
               arguments='{"q":1}', output="yes"),
        HostedCall("ask", {"q": 1}, "yes", "m"),
    ),
    (
        opaque("openai-responses", type="custom_tool_call", call_id="xs_call_1", name="x_search",
               input='{"query":"plums"}', id="c"),
        HostedCall("x_search", {"query": "plums"}, None, "xs_call_1"),
    ),
    (
        opaque("openai-responses", type="shell_call", id="s", call_id="c", status="completed",
               action={"commands": ["ls"]}),
        HostedCall("shell", {"action": {"commands": ["ls"]}}, None, "c"),
    ),
    (
        opaque("google", groundingMetadata={"webSearchQueries": ["a"], "groundingChunks": [{}]}),
        HostedCall("web_search", {"queries": ["a"]}, [{}]),
    ),
    (
        opaque("anthropic", block={"type": "server_tool_use", "id": "s", "name": "web_fetch",
                                   "input": {"url": "u"}}),
        HostedCall("web_fetch", {"url": "u"}, None, "s"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("part", "call"), READ, ids=lambda each: getattr(each, "name", ""))
def test_other_forms_of_calls_are_read_too(part: OpaquePart, call: HostedCall) -> None:
    assert hosted_calls([part]) == (call,)


def test_a_result_goes_to_the_call_that_it_answers() -> None:
    def code(**keys: Any) -> OpaquePart:
        return opaque("google", part=keys)

    first = code(executableCode={"code": "1"}), code(codeExecutionResult={"output": "a"})
    second = code(executableCode={"code": "2"}), code(codeExecutionResult={"output": "b"})
    found = hosted_calls([*first, *second])
    assert [(call.arguments["code"], call.result["output"]) for call in found] == [
        ("1", "a"),
        ("2", "b"),
    ]


WORDS = [
    *("block", "part", "type", "name", "id", "input", "toolCall", "executableCode", "action"),
    *("groundingMetadata", "webSearchQueries", "tool_use_id", "content", "server_tool_use"),
    *("code_interpreter_call", "x_call", "hosted_call"),
]
values = st.recursive(
    st.none() | st.integers() | st.sampled_from(WORDS),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(WORDS), inner),
    max_leaves=12,
)


@example(data={"hosted_call": {}}, family="google")
@given(data=values, family=st.sampled_from([*FAMILIES.values(), "other"]))
def test_whatever_a_provider_sends_can_be_read(data: Any, family: str) -> None:
    if isinstance(data, dict):
        hosted_calls([OpaquePart(ProviderData(family, data))] * 2)


# Halves of calls at Anthropic


def block(**keys: Any) -> OpaquePart:
    return opaque("anthropic", block=keys)


CALL = block(type="server_tool_use", id="s1", name="web_search", input={})
RESULT = block(type="web_search_tool_result", tool_use_id="s1", content=[])
OTHER = block(type="web_search_tool_result", tool_use_id="s2", content=[])
MINE, ANSWERED = ToolCallPart("t1", "f"), tool_results(ToolResultPart("t1", "r"))


@pytest.fixture
def kinds(wire_of) -> Callable[..., list[str]]:
    """Return the types of the blocks that are sent to Anthropic for these messages."""

    def sent(*messages: Message) -> list[str]:
        body = wire_of("anthropic").body(Request(messages))
        return [each["type"] for turn in body["messages"] for each in turn["content"]]

    return sent


def test_a_call_that_was_cut_is_left_out_once_the_user_goes_on(kinds) -> None:
    assert kinds(user("a"), assistant("b", CALL), user("c")) == ["text"] * 3
    assert kinds(user("a"), assistant(CALL), user("c")) == ["text"] * 2


def test_thoughts_that_were_cut_before_any_answer_are_left_out(kinds) -> None:
    """Anthropic refuses a turn that ends in them."""
    thought = ReasoningPart("hm", ProviderData("anthropic", {"signature": "s"}))
    hidden = ReasoningPart("", ProviderData("anthropic", {"redacted_thinking": "r"}))
    assert kinds(user("a"), assistant(thought, hidden), user("c")) == ["text"] * 2
    assert kinds(user("a"), assistant(thought, CALL), user("c")) == ["text"] * 2
    assert kinds(user("a"), assistant("b", thought), user("c")) == ["text"] * 3
    whole = kinds(user("a"), assistant(thought, CALL, RESULT, hidden, "b"), user("c"))
    assert [whole[1], whole[4]] == ["thinking", "redacted_thinking"]


def test_an_id_that_is_no_text_is_sent_back_as_it_came(kinds) -> None:
    call = block(type="server_tool_use", id=[1], name="web_search", input={})
    result = block(type="web_search_tool_result", tool_use_id=[1], content=[])
    assert len(kinds(user("a"), assistant(call, result), user("c"))) == 4
    assert len(kinds(user("a"), assistant(call), user("c"))) == 2


def test_a_turn_of_which_nothing_is_left_is_left_out(wire_of) -> None:
    body = wire_of("anthropic").body(Request([user("a"), assistant(CALL), user("c")]))
    assert [turn["role"] for turn in body["messages"]] == ["user", "user"]


def test_a_call_in_a_turn_that_goes_on_stays(kinds) -> None:
    assert kinds(user("a"), assistant("b", CALL))[-1] == "server_tool_use"
    mixed = kinds(user("a"), assistant(CALL, MINE), ANSWERED)
    assert mixed == ["text", "server_tool_use", "tool_use", "tool_result"]
    done = kinds(user("a"), assistant(CALL, MINE), ANSWERED, assistant(RESULT, "b"), user("c"))
    assert "server_tool_use" in done
    assert "web_search_tool_result" in done


def test_a_result_whose_call_was_cut_off_is_left_out(kinds) -> None:
    assert kinds(user("a"), assistant(CALL, RESULT, OTHER, "b"), user("c")) == [
        "text", "server_tool_use", "web_search_tool_result", "text", "text",
    ]  # fmt: skip


def test_a_call_of_openais_goes_without_its_reasoning_nowhere(wire_of) -> None:
    reasoning = {"item": {"type": "reasoning", "id": "rs_1", "summary": []}}
    turn = assistant(
        ReasoningPart("", ProviderData("openai-responses", reasoning)),
        opaque("openai-responses", type="web_search_call", id="ws_1", status="completed"),
        "b",
    )
    http = wire_of("responses").encode(Request([user("a"), turn, user("c")]))
    assert b"ws_1" not in bytes(http.body or b"")
    assert len(http.warnings) == 2


# Any history

texts = st.sampled_from(["a", "b c", "é"]).map(TextPart)


@st.composite
def histories(draw: st.DrawFn, hosted: Sequence[Part]) -> list[Message]:
    """Conversations of users, answers with what some providers ran, and tools of one's own."""
    messages = [user("go")]
    for turn in range(draw(st.integers(1, 4))):
        parts = draw(st.lists(texts | st.sampled_from(hosted), max_size=6))
        if draw(st.booleans()):
            messages.append(Message("assistant", (*parts, ToolCallPart(f"t{turn}", "f"))))
            messages.append(tool_results(ToolResultPart(f"t{turn}", "r")))
        else:
            messages += [Message("assistant", tuple(parts)), user("go on")]
    return messages


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_history_is_valid_on_every_wire(wire: Wire, answers, data: st.DataObject) -> None:
    """Texts and calls with their results arrive, and no state of others, nor half of a call."""
    hosted = [part for message in answers.values() for part in message.parts]
    messages = data.draw(histories(hosted))
    http = wire.encode(Request(messages))
    body = json.loads(bytes(http.body or b""))
    sent = json.dumps(body, ensure_ascii=False)
    parts = [part for message in messages for part in message.parts]
    foreign = {part.provider_data.family for part in parts if isinstance(part, OpaquePart)} - {
        wire.codec.family
    }
    warned = "".join(http.warnings)
    assert all(f"a part of {family} cannot be replayed" in warned for family in foreign)
    assert all(part.text in sent for part in parts if isinstance(part, TextPart))
    calls = sum(isinstance(part, ToolCallPart) for part in parts)
    named = 2 if wire.codec.family in {"google", "ollama"} else 1  # beside results, too
    assert sent.count('"f"') == calls * named
    others = [each for name, message in answers.items() if FAMILIES[name] in foreign
              for each in opaque_in(message)]  # fmt: skip
    assert not [each for each in objects(body) if each in others]
    if wire.codec.family == "anthropic":
        _check_pairs(body["messages"])


def _check_pairs(turns: list[dict[str, Any]]) -> None:
    """Check that each result follows its call, and that no user speaks between them."""
    waiting: list[str] = []
    for turn in turns:
        assert turn["content"]
        for each in turn["content"]:
            match each["type"]:
                case "server_tool_use":
                    assert each["id"] not in waiting
                    waiting.append(each["id"])
                case "tool_result" | "tool_use":
                    pass
                case kind if kind.endswith("_tool_result"):
                    waiting.remove(each["tool_use_id"])
                case _:
                    assert turn["role"] == "assistant" or not waiting


def test_many_searches_are_read_in_one_pass() -> None:
    """A message of a hostile server may have as many parts as it likes."""
    calls = [{"part": {"toolCall": {"id": "a", "toolType": "x"}}}] * 2000
    grounds = [{"groundingMetadata": {"webSearchQueries": ["a"]}}] * 2000
    parts = [OpaquePart(ProviderData("google", data)) for data in (*calls, *grounds)]
    lines = 0

    def count(frame: Any, event: str, _: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        found = hosted_calls(parts)
    finally:
        sys.settrace(before)
    assert [call.name for call in found] == ["x"] * 2000 + ["web_search"]
    assert lines < 100 * len(parts)
