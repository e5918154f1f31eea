"""What all encoders share: foreign state, the system prompt, extra fields."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiollm.dsn import Secret
from aiollm.provider import Provider
from aiollm.providers.decoding import new_call_id
from aiollm.providers.encoding import (
    Warnings,
    bearer_headers,
    conversation,
    merge,
    system_text,
)
from aiollm.providers.ollama.codec import OllamaCodec
from aiollm.types import ProviderData, Request, system, user


class TestWarnings:
    def test_each_is_told_once_in_order(self) -> None:
        warnings = Warnings()
        for message in ("b", "a", "b"):
            warnings.add(message)
        assert tuple(warnings) == ("b", "a")

    def test_own_state_is_replayed_and_foreign_state_dropped_with_a_warning(self) -> None:
        warnings = Warnings()
        data = ProviderData("google", {"thoughtSignature": "x"})
        assert warnings.own(data, "google", "a signature") is data.data
        assert warnings.own(None, "google", "a signature") is None
        assert not tuple(warnings)
        assert warnings.own(data, "anthropic", "a signature") is None
        assert tuple(warnings) == (
            "a signature of google cannot be replayed to anthropic: dropped",
        )


class TestSystemText:
    @pytest.mark.parametrize(
        ("prompt", "messages", "text", "left"),
        [
            ("", [user("a")], "", 1),
            ("p", [user("a")], "p", 1),
            ("p", [system("q"), system("r", "s"), user("a")], "p\n\nq\n\nrs", 1),
            ("", [system("q"), user("a"), system("r")], "q", 2),
            ("p", [system(""), user("a")], "p", 1),
            ("", [system("q")], "q", 0),
        ],
    )
    def test_is_the_prompt_and_the_messages_at_the_head(self, prompt, messages, text, left):
        request = Request(messages, system=prompt)
        assert system_text(request) == text
        assert conversation(request) == tuple(messages[len(messages) - left :])


OBJECTS = st.recursive(
    st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner)
)  # fmt: skip


class TestMerge:
    @pytest.mark.parametrize(
        ("body", "extra", "merged"),
        [
            ({"a": 1}, {}, {"a": 1}),
            ({"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
            ({"a": 1}, {"a": None}, {"a": None}),
            ({"a": {"b": 1, "c": {"d": 1}}}, {"a": {"c": {"e": 2}}},
             {"a": {"b": 1, "c": {"d": 1, "e": 2}}}),
            ({"a": {"b": 1}}, {"a": [1]}, {"a": [1]}),
            ({"a": [1]}, {"a": {"b": 1}}, {"a": {"b": 1}}),
            ({"a": [1]}, {"a": [2]}, {"a": [2]}),
        ],
    )  # fmt: skip
    def test_objects_merge_and_anything_else_replaces(self, body, extra, merged) -> None:
        assert merge(body, extra) == merged

    @given(body=OBJECTS, extra=OBJECTS)
    def test_neither_what_is_merged_nor_what_lay_deeper_is_changed(self, body, extra) -> None:
        body, extra = {"x": body}, {"x": extra}
        before = copy.deepcopy((body["x"], extra))
        inner = body["x"]
        merged = merge(body, extra)
        assert (inner, extra) == before
        assert merge(copy.deepcopy(merged), extra) == merged


def test_ids_of_calls_are_new_each_time() -> None:
    assert new_call_id().startswith("call_")
    assert len({new_call_id() for _ in range(100)}) == 100


@pytest.mark.parametrize("token", ["k", "Bearer k"])
def test_the_token_goes_as_bearer_and_own_headers_win(token) -> None:
    provider = Provider(
        "x", "ollama", "https://h", OllamaCodec(), token=Secret(token), headers={"Accept": "a/b"}
    )
    assert bearer_headers(provider) == {
        "Content-Type": "application/json", "Accept": "a/b", "Authorization": "Bearer k",
    }  # fmt: skip
    assert "Authorization" not in bearer_headers(Provider("x", "o", "https://h", OllamaCodec()))
