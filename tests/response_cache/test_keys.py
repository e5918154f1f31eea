"""Keys: equal for requests that mean the same to the same model, and only for those."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiollm import (
    CachePoint,
    CodeExecution,
    HostedTool,
    ImagePart,
    Request,
    Tool,
    WebSearch,
    assistant,
    system,
    tool_results,
    user,
)
from aiollm._response_cache.keys import Asked, key_of
from aiollm.dsn import Network, Secret
from aiollm.provider import Provider
from aiollm.providers.anthropic.codec import AnthropicCodec
from aiollm.providers.openai.chat_codec import ChatCodec
from aiollm.providers.openai.responses_codec import ResponsesCodec
from aiollm.types import (
    DocumentPart,
    Message,
    ProviderData,
    ReasoningPart,
    Target,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)

BOX = Provider("box", "openai", "https://llm.example/v1", ChatCodec(), token=Secret("sk-one"))


class City(msgspec.Struct):
    name: str


class Town(msgspec.Struct):
    name: str


def key(request: Request | str = "hi", row: Provider = BOX, model: str = "m", **more: Any) -> bytes:
    request = Request(request) if isinstance(request, str) else request
    fields = {"drops": False, "max_pixels": 80_000_000} | more
    found = key_of(Asked(Target(row.name, model), row, request, **fields))
    assert found is not None
    return found


def box(**fields: Any) -> Provider:
    return msgspec.structs.replace(BOX, **fields)


SAME = {
    "a prompt and its message": (Request("hi"), Request([user("hi")])),
    "0 and 0.0": (Request("hi", temperature=0), Request("hi", temperature=0.0)),
    "minus 0": (Request("hi", top_p=0), Request("hi", top_p=-0.0)),
    "where a prompt is cached": (
        Request([system("rules", CachePoint()), user("hi")], prompt_cache="1h", cache_key="chat-1"),
        Request([system("rules"), user("hi")]),
    ),
    "a cache point after a tool": (
        Request("hi", tools=Tool("f", cache_point=True)),
        Request("hi", tools=Tool("f")),
    ),
    "a cache point after a hosted tool": (
        Request("hi", tools=WebSearch(cache_point=True)),
        Request("hi", tools=WebSearch()),
    ),
    "domains in a list": (
        Request("hi", tools=WebSearch(None, ["a.test"])),
        Request("hi", tools=WebSearch(None, "a.test")),
    ),
    "what runs a tool": (
        Request("hi", tools=Tool("f", function=print)),
        Request("hi", tools=Tool("f")),
    ),
    "fields for others": (
        Request("hi", extra={"other": {"top_k": 5}, "wire:anthropic": {"a": 1}}),
        Request("hi"),
    ),
    "the scope of a field": (
        Request("hi", extra={"*": {"top_k": 9}, "box": {"top_k": 5}}),
        Request("hi", extra={"box/m": {"top_k": 5}}),
    ),
    "the order of fields": (
        Request("hi", extra={"*": {"a": 1, "b": 2}}),
        Request("hi", extra={"*": {"b": 2}, "box": {"a": 1}}),
    ),
    "a type and its schema": (
        Request("hi", output=City),
        Request("hi", output=msgspec.json.schema(City)["$defs"]["City"]),
    ),
    "lone surrogates, which are not sent": (Request("\ud800"), Request("\ufffd")),
}

DIFFERENT = (
    Request("hi"),
    Request("hi "),
    Request([user("h", "i")]),
    Request([system("hi"), user("hi")]),
    Request("hi", system="hi"),
    Request([user("hi"), assistant("hi"), user("hi")]),
    Request("hi", temperature=0),
    Request("hi", temperature=1),
    Request("hi", top_p=1),
    Request("hi", seed=1),
    Request("hi", max_output_tokens=1),
    Request("hi", stop="1"),
    Request("hi", stop=("1", "1")),
    Request("hi", reasoning="low"),
    Request("hi", reasoning=1),
    Request("hi", output=City),
    Request("hi", output=Town),
    Request("hi", tools=Tool("f")),
    Request("hi", tools=Tool("f", "what")),
    Request("hi", tools=Tool("f", strict=True)),
    Request("hi", tools=Tool("f"), tool_choice="f"),
    Request("hi", tools=Tool("f"), parallel_tool_calls=False),
    Request("hi", tools=Tool("f", "", {"properties": {"a": {}, "b": {}}})),
    Request("hi", tools=Tool("f", "", {"properties": {"b": {}, "a": {}}})),  # models read in order
    Request("hi", tools=Tool("web_search")),
    Request("hi", tools=WebSearch()),
    Request("hi", tools=WebSearch(3)),
    Request("hi", tools=CodeExecution()),
    Request("hi", tools=HostedTool({"type": "code_execution"})),
    Request("hi", tools=[Tool("f"), Tool("g")], tool_choice=("f", "g")),
    Request("hi", tools=[Tool("f"), Tool("g")], tool_choice=("auto", "f", "g")),
    Request("hi", extra={"*": {"a": 1}}),
    Request("hi", extra={"*": {"a": True}}),
    Request("hi", extra={"*": {"a": "1"}}),
    Request([user(ImagePart(b"one"))]),
    Request([user(ImagePart(b"two"))]),
    Request([user(ImagePart(b"one", detail="low"))]),
    Request([user(ImagePart(url="https://x/one"))]),
    Request([user(ImagePart(url="https://x/two"))]),
    Request([user(DocumentPart(b"one"))]),
    Request([user(DocumentPart(b"one", name="two.pdf"))]),
    Request([user("a", ImagePart(b"one"))]),
    Request([user(ImagePart(b"one"), "a")]),
    Request([user("hi"), assistant(ReasoningPart("hi"), "hi"), user("hi")]),
    Request([user("hi"), assistant(TextPart("hi", (), ProviderData("x", {"a": 1}))), user("hi")]),
    Request(
        [user("hi"), assistant(ToolCallPart("1", "f")), tool_results(ToolResultPart("1", "a"))]
    ),
    Request(
        [
            user("x"),
            assistant(ToolCallPart("1", "f")),
            tool_results(ToolResultPart("1", "a", is_error=True)),
        ]
    ),
)

ROWS = (
    BOX,
    box(base_url="https://llm.example/v2"),
    box(base_url="http://llm.example/v1"),
    box(base_url="https://llm.example:8443/v1"),
    box(codec=ResponsesCodec()),
    box(codec=AnthropicCodec()),
    box(headers={"x-team": "search"}),
    box(query={"api-version": "2026-01-01"}),
    box(base_url="http://llm.example/v1", network=Network(socket="/run/llm.sock")),
    box(facts={"reasoning": False}),
)


@pytest.mark.parametrize("pair", SAME.values(), ids=SAME)
def test_requests_that_mean_the_same_have_one_key(pair: tuple[Request, Request]) -> None:
    assert key(pair[0]) == key(pair[1])


def test_requests_that_differ_in_anything_else_have_keys_of_their_own() -> None:
    keys = [*map(key, DIFFERENT), *(key(row=row) for row in ROWS[1:]), key(model="n")]
    assert len(set(keys)) == len(keys)


def test_a_key_has_nothing_of_the_machine() -> None:
    same = [
        box(name="mine"),
        box(token=Secret("sk-two")),
        box(token=None),
        box(base_url="https://LLM.example:443/v1/"),
        box(base_url="https://me:secret@llm.example/v1?key=AIzaSyD-1234567890abcdefghijklmnop"),
        box(headers={"Authorization": "Bearer abc"}),
        box(network=Network(proxy="http://me:secret@proxy:3128")),
        box(facts={"context_length": 5, "max_output_tokens": 5, "max_pixels": 5}),
    ]
    assert {key(row=row) for row in same} == {key()}


def test_limits_for_images_count_where_there_are_images() -> None:
    picture = Request([user(ImagePart(b"one"))])
    small = box(facts={"max_image_dimension": 100})
    assert len({key(picture), key(picture, small), key(picture, max_pixels=5)}) == 3
    assert len({key(), key(row=small), key(max_pixels=5)}) == 1


def test_files_that_are_left_out_count_as_their_placeholders() -> None:
    deaf = box(facts={"images": False})
    picture, other = (Request([user("hi", ImagePart(data))]) for data in (b"one", b"two"))
    assert key(picture, deaf, drops=True) == key(other, deaf, drops=True)
    assert key(picture, deaf, drops=True) != key(picture, deaf)


def test_a_request_that_cannot_be_sent_has_no_key() -> None:
    for request in (
        Request("hi", output=lambda: None),
        Request("hi", extra={"*": {"a": object()}}),
        Request("hi", extra={"*": {"a": {1j: 2}}}),
    ):
        assert key_of(Asked(Target("box", "m"), BOX, request, drops=False, max_pixels=5)) is None


words = st.sampled_from(["", "a", "b", "ab", '"', "[", "\n", "é"])
parts = st.one_of(
    words.map(TextPart),
    st.builds(ImagePart, st.sampled_from([b"a", b"b"])),
    st.builds(CachePoint),
)
messages = st.builds(
    Message,
    st.sampled_from(["user", "system", "assistant"]),
    st.lists(parts, max_size=3).map(tuple),
)
requests = st.builds(
    Request,
    st.lists(messages, max_size=3).map(tuple),
    system=words,
    temperature=st.sampled_from([None, 0, 0.0, 1]),
    stop=st.lists(words, max_size=2).map(tuple),
    seed=st.sampled_from([None, 0, 1]),
    extra=st.dictionaries(
        st.sampled_from(["*", "box", "other"]),
        st.dictionaries(words, st.sampled_from([0, 1, "0", None, [0]]), max_size=2),
        max_size=2,
    ),
    prompt_cache=st.sampled_from([None, "auto"]),
)


def meaning(request: Request) -> Any:
    """Return what a model would read, in a form of its own."""
    said = [
        (
            message.role,
            [
                (type(part).__name__, getattr(part, "text", None), getattr(part, "data", None))
                for part in message.parts
                if not isinstance(part, CachePoint)
            ],
        )
        for message in request.messages
    ]
    fields = {**request.extra.get("*", {}), **request.extra.get("box", {})}
    return repr(
        (
            said,
            request.system,
            None if request.temperature is None else float(request.temperature),
            request.stop,
            request.seed,
            sorted(fields.items()),
        )
    )


@given(st.lists(requests, min_size=2, max_size=30))
def test_keys_are_equal_just_where_meanings_are(several: list[Request]) -> None:
    pairs = {(meaning(each), key(each)) for each in several}
    assert len(pairs) == len({said for said, _ in pairs}) == len({found for _, found in pairs})


def test_a_file_is_hashed_and_not_copied() -> None:
    assert len(key()) == hashlib.sha256().digest_size
