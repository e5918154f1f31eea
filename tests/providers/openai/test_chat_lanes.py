"""Chat chunks read the short way give what they give when each is read in full."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiollm.errors import LLMError
from aiollm.providers.openai.chat_decode import ChatDecoder
from aiollm.providers.openai.chat_wire import LANES, NO_LANE
from aiollm.types import Item


def maybe(**fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Return objects that have each of the fields with one of its values, or lack it."""
    return st.fixed_dictionaries({}, optional={k: st.sampled_from(v) for k, v in fields.items()})


CALLS = (
    [{"index": 0, "id": "c1", "function": {"name": "f", "arguments": ""}}],
    [{"index": 0, "function": {"arguments": "{}"}}],
    [],
    None,
)
COUNTS = (None, {}, {"prompt_tokens": 3, "completion_tokens": 4})
TEXTS = ("", "a", "b", "\ud83e", "\udd2f", None)
DELTA = st.one_of(
    st.sampled_from(TEXTS).map(lambda text: {"content": text}),
    maybe(
        role=["assistant"],
        content=TEXTS,
        reasoning_content=TEXTS,
        reasoning=("r", None),
        refusal=("no", None),
        tool_calls=CALLS,
        annotations=([], None),
    ),
)
REASONS = (None, None, "", "stop", "tool_calls", "abort")
CHOICE = st.builds(
    lambda delta, rest: {"delta": delta} | rest,
    DELTA,
    maybe(index=(0, 0, 1, None), finish_reason=REASONS, logprobs=(None,)),
)
CHUNK = st.builds(
    lambda choices, rest: {"choices": choices} | rest,
    st.lists(CHOICE, min_size=0, max_size=2) | CHOICE.map(lambda choice: [choice]),
    maybe(id=("c", ""), model=("m",), usage=COUNTS, x_groq=({"usage": COUNTS[2]}, None)),
)
FRAMES = st.lists(
    CHUNK.map(lambda chunk: json.dumps(chunk).encode()) | st.sampled_from([b"[DONE]", b" "]),
    max_size=10,
)


def read(frames: list[bytes], *, short: bool) -> tuple[str, str]:
    """Return the items, ids that are made up at random masked, and how the reply ended."""
    decoder, out = ChatDecoder("openai"), list[Item]()
    try:
        if short:
            decoder.feed(frames, out)
        for frame in () if short else frames:
            decoder._lane = NO_LANE
            decoder.feed([frame], out)
        decoder.close(out)
    except LLMError as error:
        return re.sub(r"call_[0-9a-f]{16}", "call", repr(out)), repr(error)
    return re.sub(r"call_[0-9a-f]{16}", "call", repr(out)), ""


@given(frames=FRAMES)
def test_the_short_way_gives_what_the_long_one_gives(frames) -> None:
    assert read(frames, short=True) == read(frames, short=False)


def test_a_plain_answer_takes_the_short_way_but_for_its_usage() -> None:
    class Short(ChatDecoder):
        __slots__ = ("long",)

        def _frame(self, frame, out):
            self.long = [*getattr(self, "long", []), frame]
            return super()._frame(frame, out)

    def chunk(delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return json.dumps({"id": "c", "choices": [choice], "usage": None}).encode()

    usage = json.dumps({"id": "c", "choices": [], "usage": COUNTS[2]}).encode()
    decoder, out = Short("openai"), list[Item]()
    first = chunk({"role": "assistant", "content": "", "refusal": None})
    frames = [first, chunk({"content": "a"}), chunk({"content": "b"}), chunk({}, "stop"), usage]
    decoder.feed([*frames, b"[DONE]"], out)
    assert [item.text for item in out] == ["a", "b", ""]
    assert decoder.finished
    assert decoder.long == [usage]


@pytest.mark.parametrize(
    "more",
    [
        {"reasoning_text": "hm"},
        {"reasoning_details": [{"type": "reasoning.text", "text": "hm"}]},
        {"annotations": [{"type": "url_citation", "url_citation": {"url": "u", "title": "t"}}]},
        {"images": [{"image_url": {"url": "data:image/png;base64,aaaa"}}]},
        {"function_call": {"name": "f", "arguments": "{}"}},
        {"extra_content": {"google": {"thought_signature": "s"}}},
    ],
)
def test_a_field_that_few_services_send_is_read_from_the_first_chunk_on(more) -> None:
    chunks = [{"content": "a"}, {"content": "b"} | more, {"content": "c"}]
    frames = [json.dumps({"choices": [{"delta": delta}]}).encode() for delta in chunks]
    assert read(frames, short=True) == read(frames, short=False)


@pytest.mark.parametrize(
    "more", [{"error": {"message": "m", "code": 503}}, {"usage": COUNTS[2]}, {"logprobs": {}}]
)
def test_a_field_of_a_choice_that_few_services_send_is_read_from_the_first_chunk_on(more) -> None:
    choice = {"index": 0, "delta": {"content": "a"}}
    frames = [json.dumps({"choices": [each]}).encode() for each in (choice, choice | more, choice)]
    assert read(frames, short=True) == read(frames, short=False)


def test_a_service_with_more_fields_takes_the_wider_way_for_the_rest_of_its_answer() -> None:
    choice = {"index": 0, "delta": {"content": "a"}, "content_filter_results": {}}
    decoder, out = ChatDecoder("openai"), list[Item]()
    decoder.feed([json.dumps({"choices": [choice]}).encode()], out)
    assert decoder._lane == LANES["content"]
