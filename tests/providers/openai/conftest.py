"""Readers: bytes or events in, items and the response out; requests in, wire bodies out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import pytest

from aiollm._streams.stream import Accumulator
from aiollm.dsn import Secret
from aiollm.errors import LLMError
from aiollm.provider import Codec, Decoder, HttpRequest, Provider
from aiollm.providers.openai.chat_codec import ChatCodec
from aiollm.providers.openai.responses_codec import ResponsesCodec
from aiollm.types import Finish, Item, Request, Response, Target


class Read(msgspec.Struct):
    """What a decoder gave, and how it ended."""

    items: list[Item]
    error: LLMError | None = None

    @property
    def response(self) -> Response:
        total = Accumulator()
        total.add(self.items)
        return total.response()

    @property
    def finish(self) -> Finish | None:
        return next((item for item in self.items if isinstance(item, Finish)), None)

    @property
    def calls(self) -> list[tuple[str, str, str]]:
        return [(call.id, call.name, call.arguments) for call in self.response.tool_calls]

    def of(self, kind: type) -> list[Any]:
        return [item for item in self.items if isinstance(item, kind)]


class Sent(msgspec.Struct):
    """An encoded request."""

    http: HttpRequest

    @property
    def body(self) -> dict[str, Any]:
        return json.loads(bytes(self.http.body))

    @property
    def warnings(self) -> tuple[str, ...]:
        return self.http.warnings


class Wire:
    """One codec, used by bytes alone."""

    def __init__(
        self,
        codec: Codec,
        frame: Callable[[Any], str],
        decoder: Callable[[], Decoder[Any]] | None = None,
    ) -> None:
        self.codec = codec
        self._frame = frame
        self._decoder = decoder or codec.decoder

    def asked(self, base_url: str = "https://api.openai.com/v1", **extra: Any) -> Wire:
        """Return the wire as it reads the reply to a request with these fields."""
        return Wire(self.codec, self._frame, self.send(base_url, extra=extra).http.decoder)

    def body(self, events: Iterable[Any]) -> bytes:
        return "".join(map(self._frame, events)).encode()

    def read(self, *events: Any) -> Read:
        """Decode events: objects, or strings to stand in the data as they are."""
        return self.decode([self.body(events)])

    def decode(self, pieces: Iterable[bytes]) -> Read:
        framer, decoder = self.codec.framing(), self._decoder()
        read = Read([])
        try:
            for piece in pieces:
                if not decoder.finished:
                    decoder.feed(framer.feed(piece), read.items)
            if not decoder.finished:
                decoder.feed(framer.close(), read.items)
            if not decoder.finished:
                decoder.close(read.items)
        except LLMError as error:
            read.error = error
        return read

    def whole(self, body: Any) -> Read:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        read = Read([])
        try:
            self._decoder().whole(data, read.items)
        except LLMError as error:
            read.error = error
        return read

    def send(
        self, base_url: str = "https://api.openai.com/v1", model: str = "gpt-4.1", **fields: Any
    ) -> Sent:
        provider = Provider("here", "openai", base_url, self.codec, token=Secret("sk-test"))
        request = Request(**({"messages": "hi"} | fields))
        return Sent(self.codec.encode(provider, Target("here", model), request))


def _text(event: Any) -> str:
    return event if isinstance(event, str) else json.dumps(event)


def _chat_frame(event: Any) -> str:
    return f"data: {_text(event)}\n\n"


def _responses_frame(event: Any) -> str:
    name = event.get("type", "") if isinstance(event, dict) else ""
    return (f"event: {name}\n" if name else "") + f"data: {_text(event)}\n\n"


@pytest.fixture(scope="session")
def chat() -> Wire:
    """Chat completions."""
    return Wire(ChatCodec(), _chat_frame)


@pytest.fixture(scope="session")
def responses() -> Wire:
    """Responses."""
    return Wire(ResponsesCodec(), _responses_frame)
