"""Both sides of the comparison: every answer through aiollm and through its official SDK.

The answers are those of the contract's tests: recorded, with unusual ends, odd, and refusals. One
loopback server gives each under a path of its own, in small pieces. The SDKs run in child
processes, in `.venv-peers` (which scripts/setup makes) or else in this Python. All is asked once,
before the first test; the tests only compare.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import tomllib
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aiollm import FailoverError, LLMError, Registry, Timeouts
from aiollm.dsn import Secret
from aiollm.errors import ProviderError
from aiollm.images import ImageRequest, PartialImage
from aiollm.provider import Provider
from aiollm.testing import Exchange, ReplayServer, load_exchanges
from aiollm.testing.cassette import exchange
from aiollm.types import (
    ImagePart,
    Message,
    Request,
    Response,
    Target,
    Tool,
    ToolCallPart,
    ToolResultPart,
    tool_results,
    user,
)

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
FIXTURES = HERE.parent / "fixtures"
INDEX = FIXTURES / "index.json"
RANDOM_ID = re.compile(r"call_[0-9a-f]{16}")
PIECE = 61
"""Bytes; small enough to cut through characters, lines and frames."""

SDKS = {"openai": "openai", "anthropic": "anthropic", "gemini": "google", "ollama": "ollama"}
"""Which SDK reads an API, by the first word of the API's name."""

LISTINGS = {
    "llamaswap/models.json": "openai_models",
    "ollama/tags.json": "ollama_tags",
    "ollama/ps.json": "ollama_ps",
    "ollama/show.json": "ollama_show",
}
"""Plain replies that an SDK can read, too."""

NO_SDK = {"llamaswap/running.json", "llamaswap/events.sse"}
"""What no official SDK reads."""


ENDPOINTS = {
    "openai_chat": "/v1/chat/completions",
    "openai_responses": "/v1/responses",
    "anthropic": "/v1/messages",
    "gemini": "/v1beta/models/gemini-3.8-flash:streamGenerateContent?alt=sse",
    "ollama": "/api/chat",
}
"""Where an API answers; the names are those of the folders of fixtures, and of the APIs."""

REFUSALS = {
    "openai": "openai_chat",
    "anthropic": "anthropic",
    "google": "gemini",
    "ollama": "ollama",
}
"""Which API gives the refusals of a wire."""


class Family(msgspec.Struct, frozen=True):
    """How aiollm reaches a folder of fixtures: scheme, model, what the base URL adds, options."""

    scheme: str
    model: str
    version: str = ""
    options: dict[str, str] = {}


CHAT = Family("openai", "gpt-5.4-mini", "/v1", {"api": "chat"})
FAMILIES = {
    "openai_chat": CHAT,
    "openai_errors": CHAT,
    "openai_images": Family("openai", "gpt-image-2", "/v1"),
    "openai_responses": Family("openai", "gpt-6-sol", "/v1", {"api": "responses"}),
    "anthropic": Family("anthropic", "claude-sonnet-5-5"),
    "anthropic_errors": Family("anthropic", "claude-sonnet-5-5"),
    "gemini": Family("google", "gemini-3.8-flash", "/v1beta"),
    "gemini_errors": Family("google", "gemini-3.8-flash", "/v1beta"),
    "ollama": Family("ollama", "qwen3:8b"),
    "ollama_errors": Family("ollama", "qwen3:8b"),
    "llamaswap": Family("llama-swap", "qwen"),
    "llamaswap_errors": Family("llama-swap", "qwen"),
    "llamacpp": Family("openai", "qwen", "/v1"),
    "llamacpp_errors": Family("openai", "qwen", "/v1"),
}


class Case(msgspec.Struct, frozen=True):
    """One answer; `api` says which of the SDK's calls reads it, `answer` what the server gives."""

    path: str
    kind: str
    api: str
    endpoint: str
    folder: str
    answer: Exchange

    @property
    def family(self) -> Family:
        return FAMILIES[self.folder]

    @property
    def prefix(self) -> str:
        return "/" + re.sub(r"[^a-z0-9]+", "-", self.path.lower()).strip("-")

    @property
    def exchange(self) -> Exchange:
        """The answer under a path of its own."""
        return msgspec.structs.replace(self.answer, path=self.prefix + self.answer.path)

    @property
    def name(self) -> str:
        """The name of its provider in the registry."""
        return self.prefix[1:]

    @property
    def sdk(self) -> str:
        return sdk_of(self.api)

    @property
    def model(self) -> str:
        """The model, which stands in the path of some endpoints."""
        found = re.search(r"/models/([^:]+):", self.endpoint)
        return found[1] if found else self.family.model

    def dsn(self, server: ReplayServer) -> str:
        family = self.family
        path = self.prefix + family.version
        return server.dsn(family.scheme, "sk-test", path, **family.options)


