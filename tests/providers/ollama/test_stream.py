"""Ollama through the engine: what the request knows reaches the decoder."""

from __future__ import annotations

import json
from collections.abc import Mapping

from aiollm._http import streaming
from aiollm.provider import HttpRequest, Provider
from aiollm.providers.ollama.codec import OllamaCodec
from aiollm.types import Finish, Item, Notice, Request, Target, TextDelta, Timeouts


class Reply:
    """A reply with one line a read."""

    status = 200
    has_body = True
    content_type = "application/x-ndjson"
    headers: Mapping[str, str] = {}

    def __init__(self, *values: object) -> None:
        self._lines = [json.dumps(value).encode() + b"\n" for value in values]
        self.closed = False

    async def read(self) -> bytes:
        return self._lines.pop(0) if self._lines else b""

    async def read_whole(self, limit: int, seconds: float | None) -> bytes:
        return b"".join(self._lines)

    async def drain(self) -> None:
        self._lines.clear()

    def close(self) -> None:
        self.closed = True


class Transport:
    """Answers any request with one reply."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply

    async def send(self, request: HttpRequest, connect: float | None) -> Reply:
        return self.reply


async def test_a_cut_prompt_is_noted_in_the_stream() -> None:
    reply = Reply(
        {"message": {"content": "x"}, "done": False},
        {"done": True, "done_reason": "stop", "prompt_eval_count": 512, "eval_count": 1},
    )
    provider = Provider("box", "ollama", "http://gpu1:11434", OllamaCodec())
    request = Request("hi", extra={"options": {"num_ctx": 512}})
    run = streaming.stream(provider, Transport(reply), Target("box", "m"), request, Timeouts())
    items: list[Item] = [item async for batch in run for item in batch]
    assert [type(item) for item in items] == [TextDelta, Notice, Finish]
    assert reply.closed
