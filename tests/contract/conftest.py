"""The contract's cases: every recorded answer, its expectations, and the codec that reads it."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aiollm._streams.stream import Accumulator
from aiollm.dsn import Secret
from aiollm.errors import LLMError
from aiollm.provider import Codec, HttpResponse, Provider
from aiollm.types import (
    Finish,
    Item,
    Message,
    Request,
    Response,
    Target,
    ToolCallPart,
    ToolResultPart,
    tool_results,
    user,
)

HERE = Path(__file__).parent
WIRE = HERE.parent / "fixtures"
RANDOM_ID = re.compile(r"call_[0-9a-f]{16}")


class Service(msgspec.Struct, frozen=True):
    """Which codec reads a folder of fixtures, and where its provider would live."""

    module: str
    codec: str
    base_url: str
    model: str

    @property
    def name(self) -> str:
        """What a provider of it is called here."""
        return self.module.partition(".")[0]


OPENAI = Service("openai.chat_codec", "ChatCodec", "https://api.openai.com/v1", "gpt-5.4-mini")
ANTHROPIC = Service(
    "anthropic.codec", "AnthropicCodec", "https://api.anthropic.com/v1", "claude-sonnet-5-5"
)
GOOGLE = Service(
    "google.codec",
    "GoogleCodec",
    "https://generativelanguage.googleapis.com/v1",
    "gemini-3.8-flash",
)
OLLAMA = Service("ollama.codec", "OllamaCodec", "http://127.0.0.1:11434", "qwen3:8b")
LLAMA_SWAP = Service("llama_swap.codec", "LlamaSwapCodec", "http://127.0.0.1:8080", "qwen")
LLAMA_CPP = Service("openai.chat_codec", "ChatCodec", "http://127.0.0.1:9931/v1", "qwen")

SERVICES = {
    "openai_chat": OPENAI,
    "openai_errors": OPENAI,
    "openai_responses": Service(
        "openai.responses_codec", "ResponsesCodec", "https://api.openai.com/v1", "gpt-6-sol"
    ),
    "anthropic": ANTHROPIC,
    "anthropic_errors": ANTHROPIC,
    "gemini": GOOGLE,
    "gemini_errors": GOOGLE,
    "ollama": OLLAMA,
    "ollama_errors": OLLAMA,
    "llamaswap": LLAMA_SWAP,
    "llamaswap_errors": LLAMA_SWAP,
    "llamacpp": LLAMA_CPP,
    "llamacpp_errors": LLAMA_CPP,
}

ELSEWHERE = {
    "openai_images/generate.json": "an image, not a chat",
    "openai_images/stream_partial.sse": "an image, not a chat",
    "llamaswap/events.sse": "management",
    "llamaswap/running.json": "management",
    "ollama/show.json": "management",
    "ollama/ps.json": "management",
}
"""Fixtures that no codec reads as a chat; their own tests do."""


@cache
def codec_of(service: Service) -> Codec:
    """Return the codec that reads a service's answers."""
    module = import_module(f"aiollm.providers.{service.module}")
    return getattr(module, service.codec)()  # type: ignore[no-any-return]


class Reply(msgspec.Struct):
    """What a decoder made of an answer: its items in order and how it ended."""

    items: list[Item]
    error: LLMError | None = None
    may_end: bool = False
    """Whether a terminal event or a finish reason had come by the end of the bytes."""
    streamed: int = 0
    """How many of the items had come by then."""

    @property
    def comparable(self) -> str:
        """The items with the ids that are made up at random masked."""
        return RANDOM_ID.sub("call_random", repr(self.items))

    @property
    def response(self) -> Response:
        """The items added up, as the caller gets them and the next request replays them."""
        total = Accumulator()
        total.add(self.items)
        return total.response()

    @property
    def calls(self) -> list[tuple[str, str, Any]]:
        """The calls that may be run; custom ones have no JSON."""
        said = self.response.tool_calls
        calls = [call for call in said if call.valid and not call.custom]
        return [(call.id, call.name, call.parsed()) for call in calls]

    @property
    def finish(self) -> Finish | None:
        return next((item for item in self.items if isinstance(item, Finish)), None)

    @property
    def essence(self) -> tuple[Any, ...]:
        """What an answer says, usage aside."""
        said = self.response
        calls = [(RANDOM_ID.sub("", id_), name, value) for id_, name, value in self.calls]
        return (said.text, said.reasoning, said.refusal, calls, said.finish_reason)


