"""OpenAI's images API, answers: JSON and streamed drafts to images."""

from __future__ import annotations

from typing import Any

import msgspec

from aiollm._wire.base64_files import from_text
from aiollm._wire.framing import SSE
from aiollm._wire.image_type import mime_of
from aiollm._wire.lenient import load, mend
from aiollm.errors import GenerationError, ProtocolError, StreamInterrupted
from aiollm.images import ImageResult, PartialImage
from aiollm.providers.billing import Billing
from aiollm.providers.decoding import check_parts, mime_in
from aiollm.providers.error_bodies import error_in, is_error
from aiollm.providers.openai.errors import stream_error
from aiollm.providers.token_counts import MOST, Tokens
from aiollm.types import ImagePart, Usage


class _Wire(msgspec.Struct, gc=False):
    """A part of the wire; every field may be absent or null."""


class _Datum(_Wire):
    b64_json: bytes | None = None
    url: str | None = None
    revised_prompt: str | None = None


class _Details(_Wire):
    image_tokens: Tokens = None


class _Usage(Billing, gc=False):
    input_tokens: Tokens = None
    output_tokens: Tokens = None
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None


class _Reply(_Wire):
    data: list[_Datum] | None = None
    output_format: str | None = None
    usage: _Usage | None = None


class _Event(_Wire):
    type: str | None = None
    b64_json: bytes | None = None
    partial_image_index: int | None = None
    output_format: str | None = None
    usage: _Usage | None = None


_REPLY = msgspec.json.Decoder(_Reply)
_EVENT = msgspec.json.Decoder(_Event)


MAX_OTHERS = 4096
"""Events without an image that are read: an image of ten minutes has as many as signs of life."""


class OpenAIImageDecoder:
    """Events of one reply to drafts; the event that completes an image is the end."""

    __slots__ = ("_framer", "_others", "_result", "finished")

    def __init__(self) -> None:
        self.finished: bool = False
        self._others = 0
        self._framer = SSE()
        self._result: ImageResult | None = None

    def feed(self, data: bytes, out: list[PartialImage]) -> None:
        """Decode the bytes of one read, b"" at the end. Raises: ProviderError, ProtocolError."""
        for frame in self._framer.feed(data) if data else self._framer.close():
            if self.finished:
                return
            if not frame.startswith(b"[DONE]"):
                self._event(frame, out)

    def close(self) -> ImageResult:
        """Return the image. Raises: StreamInterrupted unless it is complete."""
        if self._result is None:
            raise StreamInterrupted("the stream ended before its image was complete")
        return self._result

    def _event(self, frame: bytes, out: list[PartialImage]) -> None:
        event = _read_event(frame)
        kind = event.type or ""
        if kind.endswith(".partial_image") and event.b64_json:
            image = _image(event.b64_json, event.output_format)
            out.append(PartialImage(image, event.partial_image_index or 0))
        elif kind.endswith(".completed"):
            datum = _Datum(event.b64_json)
            reply = _Reply([datum], event.output_format, event.usage)
            self._result = _result(reply, frame)
            self.finished = True
        elif (value := error_in(frame)) is not None:
            raise stream_error(value, frame)
        else:
            self._others += 1
            if self._others > MAX_OTHERS:
                raise ProtocolError(f"more than {MAX_OTHERS} events have no image", frame=frame)


def result_of(body: bytes) -> ImageResult:
    """Read a complete reply. Raises: ProviderError for an error in it, ProtocolError."""
    try:
        reply = _REPLY.decode(body)
    except (ValueError, RecursionError):
        reply = _lax_reply(load(body), body)
    return _result(reply, body)


def _result(reply: _Reply, body: bytes) -> ImageResult:
    images = tuple(_images(reply))
    if not images:
        value = load(body)
        if is_error(value):
            raise stream_error(value, body)
        raise GenerationError("the reply contains no image", body=body)
    revised = (datum.revised_prompt for datum in reply.data or () if datum.revised_prompt)
    return ImageResult(images, _usage(reply.usage), mend(next(revised, "")))


def _images(reply: _Reply) -> list[ImagePart]:
    images: list[ImagePart] = []
    check_parts(reply.data or ())
    for datum in reply.data or ():
        url = datum.url or ""
        data = datum.b64_json or (from_text(url) if url.startswith("data:") else b"")
        if data:
            images.append(_image(data, reply.output_format))
        elif url:
            images.append(ImagePart(url=mend(url)))
    return images


def _image(data: bytes, format_: str | None) -> ImagePart:
    """Return the image, with the type detected from its bytes, else the one in the reply."""
    named = {"svg": "image/svg+xml", "jpg": "image/jpeg"}.get(format_ or "", f"image/{format_}")
    return ImagePart(data, mime=mime_of(data) or (mime_in(named) if format_ else ""))


def _usage(usage: _Usage | None) -> Usage:
    if usage is None:
        return Usage()
    counted = usage.input_tokens is not None or usage.output_tokens is not None
    billed = usage.usd()
    if not counted and billed is None:
        return Usage()
    read = usage.input_tokens_details or _Details()
    made = usage.output_tokens_details or _Details()
    return Usage(
        usage.input_tokens or 0,
        usage.output_tokens or 0,
        certainty="exact" if counted else "partial",
        input_image_tokens=read.image_tokens or 0,
        output_image_tokens=made.image_tokens or 0,
        billed_usd=billed,
    )


def _lax_reply(value: Any, body: bytes) -> _Reply:
    """Read a reply with odd values or another form of base64."""
    if not isinstance(value, dict):
        raise ProtocolError("the reply is not the expected JSON", frame=body)
    items = value.get("data")
    items = items if isinstance(items, list) else []
    data = [_lax_datum(item) for item in items if isinstance(item, dict)]
    return _Reply(data, _text(value.get("output_format")), _lax_usage(value.get("usage")))


def _read_event(frame: bytes) -> _Event:
    try:
        return _EVENT.decode(frame)
    except (ValueError, RecursionError):
        value = load(frame)
    if not isinstance(value, dict):
        raise ProtocolError("an event is not the expected JSON", frame=frame)
    index = value.get("partial_image_index")
    return _Event(
        _text(value.get("type")),
        _lax_datum(value).b64_json,
        index if isinstance(index, int) else None,
        _text(value.get("output_format")),
        _lax_usage(value.get("usage")),
    )


def _lax_datum(item: dict[str, Any]) -> _Datum:
    text = _text(item.get("b64_json"))
    return _Datum(
        from_text(text) if text else None, _text(item.get("url")), _text(item.get("revised_prompt"))
    )


def _lax_usage(value: Any) -> _Usage | None:
    if not isinstance(value, dict):
        return None
    counts = (value.get("input_tokens"), value.get("output_tokens"))
    given, made = (each if type(each) is int and 0 <= each <= MOST else None for each in counts)
    return _Usage(given, made, **{name: value.get(name) for name in Billing.__struct_fields__})


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
