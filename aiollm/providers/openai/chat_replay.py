"""The ways in which hosts accept the reasoning of earlier answers, one function for each.

Each one adds to an assistant's message: `text` is the text of the reasoning, `states` holds the
state that the host sent with its pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

State: TypeAlias = dict[str, Any]
Replay: TypeAlias = Callable[[State, str, Sequence[State]], None]

_FIELDS = ("reasoning_content", "reasoning", "reasoning_text")


def in_its_field(wire: State, text: str, states: Sequence[State]) -> None:
    """Send the text in the field it came in, and Anthropic's blocks back to LiteLLM."""
    if blocks := [block for state in states for block in state.get("blocks", ())]:
        wire["thinking_blocks"] = blocks
    if text:
        named = (state.get("field") for state in states)
        wire[next((name for name in named if name in _FIELDS), _FIELDS[0])] = text


def with_every_call(wire: State, text: str, states: Sequence[State]) -> None:
    """Send the text as Moonshot requires it: with every call, and never an empty one (2026)."""
    del states
    if text or "tool_calls" in wire:
        wire["reasoning_content"] = text or " "


def with_every_answer(wire: State, text: str, states: Sequence[State]) -> None:
    """Send the text as DeepSeek and Xiaomi require it: with every answer, and never an empty one.

    What another model said is refused without, too (reports of April to June 2026). Some requests
    are refused for a call beside which `content` is null.
    """
    del states
    wire["reasoning_content"] = text or " "
    wire["content"] = wire["content"] or ""


def as_details(wire: State, text: str, states: Sequence[State]) -> None:
    """Send OpenRouter's details, or the text if there are none."""
    if details := [item for state in states for item in state.get("details", ())]:
        wire["reasoning_details"] = details
    elif text:
        wire["reasoning"] = text


def as_content(wire: State, text: str, states: Sequence[State]) -> None:
    """Send the text as Mistral's content part, before the answer."""
    del states
    if text:
        said = wire["content"]
        thought = {"type": "thinking", "thinking": [{"type": "text", "text": text}]}
        wire["content"] = [thought, *([{"type": "text", "text": said}] if said else [])]


def as_think_block(wire: State, text: str, states: Sequence[State]) -> None:
    """Send the text as MiniMax does: in tags, before the answer."""
    del states
    if text:
        wire["content"] = f"<think>\n{text}\n</think>\n\n{wire['content'] or ''}"
