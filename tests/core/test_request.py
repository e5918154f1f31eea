"""Requests: what stands for one, and what is refused before any byte, with its place."""

from __future__ import annotations

import math
from collections import UserList, deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiollm._validation import as_request, check
from aiollm.errors import ConfigError, UnsupportedError
from aiollm.hosted import CodeExecution, FileSearch, HostedTool, WebSearch
from aiollm.provider import HttpRequest, Provider
from aiollm.providers.anthropic.codec import AnthropicCodec
from aiollm.providers.google.codec import GoogleCodec
from aiollm.providers.ollama.codec import OllamaCodec
from aiollm.providers.openai.chat_codec import ChatCodec
from aiollm.providers.openai.responses_codec import ResponsesCodec
from aiollm.types import (
    AudioPart,
    DocumentPart,
    ImagePart,
    Message,
    OpaquePart,
    ProviderData,
    ReasoningPart,
    RefusalPart,
    Request,
    Target,
    TextPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
    assistant,
    system,
    tool_results,
    user,
)

IMAGE = ImagePart(b"\x89PNG\r\n\x1a\n")
OPAQUE = OpaquePart(ProviderData("anthropic", {"type": "x"}))


HI = user("hi")


def call(id_: str = "1", name: str = "f", arguments: Any = "{}") -> ToolCallPart:
    return ToolCallPart(id_, name, arguments)


def result(id_: str = "1", *content: Any) -> ToolResultPart:
    return ToolResultPart(id_, content or "ok")


class TestAsRequest:
    def test_a_request_stays_itself(self) -> None:
        request = Request("hi", temperature=0.5)
        assert as_request(request) is request

    @pytest.mark.parametrize(
        "value",
        ["hi", HI, [HI], (HI,), UserList([HI]), deque([HI])],
        ids=lambda value: type(value).__name__,
    )
    def test_a_prompt_a_message_or_a_conversation_is_a_request(self, value) -> None:
        assert as_request(value) == Request((user("hi"),))

    @pytest.mark.parametrize(
        "value", [None, 5, b"hi", {"role": "user"}, Tool("f"), iter([user("hi")])]
    )
    def test_anything_else_is_refused(self, value) -> None:
        with pytest.raises(ConfigError, match=f"not of type {type(value).__name__}"):
            as_request(value)


GOOD = {
    "a prompt": Request("hi"),
    "an empty prompt": Request(""),
    "system messages anywhere": Request([system("a"), user("b"), system("c"), user("d")]),
    "all kinds of input": Request(
        user("a", IMAGE, DocumentPart(b"%PDF"), AudioPart(b"RIFF"), OPAQUE)
    ),
    "all kinds of output": Request(
        [
            user("a"),
            assistant(ReasoningPart("r"), "a", IMAGE, AudioPart(b"x"), RefusalPart("n"), OPAQUE),
            user("b"),
        ]
    ),
    "the start of an answer": Request([user("a"), assistant("b")]),
    "a call and its result": Request([user("a"), assistant("b", call()), tool_results(result())]),
    "calls answered in another order": Request(
        [user("a"), assistant(call("1"), call("2")), tool_results(result("2"), result("1"))]
    ),
    "calls answered in several messages": Request(
        [
            user("a"),
            assistant(call("1"), call("2")),
            tool_results(result("1")),
            tool_results(result("2")),
            assistant("done"),
        ]
    ),
    "ids used again in a later turn": Request(
        [
            user("a"),
            assistant(call("1")),
            tool_results(result("1")),
            assistant(call("1")),
            tool_results(result("1")),
        ]
    ),
    "equal ids in one turn": Request(
        [user("a"), assistant(call("1"), call("1")), tool_results(result("1"), result("1"))]
    ),
    "a result with an image, or empty": Request(
        [
            user("a"),
            assistant(call("1"), call("2")),
            tool_results(result("1", "a", IMAGE), ToolResultPart("2", ())),
        ]
    ),
    "tools": Request("a", tools=[Tool("f"), Tool("_g-2", parameters={"properties": {}})]),
    "a tool's name at its longest": Request("a", tools=Tool("f" * 64)),
    "a choice of tool": Request("a", tools=[Tool("f")], tool_choice="f"),
    "a required tool": Request("a", tools=[Tool("f")], tool_choice="required"),
    "a choice without tools": Request("a", tool_choice="auto"),
    "no tool": Request("a", tool_choice="none"),
    "settings": Request(
        "a", temperature=0, top_p=1.0, max_output_tokens=1, seed=-1, stop=["x", " "], reasoning=0,
        extra={"a": 1}, parallel_tool_calls=False, system="s",
    ),
    "high settings": Request("a", temperature=2.5, max_output_tokens=10**9, seed=2**63 - 1),
    "an effort": Request("a", reasoning="xhigh"),
    "a budget": Request("a", reasoning=32_000),
}  # fmt: skip


