"""Conversations that change providers: every family's turns can be sent to every other."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from aiollm.types import (
    Message,
    ProviderData,
    Request,
    TextPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
    tool_results,
    user,
)

if TYPE_CHECKING:
    from conftest import Case

TURNS = {
    "openai_chat": ("llamacpp/chat_progress_timings", "openai_chat/tools_parallel"),
    "openai_responses": ("openai_responses/reasoning_tools",),
    "anthropic": ("anthropic/thinking_signature", "anthropic/tools_parallel"),
    "gemini": ("gemini/thinking_signature", "gemini/tools_parallel"),
    "ollama": ("ollama/chat_thinking", "ollama/chat_tools_parallel"),
    "llamaswap": ("llamaswap/loading_then_text",),
}
"""What a model of each service answered: thoughts, text and calls."""

STATE = ("signature", "redacted_thinking", "thoughtSignature", "encrypted_content")
"""Keys of opaque state that only its own family may see."""


def _turn(find_case: Any, service: str) -> Message:
    cases = [find_case(path) for path in TURNS[service]]
    replies = [case.read([case.body]).response.message.parts for case in cases]
    return Message("assistant", tuple(itertools.chain(*replies)))


def _exchange(turn: Message) -> list[Message]:
    calls = [part for part in turn.parts if isinstance(part, ToolCallPart)]
    answers = [ToolResultPart(call.id, (f"result-{call.name}",), call.name) for call in calls]  # type: ignore[arg-type]
    return [user("start"), turn, *([tool_results(*answers)] if answers else [])]


def _state(messages: list[Message]) -> Iterator[tuple[str, str]]:
    """Yield the family and the value of every piece of opaque state."""
    for message in messages:
        for part in message.parts:
            data = getattr(part, "provider_data", None)
            if isinstance(data, ProviderData):
                for key in STATE:
                    if isinstance(value := data.data.get(key), str):
                        yield data.family, value


def _send(case: Case, messages: list[Message]) -> tuple[str, tuple[str, ...]]:
    calls = {part.name for turn in messages for part in turn.parts if hasattr(part, "arguments")}
    tools = tuple(Tool(name, f"does {name}") for name in sorted(calls))
    request = Request((*messages, user("go on")), tools=tools)
    http = case.codec.encode(case.provider, case.target, request)
    assert http.body is not None
    # One spelling for JSON that stands in JSON, where arguments are sent as text.
    sent = json.dumps(json.loads(bytes(http.body)), ensure_ascii=False)
    return sent.replace("\\", ""), http.warnings


def _check_sent(case: Case, messages: list[Message]) -> None:
    sent, warnings = _send(case, messages)
    for message in messages:
        for part in message.parts:
            assert not isinstance(part, TextPart) or part.text in sent
            if isinstance(part, ToolCallPart):
                assert f'"{part.name}"' in sent
                assert f"result-{part.name}" in sent
                for value in part.parsed().values():
                    assert json.dumps(value, ensure_ascii=False) in sent
    foreign = {value for family, value in _state(messages) if family != case.codec.family}
    own = {value for family, value in _state(messages) if family == case.codec.family}
    assert not [value for value in foreign if value in sent]
    assert all(value in sent for value in own)
    assert all("dropped" in warning for warning in warnings), warnings
    assert bool(warnings) >= bool(foreign)


@pytest.mark.parametrize("target", TURNS)
@pytest.mark.parametrize("origin", TURNS)
def test_a_turn_of_one_family_can_be_sent_to_another(
    find_case: Any, origin: str, target: str
) -> None:
    """Nothing fails: text, calls and results arrive, foreign state is dropped with a warning."""
    _check_sent(find_case(f"{target}/"), _exchange(_turn(find_case, origin)))


@pytest.mark.parametrize("target", TURNS)
def test_a_conversation_that_went_through_every_family_can_be_sent_on(
    find_case: Any, target: str
) -> None:
    history = [message for origin in TURNS for message in _exchange(_turn(find_case, origin))]
    _check_sent(find_case(f"{target}/"), history)


def test_a_family_sees_its_own_turn_unchanged_after_the_others(find_case: Any) -> None:
    """State survives at any distance: what Anthropic sealed comes back in one piece."""
    history = [message for origin in TURNS for message in _exchange(_turn(find_case, origin))]
    sent, _ = _send(find_case("anthropic/"), history)
    for key in ("EqQBCgIYAhIM1gbcDa9GJwZA2b3hGgxBdjrkzLoky3dl1pk=", "EmwKAhgBEgy3va3pzix"):
        assert key in sent
