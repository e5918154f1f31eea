"""Text deltas read the short way give what they give when each is read in full."""

from __future__ import annotations

import json
import re
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from aiollm.errors import LLMError
from aiollm.providers.anthropic.decode import AnthropicDecoder
from aiollm.types import Item

TEXTS = st.sampled_from(["", "a", "b", "\ud83e", "\udd2f", None])
INDEX = st.sampled_from([0, 0, 1])
BLOCK = st.sampled_from(
    [
        {"type": "text", "text": ""},
        {"type": "text", "text": "q", "citations": [{"url": "u"}]},
        {"type": "thinking", "thinking": "", "signature": "s"},
        {"type": "tool_use", "id": "i", "name": "f", "input": {}},
        {"type": "new", "x": "y"},
    ]
)
DELTA = st.one_of(
    TEXTS.map(lambda text: {"type": "text_delta", "text": text}),
    TEXTS.map(lambda text: {"type": "thinking_delta", "thinking": text}),
    TEXTS.map(lambda text: {"type": "input_json_delta", "partial_json": text}),
    st.sampled_from(
        [
            {"type": "signature_delta", "signature": "z"},
            {"type": "citations_delta", "citation": {"url": "v"}},
            {"type": "new_delta", "x": "z"},
            {"text": "typeless"},
        ]
    ),
)
COUNTS = {"input_tokens": 3, "output_tokens": 1}
EVENT = st.one_of(
    st.tuples(
        st.just("content_block_delta"), st.fixed_dictionaries({"index": INDEX, "delta": DELTA})
    ),
    st.tuples(
        st.just("content_block_start"),
        st.fixed_dictionaries({"index": INDEX, "content_block": BLOCK}),
    ),
    st.tuples(st.just("content_block_stop"), st.fixed_dictionaries({"index": INDEX})),
    st.sampled_from(
        [
            ("message_start", {"message": {"usage": COUNTS}}),
            ("message_delta", {"delta": {"stop_reason": "end_turn"}, "usage": COUNTS}),
            ("message_stop", {}),
            ("ping", {}),
            ("error", {"error": {"type": "overloaded_error", "message": "m"}}),
        ]
    ),
)


def frame(event: tuple[str, dict[str, Any]], *, named: bool) -> tuple[bytes, bytes]:
    kind, fields = event
    return kind.encode() if named else b"", json.dumps({"type": kind} | fields).encode()


def read(frames: list[tuple[bytes, bytes]], *, short: bool) -> tuple[str, str]:
    """Return the items, ids that are made up at random masked, and how the reply ended."""
    decoder, out = AnthropicDecoder(), list[Item]()
    try:
        if short:
            decoder.feed(frames, out)
        for each in () if short else frames:
            decoder._plain = False
            decoder.feed([each], out)
        decoder.close(out)
    except LLMError as error:
        return re.sub(r"call_[0-9a-f]{16}", "call", repr(out)), repr(error)
    return re.sub(r"call_[0-9a-f]{16}", "call", repr(out)), ""


TEXT = ("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": "a"}})


@example(events=[TEXT, ("message_stop", {}), TEXT], named=True)
@given(events=st.lists(EVENT, max_size=10), named=st.booleans())
def test_the_short_way_gives_what_the_long_one_gives(events, named) -> None:
    frames = [frame(event, named=named) for event in events]
    assert read(frames, short=True) == read(frames, short=False)