@pytest.mark.parametrize("request_", GOOD.values(), ids=GOOD)
def test_what_is_right_passes(request_) -> None:
    check(request_)


MESSAGES: list[tuple[Any, str]] = [
    ([], "messages is empty"),
    ([1], r"messages\[0\] is of type int, not a Message: use user\(\)"),
    ([user("a"), {"role": "user"}], r"messages\[1\] is of type dict, .* messages_from_openai\(\)"),
    (["a"], r"messages\[0\] is of type str, not a Message"),
    ([user()], r"messages\[0\] has no parts"),
    ([Message("bot", "a")], r"messages\[0\].role is 'bot', not one of system, user, assistant"),
    ([user(TextPart(5))], r"messages\[0\].parts\[0\].text is of type int, not a str"),
    ([user(TextPart(None))], r"parts\[0\].text is of type NoneType"),
    ([system("a", IMAGE)], r"messages\[0\].parts\[1\] is of type ImagePart: .* may hold TextPart"),
    ([user(call())], r"parts\[0\] is of type ToolCallPart: a message of role 'user'"),
    ([user(result())], "parts.0. is of type ToolResultPart"),
    ([user(ReasoningPart("x"))], "parts.0. is of type ReasoningPart"),
    ([assistant(result())], "is of type ToolResultPart: a message of role 'assistant'"),
    ([assistant(DocumentPart(b"x"))], "is of type DocumentPart"),
    ([Message("tool", "a")], "is of type TextPart: a message of role 'tool' may hold ToolResult"),
    ([assistant(ReasoningPart(5))], r"parts\[0\].text is of type int"),
    ([assistant(RefusalPart(5))], r"parts\[0\].text is of type int"),
    ([assistant(call(arguments={"a": 1}))], r"parts\[0\].arguments is of type dict, not a str"),
    ([assistant(call(id_=None))], r"parts\[0\].id is of type NoneType"),
    ([assistant(call(name=5))], r"parts\[0\].name is of type int"),
    ([tool_results(result(5))], r"parts\[0\].id is of type int"),
    ([user("a"), tool_results(result("1"))], r"messages\[1\].parts\[0\] answers the tool call '1'"),
    ([user("a"), assistant(call("1")), tool_results(result("2"))], "answers the tool call '2'"),
    ([user("a"), assistant(call("1")), tool_results(result("1"), result("1"))],
     r"messages\[2\].parts\[1\] answers the tool call '1', which has an answer already"),
    ([user("a"), assistant(call("1")), tool_results(result("1")), tool_results(result("1"))],
     r"messages\[3\].parts\[0\] answers"),
    ([user("a"), assistant(call("1")), user("b")],
     r"missing tool result before messages\[2\] for the tool call '1'"),
    ([user("a"), assistant(call("1")), assistant("b"), user("c")], r"before messages\[3\]"),
    ([user("a"), assistant(call("1")), assistant(call("2")), tool_results(result("1")),
      assistant("b"), tool_results(result("2"))], r"before messages\[4\] for the tool call '2'"),
    ([user("a"), assistant(call("1")), system("b"), tool_results(result("1"))],
     r"before messages\[2\]"),
    ([user("a"), assistant(call("1"), call("2")), tool_results(result("1")), user("b")],
     r"before messages\[3\] for the tool call '2'"),
    ([user("a"), assistant(call("1"), call("2"))],
     "at the end of messages for the tool call '1', '2'"),
    ([user("a"), assistant(call()), tool_results(result("1", TextPart(None)))],
     r"content\[0\].text is of type NoneType"),
    ([user("a"), assistant(call()), tool_results(result("1", AudioPart(b"x")))],
     r"content\[0\] is of type AudioPart"),
]  # fmt: skip