def sdk_of(api: str) -> str:
    """Return the SDK that reads an API."""
    return SDKS[api.partition("_")[0]]


@cache
def exceptions() -> dict[str, dict[str, str]]:
    """Return what may differ, and why."""
    return tomllib.loads((HERE / "exceptions.toml").read_text())


@cache
def cases() -> tuple[Case, ...]:
    """Return every answer of the contract tests that an official SDK can be asked for."""
    found = (*_recorded(), *_ends(), *_oddities(), *_refusals())
    assert len({case.prefix for case in found}) == len(found), "two cases have one path"
    return found


def _recorded() -> Iterator[Case]:
    answers = {one.name: one for one in load_exchanges(INDEX)}
    for one in json.loads(INDEX.read_text()):
        path, endpoint = one["path"], one["endpoint"]
        if path not in NO_SDK:
            api, folder = one["sdk"] or LISTINGS[path], path.partition("/")[0]
            yield Case(path, one["kind"], api, endpoint, folder, answers[path])


def _ends() -> Iterator[Case]:
    for path, row in _rows("ends.toml"):
        folder = path.split("/")[1]
        begun = _event(BEGUN) if folder == "openai_responses" else b""
        yield _streamed(path, folder, begun + (FIXTURES / path).read_bytes(), row)


def _oddities() -> Iterator[Case]:
    """Yield the odd answers, but for those of hosts with rules of their own, which SDKs lack."""
    for path, row in _rows("oddities.toml"):
        folder = path.partition("/")[0]
        if "host" not in row:
            frames = _complete(folder, row["events"])
            yield _streamed(path, folder, b"".join(map(FRAMES[folder], frames)), row)


def _rows(name: str) -> Iterable[tuple[str, dict[str, Any]]]:
    return tomllib.loads((HERE.parent / "contract" / name).read_text()).items()


def _complete(folder: str, events: list[str]) -> Iterator[str]:
    """Yield the events with what the SDKs cannot do without, and which is not the point of them."""
    first = json.loads(events[0])
    if folder == "openai_responses":
        yield BEGUN
    if folder == "anthropic" and not first.get("message", {}).get("usage"):
        yield STARTED
        events = events[first["type"] == "message_start" :]
    for event in events:
        known = CHUNK if folder == "openai_chat" and event != "[DONE]" else {}
        yield json.dumps(known | json.loads(event)) if known else event


def _event(event: str) -> bytes:
    return f"event: {json.loads(event)['type']}\ndata: {event}\n\n".encode()


def _data(event: str) -> bytes:
    return f"data: {event}\n\n".encode()


def _line(event: str) -> bytes:
    return f"{event}\n".encode()


FRAMES = {
    "openai_chat": _data,
    "openai_responses": _event,
    "anthropic": _event,
    "gemini": _data,
    "ollama": _line,
}
"""How an API frames its events."""

CHUNK = {"object": "chat.completion.chunk", "created": 1, "model": "m"}
BEGUN = json.dumps(
    {
        "type": "response.created",
        "response": {"object": "response", "status": "in_progress", "output": []},
    }
)
STARTED = json.dumps(
    {
        "type": "message_start",
        "message": {
            "id": "m",
            "type": "message",
            "role": "assistant",
            "model": "m",
            "content": [],
            "usage": {"input_tokens": 1, "output_tokens": 1},
        },
    }
)
"""What begins an answer of Responses and of Anthropic's."""


def _streamed(path: str, folder: str, body: bytes, row: dict[str, Any]) -> Case:
    kind = "stream_error" if "error" in row else "stream"
    media = "application/x-ndjson" if folder == "ollama" else "text/event-stream"
    answer = exchange("POST", ENDPOINTS[folder], body, content_type=media)
    return Case(path, kind, folder, ENDPOINTS[folder], folder, answer)


def _refusals() -> Iterator[Case]:
    """Yield the replies with an error status; those without one come inside a stream only."""
    for wire, folder in REFUSALS.items():
        file = FIXTURES / "refusals" / f"{wire}.toml"
        for row in tomllib.loads(file.read_text())["case"]:
            if status := row.get("status"):
                path = f"refusals/{wire}: {row['from']}, {status}, {row['error']}"
                body, endpoint = row["body"].encode(), ENDPOINTS[folder]
                answer = exchange(
                    "POST", endpoint, body, status=status, content_type="application/json"
                )
                yield Case(path, "http_error", folder, endpoint, folder, answer)