class Case(msgspec.Struct, frozen=True):
    """One recorded answer and what it must give."""

    path: str
    record: dict[str, Any]
    expected: dict[str, Any]
    service: Service

    @property
    def body(self) -> bytes:
        if "events" in self.expected:
            return b"".join(map(self._framed, self.expected["events"]))
        return (WIRE / self.path).read_bytes()

    def _framed(self, event: str) -> bytes:
        if self.path.startswith("ollama/"):
            return f"{event}\n".encode()
        named = self.path.startswith(("anthropic/", "openai_responses/"))
        name = f"event: {json.loads(event)['type']}\n" if named else ""
        return f"{name}data: {event}\n\n".encode()

    @property
    def is_sse(self) -> bool:
        return self.path.endswith(".sse") or "ollama/" not in self.path

    @property
    def codec(self) -> Codec:
        return codec_of(self.service)

    @property
    def provider(self) -> Provider:
        return Provider(
            self.service.name, "x", self.service.base_url, self.codec, token=Secret("sk-test")
        )

    @property
    def target(self) -> Target:
        return Target(self.service.name, self.service.model)

    def target_of(self, recorded: dict[str, Any]) -> Target:
        """Return the target of a recorded request, whose model stands in its body or its path."""
        model = recorded["body"].get("model", self.service.model)
        return Target(self.service.name, model)

    def reply(self, body: bytes | None = None) -> HttpResponse:
        headers = {"content-type": self.record["content_type"]} | self.record["headers"]
        return HttpResponse(
            self.record["status"], headers, self.body if body is None else body, "https://x/"
        )

    def _decoder(self) -> Any:
        """Return a decoder for the reply to a plain request."""
        http = self.codec.encode(self.provider, self.target, Request("hi"))
        return (http.decoder or self.codec.decoder)()

    def read(self, pieces: Iterable[bytes]) -> Reply:
        """Decode the pieces as the engine does, to the end or to the first error."""
        framer, decoder = self.codec.framing(), self._decoder()
        reply = Reply([])
        try:
            for piece in pieces:
                if not decoder.finished:
                    decoder.feed(framer.feed(piece), reply.items)
            if not decoder.finished:
                decoder.feed(framer.close(), reply.items)
            reply.may_end = decoder.finished or decoder.ending
            reply.streamed = len(reply.items)
            if not decoder.finished:
                decoder.close(reply.items)
        except LLMError as error:
            reply.error = error
        return reply

    def replayed(self, message: Message) -> Any:
        """Return the wire body of a conversation in which `message` was the second turn."""
        calls = [part for part in message.parts if isinstance(part, ToolCallPart)]
        answers = [ToolResultPart(call.id, ("ok",), call.name) for call in calls]  # type: ignore[arg-type]
        last = tool_results(*answers) if answers else user("go on")
        request = Request((user("start"), message, last))
        http = self.codec.encode(self.provider, self.target, request)
        return json.loads(bytes(http.body)) if http.body else None


def ends() -> Iterator[Case]:
    """Yield the answers with unusual ends; their expectations say all that a record would."""
    for path, expected in tomllib.loads((HERE / "ends.toml").read_text()).items():
        kind = "stream_error" if "error" in expected else "stream"
        lines = path.endswith(".ndjson")
        content_type = "application/x-ndjson" if lines else "text/event-stream"
        record = {"path": path, "kind": kind, "status": 200, "headers": {}}
        service = SERVICES[path.split("/")[1]]
        yield Case(path, record | {"content_type": content_type}, expected, service)


@cache
def cases() -> tuple[Case, ...]:
    index = json.loads((WIRE / "index.json").read_text())
    expected = tomllib.loads((HERE / "expected.toml").read_text())
    recorded = [
        Case(
            record["path"],
            record,
            expected[record["path"]],
            SERVICES[record["path"].partition("/")[0]],
        )
        for record in index
        if record["path"] not in ELSEWHERE
    ]
    return (*recorded, *_oddities(), *ends())


def _oddities() -> Iterator[Case]:
    for path, row in tomllib.loads((HERE / "oddities.toml").read_text()).items():
        service = SERVICES[path.partition("/")[0]]
        if host := row.pop("host", None):
            service = msgspec.structs.replace(service, base_url=f"https://{host}/v1")
        record = {"kind": "stream_error" if "error" in row else "stream"}
        yield Case(path, record, row, service)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test that asks for `stream`, `failure` or `listing` every case of that kind."""
    kinds = {
        "stream": ("stream", "stream_error"),
        "failure": ("http_error",),
        "listing": ("json",),
    }
    for name, wanted in kinds.items():
        if name in metafunc.fixturenames:
            found = [case for case in cases() if case.record["kind"] in wanted]
            metafunc.parametrize(name, found, ids=[case.path for case in found])


@pytest.fixture
def find_case() -> Callable[[str], Case]:
    """Return a way to get the first case whose path begins so."""
    return lambda beginning: next(case for case in cases() if case.path.startswith(beginning))
