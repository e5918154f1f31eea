"""A server that echoes its key in every form: nothing that a program shows has any of it."""

from __future__ import annotations

import asyncio
import io
import logging
import pickle
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import pytest

from aiollm import ImageRequest, LLMError, Registry, cli
from aiollm._settings.redactor import Redactor
from aiollm.otel import instrument
from aiollm.testing import NEVER, Answer, FaultServer

sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="opentelemetry-sdk is not installed")

WIRES = {
    "chat": ("openai", {}),
    "responses": ("openai", {"api": "responses"}),
    "anthropic": ("anthropic", {}),
    "google": ("google", {}),
    "ollama": ("ollama", {}),
    "llama-swap": ("llama-swap", {}),
}
SSE = {"content-type": "text/event-stream"}
JSON = {"content-type": "application/json"}


def refusal(form: str) -> Answer:
    body = f'{{"error": {{"message": "wrong key {form}", "code": "key {form}"}}}}'.encode()
    half = len(body) // 2
    return Answer(401, JSON, (body[:half], body[half:]))


def header(form: str) -> Answer:
    plain = form.encode("ascii", "ignore").decode().replace("\n", "")
    names = ("x-request-id", "request-id", "www-authenticate", "retry-after", "location")
    return Answer(429, [(name, plain) for name in names], b"{}")


def broken_frame(form: str) -> Answer:
    line = b'{"choices": [{"delta": "' + form.encode() + b'"'
    return Answer(200, SSE, b"data: " + line + b"\n\n", "chunked")


def broken_line(form: str) -> Answer:
    return Answer(200, {"content-type": "application/x-ndjson"}, f'{{"a": "{form}"\n', "chunked")


def error_event(form: str) -> Answer:
    body = f'{{"type": "error", "error": {{"message": "wrong key {form}", "code": "{form}"}}}}'
    return Answer(200, SSE, f"event: error\ndata: {body}\n\n", "chunked")


def web_page(form: str) -> Answer:
    return Answer(200, {"content-type": "text/html"}, f"<title>{form}</title>wrong key {form}")


def broken_document(form: str) -> Answer:
    return Answer(200, JSON, f'{{"data": [{{"id": "{form}"')


