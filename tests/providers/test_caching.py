"""Prompt caching on every wire: marks at cache points, lifetimes and keys, if a host has them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiollm import CachePoint, ConfigError, system, tool, tool_results, user
from aiollm._agent.tools import as_result
from aiollm._validation import check
from aiollm.dsn import Secret
from aiollm.provider import Codec, HttpRequest, Provider
from aiollm.providers.anthropic.codec import AnthropicCodec
from aiollm.providers.cache_points import nearest
from aiollm.providers.google.codec import GoogleCodec
from aiollm.providers.ollama.codec import OllamaCodec
from aiollm.providers.openai.chat_codec import ChatCodec
from aiollm.providers.openai.responses_codec import ResponsesCodec
from aiollm.types import (
    ImagePart,
    Message,
    OpaquePart,
    ProviderData,
    ReasoningPart,
    Request,
    Target,
    TextPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
    assistant,
)

POINT = CachePoint()
PNG = ImagePart(b"\x89PNG\r\n\x1a\n-not-really", mime="image/png")
EPHEMERAL = {"type": "ephemeral"}
EXPLICIT = {"mode": "explicit"}
MARKS = ("cache_control", "prompt_cache_breakpoint")
FIELDS = (*MARKS, "prompt_cache_key", "prompt_cache_options", "session_id")

HOSTS: dict[str, tuple[Codec, str, str]] = {
    "anthropic": (AnthropicCodec(), "https://api.anthropic.com/v1", "claude-sonnet-5-5"),
    "messages": (AnthropicCodec(), "http://127.0.0.1:9931/v1", "some-model"),
    "chat": (ChatCodec(), "https://api.openai.com/v1", "gpt-5.6-luna"),
    "responses": (ResponsesCodec(), "https://api.openai.com/v1", "gpt-6-sol"),
    "older": (ResponsesCodec(), "https://api.openai.com/v1", "gpt-5.4-mini"),
    "azure": (ChatCodec(), "https://r.openai.azure.com/openai/v1", "gpt-5.6-luna"),
    "foundry": (ChatCodec(), "https://r.openai.azure.com/openai/v1", "Kimi-K2.5"),
    "openrouter": (ChatCodec(), "https://openrouter.ai/api/v1", "anthropic/claude-sonnet-5.5"),
    "router-gpt": (ChatCodec(), "https://openrouter.ai/api/v1", "openai/gpt-5.6"),
    "router-responses": (ResponsesCodec(), "https://openrouter.ai/api/v1", "openai/gpt-5.6"),
    "mistral": (ChatCodec(), "https://api.mistral.ai/v1", "mistral-large-latest"),
    "moonshot": (ChatCodec(), "https://api.moonshot.ai/v1", "kimi-k3"),
    "xai": (ChatCodec(), "https://api.x.ai/v1", "grok-4.7"),
    "xai-responses": (ResponsesCodec(), "https://api.x.ai/v1", "grok-4.7"),
    "fireworks": (ChatCodec(), "https://api.fireworks.ai/inference/v1", "glm-5p2"),
    "groq": (ChatCodec(), "https://api.groq.com/openai/v1", "gpt-oss-120b"),
    "cerebras": (ChatCodec(), "https://api.cerebras.ai/v1", "gpt-5.6-oss"),
    "local": (ChatCodec(), "http://127.0.0.1:9931/v1", "gpt-5.6-oss"),
    "local-responses": (ResponsesCodec(), "http://127.0.0.1:9931/v1", "gpt-5.6-oss"),
    "gemini": (GoogleCodec(), "https://generativelanguage.googleapis.com/v1beta", "gemini-3.8"),
    "ollama": (OllamaCodec(), "http://127.0.0.1:11434", "qwen3:8b"),
}
WITH_POINTS = {"anthropic", "messages", "chat", "responses", "azure", "openrouter", "router-gpt"}
KEYS = {
    "chat": "prompt_cache_key",
    "responses": "prompt_cache_key",
    "older": "prompt_cache_key",
    "azure": "prompt_cache_key",
    "openrouter": "session_id",
    "router-gpt": "session_id",
    "router-responses": "session_id",
    "mistral": "prompt_cache_key",
    "moonshot": "prompt_cache_key",
    "xai": "x-grok-conv-id",
    "xai-responses": "prompt_cache_key",
    "fireworks": "x-session-affinity",
}
"""What a host calls the key by which requests go to one cache."""

TALK = Request(
    [
        system("rules", POINT, "today"),
        user("doc", PNG, POINT, "question"),
        assistant("I look.", ToolCallPart("call_1", "look")),
        tool_results(ToolResultPart("call_1", ["seen", POINT])),
        user(POINT, "and now?"),
    ],
    system="house",
    tools=Tool("look", cache_point=True),
)


def send(host: str, request: Request, **others: Any) -> HttpRequest:
    codec, url, model = HOSTS[host]
    provider = Provider(host, "x", url, codec, token=Secret("sk-test"), **others)
    check(request)
    return codec.encode(provider, Target(host, model), request)


def body(host: str, request: Request) -> dict[str, Any]:
    return json.loads(bytes(send(host, request).body))


def with_fields(request: Request, **fields: Any) -> Request:
    return Request(**{name: getattr(request, name) for name in Request.__struct_fields__} | fields)


def marked(found: Any) -> Iterator[dict[str, Any]]:
    """Yield every object with a mark, as it is sent."""
    if isinstance(found, dict):
        if any(name in found for name in MARKS):
            yield found
        found = list(found.values())
    if isinstance(found, list):
        for each in found:
            yield from marked(each)


def texts_before_marks(host: str, request: Request) -> list[str]:
    found = []
    for block in marked(body(host, request)):
        tool_name = block.get("name") or block.get("function", {}).get("name")
        found.append(block.get("text") or tool_name or block["type"])
    return found


def test_anthropic_gets_a_mark_on_the_block_before_each_point() -> None:
    sent = body("anthropic", with_fields(TALK, messages=TALK.messages[:2]))
    assert sent["tools"][0]["cache_control"] == EPHEMERAL
    assert sent["system"] == [
        {"type": "text", "text": "house\n\nrules", "cache_control": EPHEMERAL},
        {"type": "text", "text": "today"},
    ]
    doc, image, question = sent["messages"][0]["content"]
    assert (doc, question) == (
        {"type": "text", "text": "doc"},
        {"type": "text", "text": "question"},
    )
    assert image["cache_control"] == EPHEMERAL


def test_openai_gets_a_breakpoint_on_each_marked_part() -> None:
    assert body("chat", TALK)["messages"] == [
        {
            "role": "developer",
            "content": [
                {"type": "text", "text": "house\n\nrules", "prompt_cache_breakpoint": EXPLICIT},
                {"type": "text", "text": "today"},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "doc"},
                body("chat", Request([user(PNG)]))["messages"][0]["content"][0]
                | {"prompt_cache_breakpoint": EXPLICIT},
                {"type": "text", "text": "question"},
            ],
        },
        body("local", TALK)["messages"][2],
        {
            "role": "tool",
            "tool_call_id": "call_1",
            "content": [{"type": "text", "text": "seen", "prompt_cache_breakpoint": EXPLICIT}],
        },
        {"role": "user", "content": [{"type": "text", "text": "and now?"}]},
    ]
    sent = body("responses", TALK)
    assert "instructions" not in sent, "they are a text, which cannot be marked"
    first, asked, *_, result, last = sent["input"]
    assert first["content"][0] == {
        "type": "input_text",
        "text": "house\n\nrules",
        "prompt_cache_breakpoint": EXPLICIT,
    }
    assert asked["content"][1]["prompt_cache_breakpoint"] == EXPLICIT
    assert result["output"][0]["prompt_cache_breakpoint"] == EXPLICIT
    assert last == {"role": "user", "content": [{"type": "input_text", "text": "and now?"}]}


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("wish", [None, "off", "auto", "12h"])
def test_a_point_is_a_mark_or_nothing_and_never_content(host: str, wish: Any) -> None:
    """Without its marks, the prompt with points is the prompt without them."""
    request = with_fields(TALK, prompt_cache=wish)
    plain = with_fields(
        request,
        messages=[
            system("rules", "today"),
            user("doc", PNG, "question"),
            TALK.messages[2],
            tool_results(ToolResultPart("call_1", ["seen"])),
            user("and now?"),
        ],
        tools=Tool("look"),
        prompt_cache="off",
    )
    sent = body(host, request)
    has_marks = bool([*marked(sent)])
    assert has_marks == (host in WITH_POINTS and wish != "off")
    if not has_marks:
        options = {"prompt_cache_options"}
        assert {k: v for k, v in sent.items() if k not in options} == {
            k: v for k, v in body(host, plain).items() if k not in options
        }
    assert "achePoint" not in json.dumps(sent)
    assert "cache_point" not in json.dumps(sent)


@pytest.mark.parametrize("host", [host for host in HOSTS if host not in WITH_POINTS])
def test_a_host_without_such_fields_gets_none(host: str) -> None:
    sent = json.dumps(body(host, with_fields(TALK, prompt_cache="1h")))
    assert not [name for name in FIELDS if name in sent]


@pytest.mark.parametrize("host", HOSTS)
def test_without_a_wish_nothing_is_sent(host: str) -> None:
    """A request that says nothing of caching is the same as ever."""
    sent = json.dumps(body(host, Request([user("hi"), assistant("ho"), user("hi")], system="s")))
    assert not [name for name in FIELDS if name in sent]


@pytest.mark.parametrize(
    ("host", "wish", "sent"),
    [
        ("anthropic", "auto", EPHEMERAL),
        ("anthropic", "5m", EPHEMERAL | {"ttl": "5m"}),
        ("anthropic", "30m", EPHEMERAL | {"ttl": "1h"}),
        ("anthropic", "12h", EPHEMERAL | {"ttl": "1h"}),
        ("messages", "1h", EPHEMERAL | {"ttl": "1h"}),
        ("openrouter", "auto", EPHEMERAL),
        ("openrouter", "12h", EPHEMERAL | {"ttl": "1h"}),
    ],
)
def test_claude_caches_up_to_the_last_block_where_that_is_wished(
    host: str, wish: Any, sent: Any
) -> None:
    request = Request([user("hi"), assistant("ho"), user("one")], prompt_cache=wish)
    (block,) = marked(body(host, request))
    assert block == {"type": "text", "text": "one", "cache_control": sent}


@pytest.mark.parametrize(
    ("host", "wish", "options"),
    [
        ("chat", "5m", {"ttl": "30m"}),
        ("chat", "12h", {"ttl": "30m"}),  # which is all that chat takes
        ("responses", "1h", {"ttl": "30m"}),
        ("responses", "12h", {"ttl": "12h"}),
        ("azure", "30m", {"ttl": "30m"}),
        ("responses", "off", {"mode": "explicit"}),
        ("responses", "auto", None),
        ("older", "12h", None),
        ("foundry", "12h", None),
    ],
)
def test_openai_is_given_the_nearest_lifetime_from_gpt_5_6_on(
    host: str, wish: Any, options: Any
) -> None:
    assert body(host, Request("hi", prompt_cache=wish)).get("prompt_cache_options") == options


def test_nearest_is_by_ratio() -> None:
    assert nearest("30m", ("5m", "1h")) == "1h"
    assert nearest("1h", ("30m", "12h")) == "30m"
    assert nearest("auto", ("5m",)) == nearest(None, ("5m",)) == ""


@pytest.mark.parametrize("host", HOSTS)
def test_a_key_goes_where_a_host_has_one(host: str) -> None:
    http = send(host, Request("hi", cache_key="k-1"))
    sent = json.loads(bytes(http.body)) | http.headers
    assert [name for name, value in sent.items() if value == "k-1"] == [
        name for name in (KEYS.get(host),) if name
    ]


def test_the_providers_own_header_and_extra_win() -> None:
    http = send("xai", Request("hi", cache_key="k"), headers={"X-Grok-Conv-Id": "mine"})
    assert {k.lower(): v for k, v in http.headers.items()}["x-grok-conv-id"] == "mine"
    assert len([name for name in http.headers if name.lower() == "x-grok-conv-id"]) == 1
    extra = {"prompt_cache_key": "mine", "prompt_cache_options": {"mode": "implicit"}}
    request = Request("hi", cache_key="k", prompt_cache="12h", extra=extra)
    sent = body("responses", request)
    assert sent["prompt_cache_key"] == "mine"
    assert sent["prompt_cache_options"] == {"ttl": "12h", "mode": "implicit"}


@pytest.mark.parametrize("host", ["anthropic", "openrouter"])
def test_of_more_points_than_four_the_last_win_and_the_automatic_one_takes_a_slot(
    host: str,
) -> None:
    request = with_fields(TALK, prompt_cache="auto")
    image, result = ("image", "tool_result") if host == "anthropic" else ("image_url", "seen")
    fewer = with_fields(TALK, messages=TALK.messages[:2])
    assert set(texts_before_marks(host, fewer)) == {"look", "house\n\nrules", image}
    kept = {"house\n\nrules", image, result, "and now?"}
    assert set(texts_before_marks(host, request)) == kept
    assert send(host, request).warnings == ("this model caches only the last 4 of 5 cache points",)


def test_openai_itself_takes_the_last_three_and_finds_the_older_ones() -> None:
    """They stay: it reads what earlier requests wrote at up to eighty of them."""
    request = with_fields(TALK, messages=[*TALK.messages, assistant("ok"), user("more", POINT)])
    assert len([*marked(body("chat", request))]) == 4
    assert "this model caches only the last 3 of 4 cache points" in send("chat", request).warnings


def test_a_mark_never_goes_on_thoughts_and_never_into_the_callers_own_state() -> None:
    block = {"type": "search_result", "source": "s"}
    opaque = ProviderData("anthropic", {"block": block})
    thought = ReasoningPart("", ProviderData("anthropic", {"signature": "s"}))
    request = Request(
        [
            user(OpaquePart(opaque), POINT),
            assistant(thought, "Hm.", thought),  # the last one is of a cut answer: it is not sent
            user(POINT, "go on"),
        ]
    )
    first, said, _ = body("anthropic", request)["messages"]
    assert first["content"][0] == block | {"cache_control": EPHEMERAL}
    assert said["content"] == [
        {"type": "thinking", "thinking": "", "signature": "s"},
        {"type": "text", "text": "Hm.", "cache_control": EPHEMERAL},
    ]
    assert block == {"type": "search_result", "source": "s"}


def test_a_mark_of_the_callers_own_counts_among_the_others() -> None:
    own = TextPart("a", provider_data=ProviderData("anthropic", {"cache_control": EPHEMERAL}))
    block = {"type": "search_result", "cache_control": EPHEMERAL}
    found = OpaquePart(ProviderData("anthropic", {"block": block}))
    request = Request([user(own, found, "b", POINT, "c", POINT, "d", POINT, "e", POINT)])
    assert texts_before_marks("anthropic", request) == ["b", "c", "d", "e"]
    assert "cache_control" in block, "only what is sent is without it"
    by_field = with_fields(request, extra={"cache_control": EPHEMERAL})
    turns = body("anthropic", by_field)["messages"]
    assert [block["text"] for block in marked(turns)] == ["c", "d", "e"]


@pytest.mark.parametrize("host", HOSTS)
def test_a_message_of_nothing_but_a_point_is_no_message(host: str) -> None:
    sent = body(host, Request([user("a"), user(POINT), assistant("b"), user("c")]))
    plain = body(host, Request([user("a"), assistant("b"), user("c")]))
    for name in ("messages", "input", "contents"):
        assert len(sent.get(name, ())) == len(plain.get(name, ()))


def test_a_tool_may_return_a_point_and_the_decorator_sets_one() -> None:
    result = as_result(ToolCallPart("c", "t"), ["text", POINT])
    assert result.content == (TextPart("text"), POINT)
    assert result.text == "text"

    @tool(cache_point=True)
    def look() -> str:
        """Look."""
        return ""

    assert look.cache_point


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"prompt_cache": "2h"}, "prompt_cache is '2h': expected one of off, auto, 5m"),
        ({"prompt_cache": 300}, "prompt_cache is 300"),
        ({"cache_key": "k" * 65}, "cache_key is 'kkk"),
        ({"cache_key": "a\nb"}, "cache_key is"),
        ({"cache_key": 1}, "cache_key is 1"),
        ({"messages": [assistant(POINT)]}, "of type CachePoint"),
        ({"tools": Tool("t", cache_point=1)}, "tools\\[0\\].cache_point"),  # type: ignore[arg-type]
    ],
)
def test_what_no_provider_takes_is_refused_before_it_is_sent(fields: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check(Request(**{"messages": "hi"} | fields))


PIECES = st.lists(st.sampled_from(["one ", "two\n", POINT, PNG]), min_size=1, max_size=5)
TEXTS = st.lists(st.sampled_from(["rule. ", "law. ", POINT]), min_size=1, max_size=4)
TURNS = st.one_of(
    st.builds(lambda parts: [user(*parts)], PIECES),
    st.builds(lambda parts: [system(*parts)], TEXTS),
    st.just([assistant("said")]),
    st.builds(
        lambda parts: [
            assistant(ToolCallPart("call_1", "look")),
            tool_results(ToolResultPart("call_1", parts)),
        ],
        st.lists(st.sampled_from(["seen ", POINT]), min_size=1, max_size=3),
    ),
)


@pytest.mark.parametrize("host", HOSTS)
@settings(max_examples=30)
@given(
    start=st.lists(st.builds(lambda parts: system(*parts), TEXTS), max_size=2),
    turns=st.lists(TURNS, max_size=4),
    wish=st.sampled_from([None, "auto", "1h"]),
)
def test_wherever_points_stand_the_prompt_is_the_same(host: str, start, turns, wish) -> None:
    """Only marks differ; and there are never more of them than a host takes."""
    messages = [*start, user("hi"), *(each for turn in turns for each in turn), user("end", POINT)]
    pointed = Request(messages, system="house", tools=Tool("look", cache_point=True))
    plain = with_fields(
        pointed, messages=[*map(stripped, messages)], tools=Tool("look"), prompt_cache="off"
    )
    plain = with_fields(plain, messages=[each for each in plain.messages if each.parts])
    sent = body(host, with_fields(pointed, prompt_cache=wish))
    if host in WITH_POINTS:
        assert 1 <= len([*marked(sent)]) <= (4 if "cache_control" in json.dumps(sent) else 99)
    assert unmarked(sent) == unmarked(body(host, plain))


def stripped(message: Any) -> Any:
    parts = [
        ToolResultPart(part.id, tuple(each for each in part.content if each != POINT))
        if isinstance(part, ToolResultPart)
        else part
        for part in message.parts
        if part != POINT
    ]
    return Message(message.role, tuple(parts))


def unmarked(found: Any) -> Any:
    """Return what is sent with its marks taken off, and texts that follow each other as one."""
    if isinstance(found, list):
        out: list[Any] = []
        for each in map(unmarked, found):
            if out and (text := text_of(each)) is not None and text_of(out[-1]) is not None:
                out[-1] = out[-1] | {"text": text_of(out[-1]) + text}
            else:
                out.append(each)
        return out
    if not isinstance(found, dict):
        return found
    kept = {
        name: unmarked(value)
        for name, value in found.items()
        if name not in (*MARKS, "prompt_cache_options")
    }
    for name in ("content", "output", "system"):
        match kept.get(name):
            case [{"type": "text" | "input_text", "text": text}]:
                kept[name] = text
    if "instructions" in kept:
        kept["input"].insert(0, {"role": "developer", "content": kept.pop("instructions")})
    return kept


def text_of(block: Any) -> str | None:
    """Return the text of a block that is nothing else."""
    match block:
        case {"type": "text" | "input_text", "text": text} if len(block) == 2:
            return text
        case _:
            return None
