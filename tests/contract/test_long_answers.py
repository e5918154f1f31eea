"""Long answers in small pieces: each piece costs the same, however many came before it.

Where it does not, an answer of these sizes takes minutes, and the time limit of a test ends it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from aiollm.errors import StreamInterrupted
from tests.contract.conftest import ANTHROPIC, GOOGLE, OPENAI, SERVICES, Case, Service

KILOBYTE = "x" * 1000
MINIMAX = msgspec.structs.replace(OPENAI, base_url="https://api.minimax.io/v1")
"""A host whose text begins with its reasoning."""


def chat(delta: dict[str, Any]) -> str:
    return f"data: {json.dumps({'choices': [{'index': 0, 'delta': delta}]})}\n\n"


def call(arguments: str, **more: Any) -> str:
    fields = {"index": 0, "function": {"arguments": arguments, **more}}
    return chat({"tool_calls": [fields | ({"id": "c"} if "name" in more else {})]})


def event(**fields: Any) -> str:
    return f"event: {fields['type']}\ndata: {json.dumps(fields)}\n\n"


def gemini(*parts: dict[str, Any]) -> str:
    return f"data: {json.dumps({'candidates': [{'content': {'parts': parts}}]})}\n\n"


def responses(number: int) -> str:
    delta = event(type="response.output_text.delta", output_index=0, delta=KILOBYTE)
    return delta + event(type="response.output_text.done", output_index=0, text=f"other {number}")


ODD_BLOCK = event(type="content_block_start", index=0, content_block={"type": "odd", "content": ""})
ODD_DELTA = event(
    type="content_block_delta", index=0, delta={"type": "odd_delta", "content": KILOBYTE}
)
BEGUN = gemini({"functionCall": {"name": "f", "willContinue": True}})
PIECE = {"jsonPath": "$.a", "stringValue": KILOBYTE}
MORE = gemini({"functionCall": {"partialArgs": [PIECE], "willContinue": True}})

ANSWERS: dict[str, tuple[Service, str, Callable[[int], str], int]] = {
    "arguments whose every piece ends in a brace, with id and name": (
        OPENAI, call('{"a":{}', name="f"), lambda n: call(f',"k{n}":{{}}', name="f"), 14_000,
    ),
    "keys beside the answer": (
        OPENAI, "", lambda n: chat({"extra_content": {"x": {f"k{n % 9000}": 1}}}), 60_000,
    ),
    "white space before a think block": (
        MINIMAX, "", lambda _: chat({"content": " " * 200}), 60_000,
    ),
    "white space in a think block": (
        MINIMAX, chat({"content": "<think>a"}), lambda _: chat({"content": "\n" * 200}), 60_000,
    ),
    "an unknown block that grows": (ANTHROPIC, ODD_BLOCK, lambda _: ODD_DELTA, 30_000),
    "deltas, and complete values that are others": (
        SERVICES["openai_responses"], "", responses, 30_000,
    ),
    "an argument that comes in pieces": (GOOGLE, BEGUN, lambda _: MORE, 30_000),
    "unknown parts in one chunk": (
        GOOGLE, gemini(*[{"odd": KILOBYTE}] * 500), lambda _: gemini({"text": "a"}), 1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_the_cost_of_a_piece_does_not_depend_on_those_before_it(name: str) -> None:
    service, head, piece, count = ANSWERS[name]
    case = Case("openai_chat/long", {"kind": "stream"}, {}, service)
    body = "".join([head, *map(piece, range(count))]).encode()
    reply = case.read([body])
    assert type(reply.error) is StreamInterrupted