@pytest.mark.parametrize("make", [user, assistant, system, tool_results, result])
@pytest.mark.parametrize("wrong", [5, None, {"type": "text", "text": "a"}, b"a", ["a"]])
def test_what_is_no_part_is_refused_where_it_is_written(make, wrong) -> None:
    kind = type(wrong).__name__
    with pytest.raises(
        ConfigError,
        match=rf"part \d is of type {kind}, not a str or a part such as ImagePart.from_path",
    ):
        make("a", wrong)


@pytest.mark.parametrize(
    "messages",
    [
        [user("a"), assistant(), user("b")],
        [user("a"), assistant(call("1")), assistant(call("2")),
         tool_results(result("1"), result("2"))],
        [user("a"), assistant(call("1")), assistant("so"), tool_results(result("1"))],
        [user("a"), assistant(call("1")), tool_results(result("1", DocumentPart(b"x")))],
    ],
)  # fmt: skip
def test_what_a_provider_can_be_sent_passes(messages) -> None:
    check(Request(messages))


def test_results_at_the_start_may_answer_calls_that_the_server_holds() -> None:
    held = {"openai": {"previous_response_id": "resp_1"}}
    check(Request([tool_results(result("1")), user("and?")], extra=held))
    check(Request((), extra={"*": {"conversation": "conv_1"}}))
    for messages in (
        [tool_results(result("1"), result("1"))],
        [assistant("x"), tool_results(result("1"))],
    ):
        with pytest.raises(ConfigError, match="answers the tool call '1'"):
            check(Request(messages, extra=held))
    with pytest.raises(ConfigError, match="answers the tool call '1'"):
        check(Request([tool_results(result("1"))], extra={"*": {"previous_response_id": None}}))


def test_a_tool_choice_may_name_a_tool_in_the_providers_own_form() -> None:
    for choice in ("required", "web_search"):
        check(
            Request(
                "a", tool_choice=choice, extra={"wire:openai": {"tools": [{"type": "web_search"}]}}
            )
        )
        with pytest.raises(ConfigError, match="there are no tools"):
            check(Request("a", tool_choice=choice))


@pytest.mark.parametrize(("messages", "reason"), MESSAGES)
def test_a_wrong_conversation_is_refused_with_its_place(messages, reason) -> None:
    with pytest.raises(ConfigError, match=reason):
        check(Request(messages))


FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"tools": [5]}, r"tools\[0\] is of type int, not a Tool: decorate a function with @tool"),
    ({"tools": [len]}, r"tools\[0\] is of type builtin_function_or_method"),
    ({"tools": Tool("")}, r"tools\[0\].name is '': expected \[A-Za-z_\]"),
    ({"tools": [Tool("a"), Tool("1a")]}, r"tools\[1\].name is '1a'"),
    ({"tools": Tool("a b")}, r"tools\[0\].name is 'a b'"),
    ({"tools": Tool("a\n")}, "name is"),
    ({"tools": Tool("caf\u00e9")}, "name is"),
    ({"tools": Tool("a" * 65)}, "name is 'aaa"),
    ({"tools": Tool(5)}, "name is 5"),
    ({"tools": [Tool("a"), Tool("b"), Tool("a")]}, "two tools have the name 'a'"),
    ({"tools": Tool("a", parameters=None)}, "the parameters of tool 'a' must be a JSON schema"),
    ({"tools": Tool("a", parameters={"type": "string"})}, "must be a JSON schema of an object"),
    ({"tool_choice": "f"}, "tool_choice is 'f': expected auto or none: there are no tools"),
    ({"tool_choice": "required"}, "tool_choice is 'required': expected auto or none"),
    ({"tools": Tool("g"), "tool_choice": "f"},
     "tool_choice is 'f': expected auto, none, required, g"),
    ({"tools": Tool("g"), "tool_choice": ["g", "h"]}, r"tool_choice is \['g', 'h'\]"),
    ({"tools": Tool("g"), "tool_choice": ()}, r"tool_choice is \(\)"),
    ({"tools": Tool("g"), "tool_choice": ("auto",)}, r"tool_choice is \('auto',\)"),
    ({"tools": Tool("g"), "tool_choice": ("g", 1)}, r"tool_choice is \('g', 1\)"),
    ({"tools": [WebSearch(), Tool("web_search")]}, "two tools have the name 'web_search'"),
    ({"tools": WebSearch(0)}, r"tools\[0\].max_uses is 0: expected an integer, 1 or more"),
    ({"tools": WebSearch(None, "a.test", "b.test")}, r"tools\[0\] has allowed and blocked domains"),
    ({"tools": WebSearch(None, ["a.test", ""])}, r"tools\[0\].allowed_domains is \('a.test', ''\)"),
    ({"tools": WebSearch(None, 5)}, r"tools\[0\].allowed_domains is 5: expected texts"),
    ({"tools": WebSearch(location="Oslo")}, "location is of type str, not a UserLocation"),
    ({"tools": CodeExecution(5)}, r"tools\[0\].container is \(5,\): expected texts"),
    ({"tools": FileSearch(())}, r"tools\[0\].stores is empty"),
    ({"tools": FileSearch("s", True)}, r"tools\[0\].max_results is True"),
    ({"tools": HostedTool({})}, r"tools\[0\].raw must map field names"),
    ({"tools": HostedTool("web")}, r"tools\[0\].raw must map field names"),
    ({"tools": Tool("g"), "tool_choice": Tool("g")}, "tool_choice is Tool"),
    ({"temperature": -0.1}, "temperature is -0.1: expected a finite number, 0 or more"),
    ({"temperature": math.nan}, "temperature is nan"),
    ({"temperature": math.inf}, "temperature is inf"),
    ({"temperature": "0.5"}, "temperature is '0.5'"),
    ({"temperature": True}, "temperature is True"),
    ({"temperature": 10**5000}, "temperature is an integer of more than 64 bits"),
    ({"top_p": 1.01}, "top_p is 1.01: expected a number from 0 to 1"),
    ({"top_p": -1}, "top_p is -1"),
    ({"max_output_tokens": 0}, "max_output_tokens is 0: expected an integer, 1 or more"),
    ({"max_output_tokens": 10.0}, "max_output_tokens is 10.0"),
    ({"max_output_tokens": True}, "max_output_tokens is True"),
    ({"max_output_tokens": 2**63}, "max_output_tokens is 9223372036854775808"),
    ({"seed": 1.0}, "seed is 1.0: expected a 64-bit integer"),
    ({"seed": 2**70}, "seed is an integer of more than 64 bits"),
    ({"system": None}, "system is of type NoneType, not a str"),
    ({"system": ["a"]}, "system is of type list"),
    ({"stop": [""]}, "stop holds '': expected strings that are not empty"),
    ({"stop": ["a", 5]}, "stop holds 5"),
    ({"reasoning": "huge"}, "reasoning is 'huge': expected a budget .* or one of none, minimal"),
    ({"reasoning": -1}, "reasoning is -1"),
    ({"reasoning": True}, "reasoning is True"),
    ({"reasoning": 1.5}, "reasoning is 1.5"),
    ({"reasoning": 2**63}, "reasoning is"),
    ({"parallel_tool_calls": "no"}, "parallel_tool_calls is 'no': expected a bool"),
    ({"parallel_tool_calls": 0}, "parallel_tool_calls is 0: expected a bool"),
    ({"extra": None}, "extra must map .* to fields"),
    ({"extra": [("a", 1)]}, "extra must map"),
    ({"extra": {1: 2}}, "extra must map .* to fields"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "reason"), FIELDS)
def test_a_wrong_field_is_refused_by_its_name(fields, reason) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        check(Request("a", **fields))
    assert len(str(caught.value)) < 400


# Whatever passes can be written for every provider, or a provider says why not.

