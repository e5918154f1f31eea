"""Chunks read the short way give what they give when each is read in full."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiollm.errors import LLMError
from aiollm.providers.google.decode import GoogleDecoder
from aiollm.types import Item, UsageUpdate


def maybe(**fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Return objects that have each of the fields with one of its values, or lack it."""
    return st.fixed_dictionaries({}, optional={k: st.sampled_from(v) for k, v in fields.items()})


TEXTS = ("", "a", "b", "\ud83e", "\udd2f", None)
PART = maybe(
    text=TEXTS,
    thought=(False, True, None),
    thoughtSignature=("s", "", None),
    functionCall=({"name": "f", "args": {"x": 1}}, {"name": "g", "willContinue": True}, None),
    inlineData=({"mimeType": "image/png", "data": "aaaa"}, None),
    executableCode=({"code": "1"},),
)
PLAIN = maybe(text=TEXTS, thought=(False, True)).map(lambda part: [part])
GROUNDS = ({"groundingChunks": [{"web": {"uri": "u", "title": "t"}}]}, {}, None)
CANDIDATE = st.builds(
    lambda parts, rest: {"content": {"parts": parts, "role": "model"}} | rest,
    PLAIN | st.lists(PART, max_size=2),
    maybe(
        index=(0, 0, 1, None),
        finishReason=(None, None, "", "FINISH_REASON_UNSPECIFIED", "STOP", "SAFETY"),
        groundingMetadata=GROUNDS,
        continuationToken=("token",),
    ),
)
CHUNK = st.builds(
    lambda candidates, rest: {"candidates": candidates} | rest,
    CANDIDATE.map(lambda one: [one]) | st.lists(CANDIDATE, max_size=2),
    maybe(usageMetadata=({"promptTokenCount": 3, "candidatesTokenCount": 4}, {}, None)),
)
FRAMES = st.lists(
    CHUNK.map(lambda chunk: json.dumps(chunk).encode())
    | st.sampled_from([b"[DONE]", b'{"error": {"code": 503, "message": "m"}}']),
    max_size=8,
)


def read(frames: list[bytes], *, short: bool) -> tuple[str, str]:
    """Return the items, ids that are made up at random masked, and how the reply ended.

    Counts on the way are left out: how often they are told may differ.
    """
    decoder, out, end = GoogleDecoder(), list[Item](), ""
    try:
        for frame in frames:
            decoder._plain = decoder._plain and short
            decoder.feed([frame], out)
        decoder.close(out)
    except LLMError as error:
        end = repr(error)
    said = [item for item in out if not isinstance(item, UsageUpdate)]
    return re.sub(r"call_[0-9a-f]{16}", "call", repr(said)), end


@given(frames=FRAMES)
def test_the_short_way_gives_what_the_long_one_gives(frames) -> None:
    assert read(frames, short=True) == read(frames, short=False)


@pytest.mark.parametrize(("per_read", "places"), [(1, [0, 33, 66]), (17, [16, 51]), (65, [64])])
def test_counts_of_plain_chunks_are_told_at_once_and_then_rarely(per_read, places) -> None:
    chunk = {
        "candidates": [{"content": {"parts": [{"text": "a"}]}}],
        "usageMetadata": {"promptTokenCount": 3},
    }
    decoder, out = GoogleDecoder(), list[Item]()
    for _ in range(0, 65, per_read):
        decoder.feed([json.dumps(chunk).encode()] * per_read, out)
    told = [at for at, item in enumerate(out) if isinstance(item, UsageUpdate)]
    assert told == places
