"""Targets: what a streamed or complete answer becomes, through framers, decoders and the engine."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from aiollm import Timeouts
from aiollm._http.image_streaming import draw
from aiollm._http.streaming import stream as engine
from aiollm._wire import base64_stream
from aiollm._wire.framing import NDJSON, SSE, NamedSSE
from aiollm._wire.web_page import check_answer
from aiollm.errors import LLMError, ProtocolError
from aiollm.images import ImageRequest, ImageResult
from aiollm.provider import Operation
from aiollm.providers.schemes import SCHEMES
from aiollm.types import Finish, Request, TextDelta, ToolCallDelta
from tests.contract.conftest import SERVICES, WIRE, Case, Reply, cases
from tests.fuzz import wire
from tests.fuzz.oracles import (
    bounded_memory,
    check_error,
    check_linear,
    check_response,
    cuts,
    ends,
    one_in,
    rng_of,
)

CAPTURES = WIRE.parent / "captures"

THINKING = msgspec.structs.replace(SERVICES["openai_chat"], base_url="https://api.minimax.io/v1")
"""A host whose text begins with its reasoning."""

CODECS = {
    "chat": SERVICES["openai_chat"],
    "chat_thinking": THINKING,
    "responses": SERVICES["openai_responses"],
    "anthropic": SERVICES["anthropic"],
    "google": SERVICES["gemini"],
    "ollama": SERVICES["ollama"],
}
_FOLDERS = {
    "chat": ("openai_chat", "llamacpp", "llamaswap"),
    "chat_thinking": ("openai_chat",),
    "responses": ("openai_responses",),
    "anthropic": ("anthropic",),
    "google": ("gemini",),
    "ollama": ("ollama",),
}
"""Whose fixtures a codec starts with."""

_TERMINAL = {
    "chat": rb"finish_reason|DONE",
    "chat_thinking": rb"finish_reason|DONE",
    "responses": rb"completed|incomplete",
    "anthropic": rb"message_stop|stop_reason",
    "google": rb"finish_?reason",
    "ollama": rb"done",
}
"""Without these words no answer of a wire can be complete."""

_ESCAPED = re.compile(rb"\\u00[2-7]")
"""Words can also be written so."""


def target_of(name: str) -> Callable[[bytes], None]:
    """Return the target of one codec."""
    case = Case(f"{name}/fuzz", {"kind": "fuzz", "headers": {}}, {}, CODECS[name])

    def target(data: bytes) -> None:
        """Read the bytes as a body: streamed, and as one document if they look like it.

        Only errors of ours are raised; what came before them is a sane response, which can be
        sent back. Cuts change nothing. A beginning of the body gives a beginning of the answer,
        and succeeds only if a finish reason is in it. Work and memory are linear.
        """
        with bounded_memory(data):
            whole = case.read([data])
        check_reply(case, whole, len(data))
        if whole.error is None:
            text = data.lower() if name in ("chat", "chat_thinking", "google") else data
            words = _TERMINAL[name].lower() if text is not data else _TERMINAL[name]
            assert re.search(words, text) or _ESCAPED.search(data), "success without a finish"
        for pieces in cuts(data):
            again = case.read(pieces)
            assert again.comparable == whole.comparable, (again.comparable, whole.comparable)
            assert repr(again.error) == repr(whole.error)
        if whole.error is None:
            frames = frames_of(case, data)
            for beginning in ends(data):
                check_beginning(case, beginning, whole, frames)
        if data[:1] in (b"{", b"[") or data.lstrip()[:5] in (b"data:", b"event"):
            check_document(case, data)
        if one_in(300, data):
            check_work(case, data)

    target.__name__ = name
    return target


def check_reply(case: Case, reply: Reply, size: int) -> None:
    """A reply ends with a Finish or an error; its response is sane and can be sent back."""
    finishes = [item for item in reply.items if isinstance(item, Finish)]
    if reply.error is None:
        assert finishes == [reply.items[-1]], "one Finish, and it comes last"
    else:
        assert not finishes
        check_error(reply.error)
    response = reply.response
    check_response(response, size)
    if reply.error is None and response.message.parts:
        try:
            case.replayed(response.message)
        except LLMError as error:
            check_error(error)


def _said(items: list[Any]) -> tuple[str, list[str]]:
    """Return the text of an answer, and the arguments of its calls."""
    text = "".join(item.text for item in items if isinstance(item, TextDelta))
    calls: dict[int, str] = {}
    for item in items:
        if isinstance(item, ToolCallDelta):
            calls[item.index] = calls.get(item.index, "") + item.arguments
    return text, list(calls.values())


def check_beginning(case: Case, body: bytes, whole: Reply, frames: list[Any]) -> None:
    """A beginning of a body gives a beginning of the answer, and succeeds after a finish reason.

    The end of a beginning may complete another last event than the rest of the body does.
    """
    cut = case.read([body])
    if cut.error is not None:
        assert cut.finish is None
        return
    assert cut.may_end, "success without a finish reason"
    own = frames_of(case, body)
    if own == frames[: len(own)]:
        text, calls = _said(cut.items)
        all_text, all_calls = _said(whole.items)
        assert all_text.startswith(text.rstrip("\ufffd")), "not a beginning of the answer"
        assert len(calls) <= len(all_calls)


def frames_of(case: Case, body: bytes) -> list[Any]:
    """Return the frames of a body."""
    framer = case.codec.framing()
    return [*framer.feed(body), *framer.close()]


def check_document(case: Case, body: bytes) -> None:
    """One complete document: its beginnings are no answers."""
    whole = read_document(case, body)
    check_reply(case, whole, len(body))
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return
    if whole.error is None and isinstance(value, dict):
        for beginning in ends(body.rstrip(), 2):
            cut = read_document(case, beginning)
            assert cut.error is not None or beginning.endswith(b"}"), "a cut document is an answer"


def read_document(case: Case, body: bytes) -> Reply:
    """Decode one complete document as the engine does."""
    reply = Reply([])
    body = body.strip()
    try:
        check_answer(body, 200)
        case._decoder().whole(body, reply.items)
    except LLMError as error:
        reply.error = error
    return reply


def check_work(case: Case, body: bytes) -> None:
    """Repeating one line, or one event, many times costs as many times its work."""
    rng = rng_of(body)
    end = rng.choice((b"\n", b"\n\n"))
    parts = body.split(end)
    at = rng.randrange(len(parts))
    head, tail = end.join(parts[:at]), end.join(parts[at + 1 :])
    if len(parts[at]) < 2000:
        check_linear(lambda data: case.read([data]), head + end, parts[at] + end, tail)


def seeds_of(name: str) -> Iterator[bytes]:
    """Yield recorded answers, and each of their documents alone."""
    paths = _FOLDERS[name]
    documents: set[bytes] = set()
    for case in cases():
        folders = case.path.split("/")
        if case.record["kind"].startswith("stream") and {*folders[:2]} & {*paths}:
            body = case.body
            yield body
            documents.update(re.findall(rb"(?m)^(?:data: ?)?([{\[].*[}\]])\r?$", body))
    yield from sorted(documents)[:: max(1, len(documents) // 40)]
    for capture in sorted(CAPTURES.rglob("*.body")):
        native = name == "ollama" and "api_chat" in capture.name
        if native and capture.stat().st_size < 8000:
            yield capture.read_bytes()


def framing(data: bytes) -> None:
    """Frame the bytes with every framer: cuts change nothing, and no frame is from nowhere.

    The frames of a beginning are the first of the frames of all, but for the last, which the end
    may complete.
    """
    for make in (SSE, NamedSSE, NDJSON):
        whole, error = _frames(make, [data])
        for pieces in cuts(data):
            assert _frames(make, pieces) == (whole, error), make
        size = sum(
            len(frame) if isinstance(frame, bytes) else sum(map(len, frame)) for frame in whole
        )
        assert size <= 8 * len(data) + 100
        if error:
            continue
        for beginning in ends(data, 2):
            framer = make()
            frames = framer.feed(beginning)
            assert frames == whole[: len(frames)], "a frame that the rest of the bytes takes back"
        if one_in(300, data):
            check_linear(lambda body, make=make: _frames(make, [body]), b"", data[:400], b"")


def _frames(make: Any, pieces: list[bytes]) -> tuple[list[Any], str]:
    framer = make()
    frames: list[Any] = []
    try:
        for piece in pieces:
            frames += framer.feed(piece)
        frames += framer.close()
    except ProtocolError as error:
        return frames, repr(error)
    return frames, ""


def framing_seeds() -> Iterator[bytes]:
    for case in cases():
        if case.record["kind"].startswith("stream") and len(case.body) < 3000:
            yield case.body


def streaming(data: bytes) -> None:
    """Run the engine over an answer in memory, whatever its status, type, headers and end.

    Only errors of ours are raised; there is one Finish or an error, cuts change nothing, the reply
    is closed, and a connection that breaks before a finish reason is an error.
    """
    answer = wire.parsed(data)
    case = answer.case
    seen = []
    for pieces in ([answer.body], *cuts(answer.body)):
        reply = wire.MemoryReply(answer, pieces)
        source = engine(
            case.provider,
            wire.MemoryTransport(reply),
            case.target,
            Request("hi"),
            Timeouts(),
        )
        items, error = wire.run_out(source)
        assert reply.closed
        seen.append((Reply(items, error).comparable, repr(error)))
    assert len(set(seen)) == 1, seen
    total = Reply(items, error)
    check_reply(case, total, len(data))
    if not 200 <= answer.status < 300:
        assert error is not None


def streaming_seeds() -> Iterator[bytes]:
    for case in cases():
        record = case.record
        if "content_type" in record and len(case.body) < 4000:
            name = case.path.split("/")[0 if not case.path.startswith("ends/") else 1]
            kind = record["content_type"]
            yield wire.written(name, record["status"], kind, record["headers"], case.body)
    yield wire.written("openai_chat", 200, "text/event-stream broken", {}, b'data: {"choices":[]}')
    yield wire.written("openai_chat", 200, "text/html", {}, b"<html>")
    for name in ("openai_chat", "openai_responses", "anthropic", "gemini", "ollama"):
        for body in deep():
            yield wire.written(name, 200, "text/event-stream", {}, b"data: " + body + b"\n\n")
            yield wire.written(name, 200, "application/json", {}, body)


def deep() -> Iterator[bytes]:
    """Yield JSON that nests about as deeply as calls may."""
    for depth in (300, 850):
        lists = b"[" * depth + b"]" * depth
        yield lists
        yield b'{"error":' * depth + b"1" + b"}" * depth
        part = b'{"candidates":[{"content":{"parts":[{"x":%b}]},"finishReason":"STOP"}]}'
        yield part % lists
        yield part.replace(b'"STOP"', b'"STOP","groundingMetadata":{"a":%b}') % (b"1", lists)
        yield b'{"data":%b,"images":%b}' % (lists, lists)


_IMAGE_CODECS = ("openai", "google", "llama-swap")


def images(data: bytes) -> None:
    """Run the image engine over an answer in memory, with files taken out from 64 bytes on.

    Only errors of ours are raised, there is one result or an error, cuts change nothing, and the
    files come back as they were sent, whether they were taken out or not.
    """
    answer = wire.parsed(data)
    seen = []
    for large in (64, base64_stream.LARGE):
        drawn = [_drawn(answer, pieces, large) for pieces in ([answer.body], *cuts(answer.body))]
        assert len({repr(each) for each in drawn}) == 1, drawn
        # Where a file is taken out, what is wrong with it or around it is another thing.
        *items, error, _ = drawn[0]
        seen.append((items, error is type(None)))
    assert repr(seen[0]) == repr(seen[1]), seen


def _drawn(answer: wire.Wire, pieces: list[bytes], large: int) -> tuple[Any, ...]:
    """Return the drafts, the result and the error of an answer."""
    scheme = SCHEMES[_IMAGE_CODECS[wire.NAMES.index(answer.name) % len(_IMAGE_CODECS)]]
    codecs = [wire_codec() for wire_codec in _image_codecs(scheme.name)]
    chosen = codecs[len(answer.content_type) % len(codecs)]
    provider = msgspec.structs.replace(
        answer.case.provider, operations={"images": Operation(lambda: (chosen,))}
    )
    reply = wire.MemoryReply(answer, pieces)
    request = ImageRequest("a cat", partial_images=3)
    usual, base64_stream.LARGE = base64_stream.LARGE, large
    try:
        source = draw(
            provider, wire.MemoryTransport(reply), answer.case.target, request, Timeouts()
        )
        items, error = wire.run_out(source)
    finally:
        base64_stream.LARGE = usual
    assert reply.closed
    results = [item for item in items if isinstance(item, ImageResult)]
    assert len(results) == (error is None)
    if error is None:
        assert results[0].images, "success without an image"
        assert all(image.data or image.url for image in results[0].images)
    else:
        check_error(error)
        error.frame = error.body = b""  # type: ignore[attr-defined]  # may hold a placeholder
    return (items, type(error), str(error))


def _image_codecs(scheme: str) -> tuple[Any, ...]:
    made = SCHEMES[scheme].operations["images"]
    modules = {name.partition(":") for name in made}
    return tuple(getattr(__import__(m, fromlist=[c]), c) for m, _, c in sorted(modules))


def image_seeds() -> Iterator[bytes]:
    folder = WIRE / "openai_images"
    file = "iVBORw0KGgo" + "A" * 133
    reply = f'{{"created":1,"data":[{{"b64_json":"{file}","revised_prompt":"x"}}]}}'.encode()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".sse") and ".sdk" not in path.name:
            body = path.read_bytes()
            body = re.sub(rb"(?<=[A-Za-z0-9+/]{200})[A-Za-z0-9+/]{4,}", b"", body)
            kind = "application/json" if path.suffix == ".json" else "text/event-stream"
            for name in ("openai_chat", "openai_errors"):
                yield wire.written(name, 200, kind, {}, body[:6000])
    for name in wire.NAMES[:3]:
        for body in deep():
            yield wire.written(name, 200, "application/json", {}, body)
    data = {"inlineData": {"mimeType": "image/png", "data": file}}
    candidate = {"content": {"parts": [data]}, "finishReason": "STOP"}
    gemini = json.dumps({"candidates": [candidate]}).encode()
    for name in wire.NAMES[:6]:
        yield wire.written(name, 200, "application/json", {}, reply)
        yield wire.written(name, 200, "application/json", {}, f'{{"images":["{file}"]}}'.encode())
        yield wire.written(name, 200, "application/json", {}, gemini)