# aiollm's side


class Ours(msgspec.Struct):
    """What aiollm gave, in the words of `sdk_answers.Got`."""

    text: str = ""
    reasoning: str = ""
    refusal: str = ""
    calls: list[list[Any]] = []
    ids: list[str | None] = []
    images: list[str] = []
    drafts: list[str] = []
    names: list[str] = []
    usage: list[int] | None = None
    finish: str | None = None
    reason: str | None = None
    failed: bool = False
    status: int | None = None
    message: str = ""
    request_id: str = ""
    parts: Message | None = None

    def read(self, said: Response) -> None:
        """Take over an answer, whole or partial."""
        self.text, self.reasoning, self.refusal = said.text, said.reasoning, said.refusal
        self.calls = [[call.name, _given(call)] for call in said.tool_calls]
        self.ids = [None if RANDOM_ID.fullmatch(c.id) else c.id for c in said.tool_calls]
        self.images = _encoded(said.images)
        self.finish, self.reason = said.raw_finish_reason or None, said.finish_reason
        self.usage, self.parts = _counts(said.usage), said.message

    def fail(self, error: LLMError) -> None:
        """Take over an error."""
        self.failed, self.message = True, str(error)
        if isinstance(error, ProviderError):
            self.status, self.request_id = error.status or None, error.request_id


def _given(call: ToolCallPart) -> Any:
    """Return a call's arguments; the text where they are none, as the SDKs have it."""
    return call.parsed() if call.valid and not call.custom else call.arguments


def _encoded(images: Any) -> list[str]:
    return [b64encode(image.data).decode() for image in images]


def _counts(usage: Any) -> list[int] | None:
    if usage.certainty == "missing":
        return None
    told = [usage.output_tokens, usage.cached_tokens, usage.reasoning_tokens]
    return [usage.input_tokens, *told]


async def ask(reg: Registry, case: Case) -> Ours:
    """Return what aiollm makes of a recorded answer."""
    ours = Ours()
    spec = f"{case.name}/{case.model}"
    try:
        match case.api:
            case "openai_models" | "ollama_tags":
                ours.names = list(await reg.models(case.name))
            case "ollama_ps":
                ours.names = [model.name for model in await reg.ollama(case.name).running()]
            case "ollama_show":
                ours.names = sorted((await reg.ollama(case.name).show(case.model)).capabilities)
            case "openai_images" | "openai_images_stream":
                await _draw(reg, spec, case, ours)
            case _:
                await _chat(reg, spec, ours)
    except FailoverError as errors:
        ours.fail(errors.exceptions[0])  # type: ignore[arg-type]
    except LLMError as error:
        ours.fail(error)
    return ours


async def _chat(reg: Registry, spec: str, ours: Ours) -> None:
    async with reg.stream(spec, "hi") as stream:
        try:
            async for _ in stream:
                pass
        finally:
            ours.read(stream.partial)


async def _draw(reg: Registry, spec: str, case: Case, ours: Ours) -> None:
    drafts = 2 if case.api == "openai_images_stream" else 0
    async with reg.stream_images(spec, ImageRequest("hi", partial_images=drafts)) as stream:
        async for chunk in stream:
            match chunk:
                case PartialImage(image=image):
                    ours.drafts += _encoded([image])
    ours.images, ours.usage = _encoded(stream.result.images), _counts(stream.result.usage)


# Requests

PNG = b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)
CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = (
    Tool("get_weather", "Tell the weather", CITY, strict=True),
    Tool("get_time", "Tell the time", {"type": "object", "properties": {}}),
)
TURNS = {
    "openai_chat": ("llamacpp/chat_progress_timings.sse", "openai_chat/tools_parallel.sse"),
    "openai_responses": ("openai_responses/reasoning_tools.sse",),
    "anthropic": ("anthropic/thinking_signature.sse", "anthropic/tools_parallel.sse"),
    "gemini": ("gemini/thinking_signature.sse", "gemini/tools_parallel.sse"),
    "ollama": ("ollama/chat_thinking.ndjson", "ollama/chat_tools_parallel.ndjson"),
}
"""Recorded answers that together are one turn: thoughts with their state, text, tool calls."""

HOMES = {
    "openai_chat": "https://api.openai.com/v1",
    "openai_responses": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com/v1",
    "gemini": "https://generativelanguage.googleapis.com/v1beta",
    "ollama": "http://127.0.0.1:11434",
}
"""Where the vendors live: some of what is sent depends on the host."""