def huge_frame(form: str) -> Answer:
    """Be cut, where an error keeps only the beginning of a frame, within the key."""
    line = b"data: {" + b" " * (1024 - len(form) // 2) + form.encode() + b" " * 100_000
    return Answer(200, SSE, line + b"\n\n", "chunked")


FAILURES = (
    refusal, header, broken_frame, broken_line, error_event, web_page, broken_document, huge_frame,
)  # fmt: skip


async def chat_stream(registry: Registry) -> None:
    async with registry.stream("box/m", "hi") as stream:
        async for _ in stream:
            pass


async def chat_unary(registry: Registry) -> None:
    await registry.generate("box/m", "hi")


async def image(registry: Registry) -> None:
    await registry.generate_images("box/m", "a cat")


async def image_edit(registry: Registry) -> None:
    png = bytes.fromhex("89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de")
    await registry.generate_images("box/m", ImageRequest("a cat", images=(_png(png),)))


async def image_stream(registry: Registry) -> None:
    async with registry.stream_images("box/m", "a cat") as stream:
        async for _ in stream:
            pass


async def models(registry: Registry) -> None:
    await registry.models("box")


async def manage(registry: Registry) -> None:
    await registry.refresh_capabilities("box/m")
    await registry.load_models("box/m")


async def embed(registry: Registry) -> None:
    await registry.embed("box/m", ["one", "two"])


async def rerank(registry: Registry) -> None:
    await registry.rerank("box/m", "which?", ["one", "two"])


async def agent(registry: Registry) -> None:
    async with registry.run("box/m", "hi", tools=[], save=bytearray().extend) as run:
        async for _ in run:
            pass


async def rows(registry: Registry) -> None:
    async with registry.map("box/m", ["one"], retries=0, max_wait=0) as run:
        async for row in run:
            raise row.error or LookupError("it did not fail")


CALLS = (
    chat_stream, chat_unary, agent, rows, image, image_edit, image_stream, embed, rerank, models,
    manage,
)  # fmt: skip


def _png(data: bytes) -> Any:
    from aiollm import ImagePart

    return ImagePart(data)


class Exporter:
    """Keeps what a tracing backend would get."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def on_start(self, *_: Any, **__: Any) -> None: ...

    def _on_ending(self, _span: Any) -> None: ...

    def on_end(self, span: Any) -> None:
        self.texts.append(span.to_json())

    def shutdown(self) -> None: ...

    def force_flush(self, *_: Any) -> bool:
        return True


class Watched:
    """A registry for one server, with all that hears of its calls: hooks, spans, logs."""

    def __init__(self, wire: str, server: FaultServer, key: str, log: Callable[[], str]) -> None:
        scheme, options = WIRES[wire]
        self.server = server
        self.exporter = Exporter()
        self._log = log
        self._events: list[str] = []
        provider = sdk.TracerProvider()
        provider.add_span_processor(self.exporter)
        env = {"LLM_BOX": server.dsn(scheme, key, **options)}
        self.registry = Registry(env=env, retries=0, cooldown=0.001, max_wait=0)
        self.registry.on_event(self._note)
        instrument(self.registry, provider.get_tracer("test"), capture_content=True)

    def _note(self, event: Any) -> None:
        self._events += [repr(event), pickle.dumps(event).decode("latin-1")]
        self._events.append(str(getattr(event, "error", "")))

    def heard(self) -> str:
        """Return what was heard since the last time."""
        texts = [*self._events, *self.exporter.texts, self._log()]
        texts += [repr(self.registry.health()), repr(self.registry.limits())]
        self._events.clear()
        self.exporter.texts.clear()
        self.registry.reset_health()
        return "\n".join(texts)


@pytest.fixture
async def watched(key: str) -> AsyncIterator[Callable[..., Any]]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger().addHandler(handler)
    made: list[Watched] = []

    def log() -> str:
        said = stream.getvalue()
        stream.seek(0)
        stream.truncate()
        return said

    async with FaultServer() as server:

        def make(wire: str) -> Watched:
            made.append(Watched(wire, server, key, log))
            return made[-1]

        yield make
        for each in made:
            await each.registry.aclose()
    logging.getLogger().removeHandler(handler)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("wire", WIRES)
async def test_nothing_shows_the_key(wire, call, watched, forms, failure, shown, find_leaks):
    box = watched(wire)
    found = []
    failed = 0
    for answer in FAILURES:
        for form in forms:
            box.server.behave(answer(form))
            error = await failure(_answered(call(box.registry)))
            failed += isinstance(error, LLMError)
            if leaked := {*find_leaks(shown(error)), *find_leaks(box.heard())}:
                found.append((answer.__name__, form, leaked))
    assert not found
    assert failed or call is manage


async def _answered(work: Any) -> None:
    """Do some work; some calls succeed with an empty answer, or are not for this wire."""
    await work
    raise LookupError("it did not fail")


@pytest.mark.parametrize("call", [chat_stream, image_stream, models])
async def test_these_tests_see_a_key(call, watched, form, failure, shown, find_leaks, monkeypatch):
    """Without the redactor, each form is found in what the same calls show."""
    monkeypatch.setattr(Redactor, "spans", lambda *_: [])
    box = watched("chat")
    box.server.behave(refusal(form))
    error = await failure(call(box.registry))
    assert find_leaks(shown(error))


@pytest.mark.parametrize("wire", WIRES)
async def test_a_cancelled_call_shows_no_key(wire, watched, key, failure, shown, find_leaks):
    """Its traceback goes through the frames of aiohttp, whose variables hold the headers."""
    box = watched(wire)
    for call in (chat_stream, models):
        seen = box.server.counts.requests
        for answer in (Answer(200, SSE, (f": {key}".encode(), NEVER)), _silent()):
            box.server.behave(answer)
            task = asyncio.create_task(call(box.registry))
            seen += 1
            await box.server.wait_requests(seen)
            task.cancel("enough")
            assert not find_leaks(shown(await failure(task)))


def _silent() -> Any:
    from aiollm.testing import Hang

    return Hang()


@pytest.mark.parametrize("wire", WIRES)
def test_the_command_line_shows_no_key(wire, forms, key, find_leaks, capsys, monkeypatch, tmp_path):
    scheme, options = WIRES[wire]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("aiollm.cli.session.Registry", partial(Registry, retries=0, max_wait=0))
    with FaultServer().in_thread() as server:
        monkeypatch.setenv("LLM_BOX", server.dsn(scheme, key, **options))
        for answer in (refusal, broken_frame, broken_document):
            for form in forms:
                server.behave(answer(form))
                for command in (["ask", "-v", "-m", "box/m", "hi"], ["models", "box"]):
                    cli.main(command)
            checks = (["check", "box/m"], ["check", "-v", "box/m"], ["health", "box"], ["status"])
            for command in (*checks, ["status", "--json"], ["image", "-m", "box/m", "cat"]):
                cli.main(command)
            printed = capsys.readouterr()
            assert not find_leaks(printed.out + printed.err)