TEXT = st.text(max_size=5)
NAME = st.from_regex(r"\A[a-z_][a-z0-9_-]{0,5}\Z")
IMAGES = st.just(IMAGE) | st.builds(ImagePart, url=st.sampled_from(["https://x/y.png", "data:,x"]))
IDS = st.sampled_from(["1", "2", "", "x" * 100, "\u00e9"])
DATA = st.none() | st.builds(
    ProviderData,
    st.sampled_from(["anthropic", "google", "openai", "openai-responses", "ollama"]),
    st.dictionaries(st.sampled_from(["signature", "type", "id", "thoughtSignature"]), TEXT),
)
CALLS = st.builds(
    ToolCallPart, IDS, NAME, st.sampled_from(["{}", '{"a": 1}', "", "{", "[]"]), provider_data=DATA
)
SAID = st.one_of(
    st.builds(TextPart, TEXT, provider_data=DATA),
    st.builds(ReasoningPart, TEXT, provider_data=DATA),
    st.builds(RefusalPart, TEXT),
    st.builds(OpaquePart, DATA.filter(bool)),
    IMAGES,
)
ASKED = st.one_of(
    st.builds(TextPart, TEXT), IMAGES, st.builds(DocumentPart, st.just(b"%PDF-1.4")),
    st.builds(AudioPart, st.just(b"RIFF....WAVE")),
)  # fmt: skip


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    """Return turns of user and assistant, each call with its result."""
    messages = [Message("user", tuple(draw(st.lists(ASKED, min_size=1, max_size=2))))]
    for _ in range(draw(st.integers(0, 3))):
        calls = draw(st.lists(CALLS, max_size=2))
        said = draw(st.lists(SAID, min_size=0 if calls else 1, max_size=2))
        messages.append(Message("assistant", (*said, *calls)))
        if calls:
            content = st.lists(st.builds(TextPart, TEXT) | IMAGES, max_size=2)
            messages.append(
                tool_results(
                    *(ToolResultPart(each.id, tuple(draw(content)), each.name) for each in calls)
                )
            )
        else:
            messages.append(user(draw(TEXT)))
    return messages


REQUESTS = st.builds(
    Request,
    conversations(),
    system=TEXT,
    tools=st.lists(st.builds(Tool, NAME, TEXT), max_size=2, unique_by=lambda tool: tool.name),
    tool_choice=st.sampled_from([None, "auto", "none"]),
    parallel_tool_calls=st.sampled_from([None, True, False]),
    max_output_tokens=st.none() | st.integers(1, 10**6),
    temperature=st.none() | st.floats(0, 2),
    top_p=st.none() | st.floats(0, 1),
    stop=st.lists(st.text(min_size=1, max_size=3), max_size=2),
    seed=st.none() | st.integers(-(2**63), 2**63 - 1),
    reasoning=st.sampled_from([None, "none", "low", "max", 0, 5000]),
    extra=st.dictionaries(NAME, TEXT, max_size=2),
)
PROVIDERS = [
    Provider("x", "openai", "https://api.openai.com/v1", ChatCodec()),
    Provider("x", "openai", "https://api.openai.com/v1", ResponsesCodec()),
    Provider("x", "anthropic", "https://api.anthropic.com/v1", AnthropicCodec()),
    Provider("x", "google", "https://h/v1beta", GoogleCodec()),
    Provider("x", "ollama", "https://h", OllamaCodec()),
]


@given(request=REQUESTS)
def test_what_passes_is_written_by_every_codec_or_refused_for_a_reason(request) -> None:
    check(request)
    for provider in PROVIDERS:
        try:
            http = provider.codec.encode(provider, Target("x", "some-model"), request)
        except (UnsupportedError, ConfigError) as error:
            reason = str(error)
        else:
            assert isinstance(http, HttpRequest)
            assert bytes(http.body).startswith(b"{")
            continue
        assert reason


def test_a_long_conversation_is_checked_in_one_pass() -> None:
    """4,096 calls in one turn, answered in reverse: no result searches through all calls."""
    ids = [str(number) for number in range(4096)]
    messages = [
        user("a"),
        assistant(*(call(each) for each in ids)),
        tool_results(*(result(each) for each in reversed(ids))),
    ]
    check(Request(messages))