EARS = {
    "openai_chat": "openai_chat/text_utf8_usage.sse",
    "openai_responses": "openai_responses/text_utf8.sse",
    "anthropic": "anthropic/text_utf8.sse",
    "gemini": "gemini/text_utf8.sse",
    "ollama": "ollama/chat_text_utf8.ndjson",
}
"""The recorded answer that the canonical request gets."""


def canonical(turn: Message) -> Request:
    """Return the request that holds one of everything, with `turn` as the model's own."""
    calls = Response(turn).tool_calls
    content = ("12 °C", ImagePart(PNG))
    results = [ToolResultPart(call.id, content, call.name) for call in calls]  # type: ignore[arg-type]
    return Request(
        (user("What is it?", ImagePart(PNG, detail="high")), turn, tool_results(*results)),
        system="Be brief",
        tools=TOOLS,
        output=CITY,
        max_output_tokens=4000,
        reasoning="low",
        tool_choice="auto",
    )


class Sent(msgspec.Struct, frozen=True):
    """A body that aiollm sends to a vendor or to this server.

    Places that SDKs do not know (exceptions.toml) are taken out of it, but for `left`.
    """

    api: str
    host: str
    body: dict[str, Any]
    left: str = ""

    @property
    def name(self) -> str:
        return f"{self.api} {self.host} {self.left}".rstrip()


async def bodies(reg: Registry, server: ReplayServer, ours: dict[str, Ours]) -> list[Sent]:
    """Return the canonical request of every API as a vendor's host and as the server gets it."""
    sent = []
    by_path = {case.path: case for case in cases()}
    for api, home in HOMES.items():
        case = by_path[EARS[api]]
        parts = [part for path in TURNS[api] for part in _said(ours[path]).parts]
        request = canonical(Message("assistant", tuple(parts)))
        provider, target = reg.provider(case.name), Target(case.name, case.model)
        vendor = Provider(case.name, provider.scheme, home, provider.codec, token=Secret("sk-test"))
        http = vendor.codec.encode(vendor, target, request)
        sent.append(Sent(api, "vendor", json.loads(bytes(http.body or b""))))
        sent += _to_count(api, vendor, target, request)
        before = len(server.requests)
        await reg.generate(f"{case.name}/{case.model}", request)
        sent.append(Sent(api, "loopback", server.requests[before].json()))
    return sent


def _to_count(api: str, vendor: Provider, target: Target, request: Request) -> Iterator[Sent]:
    """Yield what is sent to a vendor that counts the tokens of a request."""
    for codec in vendor.codec.counters(vendor):
        http = codec.encode_count(vendor, target, request)
        assert http is not None
        body = json.loads(bytes(http.body or b""))
        if api == "gemini":  # the SDK has no type for what is around it
            body = body["generateContentRequest"]
            assert body.pop("model") == f"models/{target.model}"
        yield Sent(f"{api}_count", "vendor", body)


def variants(sent: Sent) -> list[Sent]:
    """Return the body without what may be odd in it, and with one of these places at a time."""
    places = [place for place in exceptions().get(sent.api, ()) if _find(sent.body, place)]
    found = []
    for left in ("", *places):
        body = json.loads(json.dumps(sent.body))
        for place in places:
            if place != left:
                holder, key = _find(body, place)  # type: ignore[misc]
                del holder[key]
        found.append(Sent(sent.api, sent.host, body, left))
    return [*found, _spoiled(found[0])]


def _spoiled(sent: Sent) -> Sent:
    """Return the body with a key that means nothing in its first message."""
    body = json.loads(json.dumps(sent.body))
    messages = next(value for value in body.values() if isinstance(value, list))
    messages[0]["nonsense"] = 1
    return msgspec.structs.replace(sent, body=body, left="nonsense")


def _find(body: Any, place: str) -> tuple[Any, str] | None:
    """Return the object that holds a place of a body, and the key there."""
    *way, key = place.split(".")
    for step in way:
        body = body[int(step) if isinstance(body, list) else step]
    return (body, key) if key in body else None


def _said(ours: Ours) -> Message:
    assert ours.parts is not None
    return ours.parts


# The SDKs' side


def peers_python() -> str | None:
    """Return the Python that has the SDKs."""
    own = ROOT / ".venv-peers" / "bin" / "python"
    for python in filter(None, [os.environ.get("PEERS_PYTHON"), str(own)]):
        if Path(python).exists():
            return python
    return sys.executable if all(map(_importable, SDKS.values())) else None


