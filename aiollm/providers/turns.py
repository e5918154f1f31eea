"""Join messages into the turns that a wire or a chat template requires."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from aiollm.types import (
    Message,
    Part,
    ReasoningPart,
    RefusalPart,
    Role,
    TextPart,
    ToolCallPart,
)

OPENING = "(The conversation begins.)"
"""What a user says before an answer that a conversation begins with, such as a greeting."""

OPENED = "this server takes no conversation that begins with an answer: a user's line precedes it"
FOLDED = "this server takes a system message only at the start: a later one is sent as the user's"


def one_turn_for_its_results(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Join an assistant's message to the one before if that has calls without results so far.

    OpenAI refuses a call that is not followed by its result (November 2026); Anthropic and Gemini
    take both forms.
    """
    if not any(map(_splits_calls, pairwise(messages))):
        return messages
    turns: list[Message] = []
    for message in messages:
        if turns and _splits_calls((turns[-1], message)):
            turns[-1] = Message("assistant", turns[-1].parts + message.parts)
        else:
            turns.append(message)
    return tuple(turns)


def _splits_calls(pair: tuple[Message, Message]) -> bool:
    first, second = pair
    return (
        first.role == "assistant"
        and second.role == "assistant"
        and any(type(part) is ToolCallPart for part in first.parts)
    )


def alternating(messages: Sequence[Message], *, is_first: bool) -> tuple[Message, ...]:
    """Return turns of user and assistant that alternate, as many chat templates require.

    Empty answers are left out, system messages become the user's, messages of one role that
    follow each other are joined, and a user begins. Results of tools stay as they are.
    `is_first`: nothing comes before the messages.
    """
    turns: list[Message] = []
    for message in messages:
        role: Role = "user" if message.role == "system" else message.role
        if role == "assistant" and not any(map(_is_sent, message.parts)):
            continue
        if turns and role == turns[-1].role and role != "tool":
            turns[-1] = Message(role, _joined(turns[-1].parts, message.parts))
        elif role == message.role:
            turns.append(message)
        else:
            turns.append(Message(role, message.parts))
    if is_first and turns and turns[0].role == "assistant":
        turns.insert(0, Message("user", (TextPart(OPENING),)))
    return tuple(turns)


def _is_sent(part: Part) -> bool:
    """Return whether a part of an answer makes it worth sending; reasoning alone does not."""
    match part:
        case TextPart(text=text) | RefusalPart(text=text):
            return bool(text.strip())
        case ReasoningPart():
            return False
        case _:
            return True


def _joined(first: tuple[Part, ...], second: tuple[Part, ...]) -> tuple[Part, ...]:
    match first[-1:], second[:1]:
        case (TextPart(),), (TextPart(),):
            return (*first, TextPart("\n\n"), *second)
        case _:
            return first + second
