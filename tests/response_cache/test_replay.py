"""Every recorded answer: what is kept of it is replayed as an equal response."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiollm import Request
from aiollm._response_cache.answers import Answer, answer_of, encoded, items_of
from aiollm._streams.accumulator import Accumulator
from aiollm.types import (
    AudioPart,
    Citation,
    ImagePart,
    Message,
    OpaquePart,
    PartChunk,
    ProviderData,
    ReasoningPart,
    RefusalPart,
    Response,
    TextDelta,
    TextPart,
    ToolCallPart,
    Usage,
)
from tests.contract.conftest import Case, cases

ANSWERED = [case for case in cases() if case.read([case.body]).finish is not None]
LIMITED = Request("hi", max_output_tokens=5)


def added_up(items: list[Any]) -> Response:
    total = Accumulator()
    total.add(items)
    return total.response()


@pytest.mark.parametrize("case", ANSWERED, ids=lambda case: case.path)
def test_a_recorded_answer_comes_back_equal(case: Case) -> None:
    response = case.read([case.body]).response
    answer = answer_of(response, LIMITED)
    if response.finish_reason in ("content_filter", "error", "other") or not response.message.parts:
        assert answer is None
        return
    data = encoded(answer)
    items = items_of(data)
    assert added_up(items) == response
    assert "".join(item.text for item in items) == response.text, "a reader of `text` sees all"


states = st.none() | st.builds(ProviderData, st.just("x"), st.just({"id": 1}))
texts = st.sampled_from(["", "a", "b\n"])
parts = st.one_of(
    st.builds(TextPart, texts, st.sampled_from([(), (Citation("u"),)]), states),
    st.builds(ReasoningPart, texts, states),
    st.builds(RefusalPart, texts),
    st.builds(OpaquePart, st.builds(ProviderData, st.just("x"), st.just({}))),
    st.builds(ImagePart, st.just(b"a")),
    st.builds(AudioPart, st.just(b"a")),
    st.builds(
        ToolCallPart,
        st.sampled_from(["", "1"]),
        st.sampled_from(["", "f"]),
        st.sampled_from(["", "{}", '{"a": 1}', '{"a', "[]"]),
        st.booleans(),
        states,
        st.booleans(),
    ),
)


@given(
    st.lists(parts, min_size=1, max_size=4),
    st.sampled_from(["stop", "tool_calls", "length"]),
    st.sampled_from([Usage(), Usage(tier="flex"), Usage(1, 2, certainty="exact", billed_usd=0.1)]),
    st.sampled_from([(), ("one", "two")]),
)
def test_whatever_an_answer_consists_of_comes_back_equal(
    said: list[Any], reason: Any, usage: Usage, warnings: tuple[str, ...]
) -> None:
    message = Message("assistant", tuple(said))
    answer = Answer(message, reason, "raw", usage, warnings)
    data = encoded(answer)
    assert data is not None
    response = added_up(items_of(data))
    assert (response.message, response.finish_reason, response.raw_finish_reason) == (
        message,
        reason,
        "raw",
    )
    assert (response.usage, response.warnings) == (usage, warnings)


def test_a_call_that_lost_its_arguments_is_not_valid_later() -> None:
    lost = ToolCallPart("1", "f", "{}", valid=False)
    data = encoded(Answer(Message("assistant", (TextPart("so"), lost)), "length"))
    assert added_up(items_of(data)).tool_calls == (lost,)


def test_what_json_would_change_is_not_kept() -> None:
    odd = TextPart("a", (), ProviderData("x", {"n": float("nan")}))
    assert encoded(Answer(Message("assistant", (odd,)), "stop")) is None
    assert encoded(Answer(Message("assistant", (TextPart("\ud800"),)), "stop")) is None


@pytest.mark.parametrize(
    ("reason", "limit", "is_kept"),
    [
        ("stop", None, True),
        ("tool_calls", None, True),
        ("length", 5, True),  # the request asked for no more
        ("length", None, False),  # a limit of the server's, which may be another tomorrow
        ("content_filter", 5, False),
        ("error", 5, False),
        ("other", 5, False),
        (None, 5, False),
    ],
)
def test_only_complete_answers_are_kept(reason: Any, limit: int | None, is_kept: bool) -> None:
    response = Response(Message("assistant", "hello"), reason)
    assert (answer_of(response, Request("hi", max_output_tokens=limit)) is not None) == is_kept


def test_an_empty_answer_is_not_kept() -> None:
    assert answer_of(Response(Message("assistant", ()), "stop"), Request("hi")) is None


def test_text_comes_as_text_and_odd_parts_as_they_are() -> None:
    said = (TextPart("a"), OpaquePart(ProviderData("x", {})))
    items = items_of(msgspec.json.encode(Answer(Message("assistant", said), "stop")))
    assert [item for item in items if isinstance(item, TextDelta | PartChunk)] == [
        TextDelta("a"),
        PartChunk(said[1]),
    ]