def _importable(sdk: str) -> bool:
    try:
        return find_spec("google.genai" if sdk == "google" else sdk) is not None
    except ModuleNotFoundError:
        return False


async def work(python: str, sdk: str, job: dict[str, Any]) -> dict[str, Any]:
    """Let an SDK do its part of the job in a child process."""
    # Nothing but a path: no keys, no proxies, no settings of this Python.
    process = await asyncio.create_subprocess_exec(
        python,
        str(HERE / "sdk_worker.py"),
        sdk,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    try:
        out, err = await process.communicate(json.dumps(job).encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise RuntimeError(f"the {sdk} SDK could not be asked:\n{err.decode()}")
    return json.loads(out)


class Outcome(msgspec.Struct):
    """All that was asked: both sides' answers, and what the SDKs say against the requests."""

    ours: dict[str, Ours]
    theirs: dict[str, dict[str, Any]]
    complaints: dict[str, dict[str, str]]
    versions: dict[str, str]
    unmatched: int
    """Requests that the server had no answer for."""


async def ask_both(python: str) -> Outcome:
    """Ask aiollm, then the SDKs side by side."""
    answers = [case.exchange for case in cases()]
    async with (
        ReplayServer(*answers, pieces=PIECE) as server,
        Registry(env={}, retries=0, image_workers=0, timeouts=Timeouts(total=120.0)) as reg,
    ):
        for case in cases():
            reg.register(case.name, case.dsn(server))
        some = asyncio.Semaphore(64)  # of all at once a busy machine would miss deadlines

        async def ours_to(case: Case) -> Any:
            async with some:
                return await ask(reg, case)

        asked = await asyncio.gather(*map(ours_to, cases()))
        ours = {case.path: one for case, one in zip(cases(), asked, strict=True)}
        sent = [each for one in await bodies(reg, server, ours) for each in variants(one)]
        sdks = SDKS.values()
        done = await asyncio.gather(*(work(python, sdk, _job(server, sdk, sent)) for sdk in sdks))
    return Outcome(
        ours,
        {path: got for each in done for path, got in each["answers"].items()},
        {name: found for each in done for name, found in each["complaints"].items()},
        {each["package"]: each["version"] for each in done},
        server.unmatched,
    )


def _job(server: ReplayServer, sdk: str, sent: list[Sent]) -> dict[str, Any]:
    return {
        "cases": [
            {
                "path": case.path,
                "api": case.api,
                "base": server.url + case.prefix,
                "model": case.model,
            }
            for case in cases()
            if case.sdk == sdk
        ],
        "requests": [
            {"name": one.name, "api": one.api, "body": one.body}
            for one in sent
            if sdk_of(one.api) == sdk
        ],
    }


@pytest.fixture(scope="session")
def peers() -> str:
    """The Python that has the SDKs; without them CI fails, others skip."""
    python = peers_python()
    if python is None:
        reason = "the official SDKs are not installed: run scripts/setup peers"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return python


@pytest.fixture(scope="session")
def outcome(peers: str) -> Outcome:
    """What both sides made of everything."""
    return asyncio.run(ask_both(peers))


@pytest.fixture
def complaints(peers: str) -> Callable[[str, list[Any]], list[dict[str, str]]]:
    """Return what an SDK's types say against each of several bodies."""

    def asked(api: str, sent: list[Any]) -> list[dict[str, str]]:
        named = [{"name": str(at), "api": api, "body": each} for at, each in enumerate(sent)]
        done = asyncio.run(work(peers, sdk_of(api), {"cases": [], "requests": named}))
        return [*done["complaints"].values()]

    return asked


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test that asks for `case` every recorded answer, for `api` every kind of request."""
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", cases(), ids=[case.path for case in cases()])
    if "api" in metafunc.fixturenames:
        metafunc.parametrize("api", HOMES)
    if "excused" in metafunc.fixturenames:
        pairs = [(api, place) for api in HOMES for place in exceptions().get(api, ())]
        metafunc.parametrize("excused", pairs, ids=map(" ".join, pairs))


@pytest.fixture
def exempt(case: Case) -> dict[str, str]:
    """What may differ in an answer, and why."""
    return exceptions().get(case.path, {})


@pytest.fixture
def pinned() -> dict[str, str]:
    """The versions that pyproject.toml asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return dict(row.split("==") for row in project["optional-dependencies"]["peers"])


@pytest.fixture
def strangers() -> set[str]:
    """What exceptions.toml names that is neither a recorded answer nor an API."""
    return exceptions().keys() - {case.path for case in cases()} - HOMES.keys()
