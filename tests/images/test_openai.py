"""Images over OpenAI's wire: JSON, forms, streamed drafts, other servers' dialects."""

from __future__ import annotations

import base64
import email.parser
import email.policy
import json
from pathlib import Path
from typing import Any

import pytest

from aiollm._wire.multipart import File, multipart
from aiollm.dsn import Secret
from aiollm.errors import (
    ContentFilterError,
    GenerationError,
    InvalidRequestError,
    LLMError,
    ProtocolError,
    ServerError,
    StreamInterrupted,
    UnsupportedError,
)
from aiollm.images import ImageRequest, ImageResult, PartialImage
from aiollm.provider import HttpRequest, HttpResponse, Provider
from aiollm.providers.openai.chat_codec import ChatCodec
from aiollm.providers.openai.images_codec import MAX_IMAGE_BYTES, MAX_MASK_BYTES, OpenAIImages
from aiollm.providers.openai.images_decode import MAX_OTHERS
from aiollm.types import ImagePart, Target, Usage

FIXTURES = Path(__file__).parents[1] / "fixtures"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)
PNG64 = base64.b64encode(PNG).decode()
JPEG = b"\xff\xd8\xff\xe0"
OPENAI = Provider(
    "openai", "openai", "https://api.openai.com/v1", ChatCodec(), token=Secret("sk-test")
)
LOCAL = Provider("lab", "openai", "http://lab:8080/v1", ChatCodec())


def http(
    model: str = "gpt-image-2", prompt: str = "kot", *, to: Provider = OPENAI, **more: Any
) -> HttpRequest:
    return OpenAIImages().encode_images(to, Target(to.name, model), ImageRequest(prompt, **more))


def body(model: str = "gpt-image-2", **more: Any) -> dict[str, Any]:
    return json.loads(bytes(http(model, **more).body or b""))  # type: ignore[no-any-return]


def form(request: HttpRequest) -> list[tuple[str, str | None, str, bytes]]:
    """Read a form with the standard library: name, file name, type and bytes of every part."""
    head = f"Content-Type: {request.headers['Content-Type']}\r\n\r\n".encode()
    parser = email.parser.BytesParser(policy=email.policy.HTTP)
    message = parser.parsebytes(head + bytes(request.body or b""))
    return [
        (
            part.get_param("name", header="content-disposition"),
            part.get_filename(),
            part.get_content_type() if "content-type" in part else "",
            part.get_payload(decode=True),
        )
        for part in message.iter_parts()  # type: ignore[attr-defined]
    ]


def whole(value: object) -> ImageResult:
    return OpenAIImages().decode_images(HttpResponse(200, {}, json.dumps(value).encode()))


def test_a_generation_is_what_the_vendors_library_sends() -> None:
    recorded = json.loads((FIXTURES / "requests/openai_images_generate.json").read_text())
    sent = http(
        size=(1024, 1024),
        quality="low",
        format="webp",
        background="opaque",
        extra={"moderation": "low", "output_compression": 80, "n": 1},
    )
    assert json.loads(bytes(sent.body or b"")) == recorded["body"]
    assert sent.url == "https://api.openai.com/v1/images/generations"
    assert sent.headers["Authorization"] == "Bearer sk-test"
    assert sent.warnings == ()


def test_an_edit_is_the_form_that_the_vendors_library_sends() -> None:
    recorded = json.loads((FIXTURES / "requests/openai_images_edit.json").read_text())
    sent = http(size=(1024, 1024), images=(ImagePart(PNG), ImagePart(JPEG)), mask=ImagePart(PNG))
    assert sent.url.endswith(recorded["path"])
    parts = form(sent)
    assert {part[:1] + part[3:] for part in parts[:3]} == {
        ("prompt", b"kot"), ("model", b"gpt-image-2"), ("size", b"1024x1024"),
    }  # fmt: skip
    assert parts[3:] == [
        ("image[]", "image-0.png", "image/png", PNG),
        ("image[]", "image-1.jpg", "image/jpeg", JPEG),
        ("mask", "mask.png", "image/png", PNG),
    ]
    for name in ("prompt", "model", "size", "image[]", "mask"):
        assert f'form-data; name="{name}"' in recorded["body"]


def test_a_form_says_its_length_and_holds_its_parts_unchanged() -> None:
    data = b"\r\n--x--\r\n\0\xff" * 9
    kind, sent = multipart(
        [("a", "Łódź\r\n"), ("b", "")], [File('q"\r\n', 'f".png', "image/png", data)]
    )
    raw = bytes(sent)
    assert len(sent) == len(raw)
    assert raw.startswith(b"--")
    request = HttpRequest("u", {"Content-Type": kind}, sent)
    assert [part[3] for part in form(request)] == ["Łódź\r\n".encode(), b"", data]
    assert b'name="q%22%0D%0A"; filename="f%22.png"' in raw


def test_extra_fields_of_a_form_are_flat() -> None:
    extra = {"svg": {"model": "gpt-6-sol"}, "tags": ["a", "b"], "ok": True, "no": None, "k": 3}
    parts = form(http("gpt-image-2.5-flare", images=(ImagePart(PNG),), extra=extra))
    fields = [(name, data) for name, file, _, data in parts if file is None]
    assert fields[2:] == [
        ("svg[model]", b"gpt-6-sol"), ("tags[]", b"a"), ("tags[]", b"b"), ("ok", b"true"),
        ("k", b"3"),
    ]  # fmt: skip


def test_data_urls_are_files_and_other_urls_cannot_be_edited() -> None:
    image = ImagePart(url=f"data:image/png;base64,{PNG64}")
    assert form(http(images=(image,), mask=ImagePart(PNG)))[-2:] == [
        ("image[]", "image-0.png", "image/png", PNG), ("mask", "mask.png", "image/png", PNG),
    ]  # fmt: skip
    with pytest.raises(UnsupportedError, match="bytes"):
        http(images=(ImagePart(url="https://x/a.png"),))


@pytest.mark.parametrize(("model", "size", "wire", "warned"), [
    ("gpt-image-2", None, None, False),
    ("gpt-image-2", "auto", "auto", False),
    ("gpt-image-2", (1024, 1024), "1024x1024", False),
    ("gpt-image-2", (1000, 600), "992x608", True),
    ("gpt-image-2", "16:9", "1536x864", False),
    ("gpt-image-2", "1:1", "1024x1024", False),
    ("gpt-image-2", "3:2", "1536x1024", False),
    ("gpt-image-2.5-flare", "21:9", "1760x752", True),
    ("gpt-image-2-2026-04-21", (3840, 2160), "3840x2160", False),
    ("gpt-image-2", (2160, 3840), "2160x3840", False),
    ("gpt-image-1.5", (1536, 1024), "1536x1024", False),
    ("gpt-image-1-mini", (512, 512), "1024x1024", True),
    ("chatgpt-image-latest", "9:16", "1024x1536", True),
])  # fmt: skip
def test_a_size_is_the_nearest_that_the_model_makes(
    model: str, size: Any, wire: str | None, warned: bool
) -> None:
    sent = http(model, size=size)
    assert json.loads(bytes(sent.body or b"")).get("size") == wire
    assert bool(sent.warnings) == warned


@pytest.mark.parametrize("size", [(3840, 3840), (4096, 2048), (4096, 1024), (1024, 256), "4:1"])
def test_a_size_beyond_the_model_is_unsupported(size: Any) -> None:
    with pytest.raises(UnsupportedError, match="size"):
        http(size=size)


@pytest.mark.parametrize(("model", "quality", "wire"), [
    ("gpt-image-2", "low", "low"), ("gpt-image-2", "max", "high"),
    ("gpt-image-2.5-sunburst", "max", "max"), ("gpt-image-2", "auto", "auto"),
])  # fmt: skip
def test_a_quality_is_the_nearest_that_the_model_has(model: str, quality: Any, wire: str) -> None:
    sent = http(model, quality=quality)
    assert json.loads(bytes(sent.body or b""))["quality"] == wire
    assert bool(sent.warnings) == (quality != wire)


def test_a_seed_is_dropped_with_a_warning() -> None:
    sent = http(seed=7)
    assert b"seed" not in bytes(sent.body or b"")
    assert any("seed" in warning for warning in sent.warnings)


def test_partial_images_make_a_stream_of_one_image() -> None:
    sent = body(partial_images=2)
    assert (sent["stream"], sent["partial_images"]) == (True, 2)
    several = http(partial_images=2, count=3)
    assert json.loads(bytes(several.body or b""))["n"] == 3
    assert b"stream" not in bytes(several.body or b"")
    assert len(several.warnings) == 1


BIG = ImagePart(PNG + bytes(MAX_IMAGE_BYTES))


@pytest.mark.parametrize("field", [
    {"count": 11}, {"prompt": "x" * 32_001}, {"images": (ImagePart(PNG),) * 17},
    {"images": (BIG,)}, {"images": (ImagePart(b"GIF89a"),)},
    {"images": (ImagePart(PNG),), "mask": ImagePart(JPEG)},
    {"images": (ImagePart(PNG),), "mask": ImagePart(PNG + bytes(MAX_MASK_BYTES))},
    {"format": "svg"}, {"format": "jpeg", "background": "transparent"},
], ids="-".join)  # fmt: skip
def test_what_openai_refuses_is_unsupported_before_any_byte(field: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError):
        http(**field)


def test_newer_models_make_more_formats() -> None:
    assert body("gpt-image-2.6-flare", format="svg")["output_format"] == "svg"


def test_another_server_gets_the_older_dialect_and_all_that_was_said() -> None:
    sent = http(
        "sdxl", to=LOCAL, count=2, size=(1000, 600), quality="max", format="webp",
        background="transparent", seed=7, partial_images=1,
    )  # fmt: skip
    assert json.loads(bytes(sent.body or b"")) == {
        "model": "sdxl", "prompt": "kot", "n": 2, "size": "1000x600", "quality": "max",
        "output_format": "webp", "background": "transparent", "seed": 7,
        "response_format": "b64_json",
    }  # fmt: skip
    assert len(sent.warnings) == 2
    assert "Authorization" not in sent.headers


@pytest.mark.parametrize("model", ["gpt-image-1", "openai/gpt-image-2", "chatgpt-image-latest"])
def test_a_model_of_openais_at_a_gateway_is_not_asked_for_base64(model: str) -> None:
    """LiteLLM's proxy and OpenAI itself refuse `response_format` for these models."""
    assert body(model, to=LOCAL) == {"model": model, "prompt": "kot"}


def test_another_server_gets_a_ratio_as_pixels() -> None:
    assert body("sdxl", to=LOCAL, size="16:9")["size"] == "1360x768"
    assert "size" not in body("sdxl", to=LOCAL, size="auto")


def test_another_server_edits_images_of_any_type() -> None:
    parts = form(http("sdxl", to=LOCAL, images=(ImagePart(b"GIF89a"), ImagePart(b"??"))))
    assert [part[:3] for part in parts[-2:]] == [
        ("image[]", "image-0.gif", "image/gif"),
        ("image[]", "image-1.bin", "application/octet-stream"),
    ]


def test_the_recorded_generation_gives_its_image_and_counts() -> None:
    reply = (FIXTURES / "openai_images/generate.json").read_bytes()
    made = OpenAIImages().decode_images(HttpResponse(200, {}, reply))
    assert made == ImageResult(
        (ImagePart(PNG, mime="image/png"),),
        Usage(12, 196, certainty="exact", output_image_tokens=196),
    )


@pytest.mark.parametrize("data", [
    PNG64, PNG64.rstrip("="), f"data:image/png;base64,{PNG64}",
    PNG64.replace("+", "-").replace("/", "_"), f"{PNG64[:40]}\r\n{PNG64[40:]}\n",
])  # fmt: skip
def test_any_base64_is_read(data: str) -> None:
    made = whole({"data": [{"b64_json": data, "revised_prompt": "a cat"}]})
    assert made.images == (ImagePart(PNG, mime="image/png"),)
    assert (made.revised_prompt, made.usage) == ("a cat", Usage())


def test_urls_are_images_too() -> None:
    data = [{"url": "https://x/a.png", "b64_json": None}, {"url": f"data:;base64,{PNG64}"}, {}]
    assert whole({"data": data}).images == (
        ImagePart(url="https://x/a.png"), ImagePart(PNG, mime="image/png"),
    )  # fmt: skip


@pytest.mark.parametrize(("format_", "mime"), [
    ("svg", "image/svg+xml"), ("jpeg", "image/jpeg"), ("jpg", "image/jpeg"), (None, ""),
])  # fmt: skip
def test_the_type_is_the_named_one_where_the_bytes_do_not_tell(
    format_: str | None, mime: str
) -> None:
    data = [{"b64_json": base64.b64encode(b"<svg/>").decode()}]
    assert whole({"data": data, "output_format": format_}).images[0].mime == mime


def test_odd_values_lose_no_image() -> None:
    reply = json.dumps({
        "data": [{"b64_json": PNG64, "revised_prompt": "@"}, "x", {"b64_json": 5}],
        "output_format": 5, "usage": {"input_tokens": "3", "output_tokens": 4},
    }).replace('"@"', '"\\ud83e"')  # fmt: skip
    made = OpenAIImages().decode_images(HttpResponse(200, {}, reply.encode()))
    assert made.images == (ImagePart(PNG, mime="image/png"),)
    assert made.revised_prompt == "\ufffd"
    assert made.usage == Usage(0, 4, certainty="exact")


@pytest.mark.parametrize(("value", "kind"), [
    ({"data": []}, GenerationError), ({"data": None}, GenerationError), ({}, GenerationError),
    ({"data": [{"b64_json": ""}]}, GenerationError), ({"data": 5, "usage": 5}, GenerationError),
    ([1], ProtocolError), ({"data": [{"b64_json": "!"}]}, ProtocolError),
    ({"error": {"message": "boom", "code": "server_error"}}, ServerError),
    ({"error": {"message": "no", "code": "moderation_blocked"}}, ContentFilterError),
])  # fmt: skip
def test_a_reply_without_an_image_raises(value: object, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        whole(value)


@pytest.mark.parametrize("raw", [b"", b"nonsense", b"{", b"<html>"])
def test_a_reply_that_is_no_json_raises(raw: bytes) -> None:
    with pytest.raises((ProtocolError, StreamInterrupted)):
        OpenAIImages().decode_images(HttpResponse(200, {}, raw))


def streamed(*pieces: bytes) -> tuple[list[PartialImage], ImageResult | LLMError]:
    """Decode as a reader of the stream does."""
    decoder = OpenAIImages().image_decoder()
    drafts: list[PartialImage] = []
    try:
        for piece in (*pieces, b""):
            decoder.feed(piece, drafts)
        return drafts, decoder.close()
    except LLMError as error:
        return drafts, error


STREAM = (FIXTURES / "openai_images/stream_partial.sse").read_bytes()
DRAFT = PartialImage(ImagePart(PNG, mime="image/png"), 0)
MADE = ImageResult((ImagePart(PNG, mime="image/png"),), Usage(12, 296, certainty="exact"))


def test_the_recorded_stream_gives_a_draft_and_the_image_however_it_is_cut() -> None:
    assert streamed(STREAM) == ([DRAFT], MADE)
    assert streamed(*(STREAM[at : at + 1] for at in range(len(STREAM)))) == ([DRAFT], MADE)
    assert OpenAIImages().decode_images(HttpResponse(200, {}, STREAM)) == MADE


def test_a_stream_is_finished_by_its_last_event_alone() -> None:
    decoder = OpenAIImages().image_decoder()
    head, tail = STREAM.split(b"\n\n")[:2]
    decoder.feed(head + b"\n\n", [])
    assert not decoder.finished
    decoder.feed(tail + b"\n\n", [])
    assert decoder.finished


def test_what_follows_the_last_event_in_one_read_is_not_looked_at() -> None:
    for behind in (b"data: {\n\n", events({"type": "error", "message": "no"}), STREAM):
        drafts, made = streamed(STREAM + behind)
        assert drafts == [DRAFT]
        assert isinstance(made, ImageResult)


def test_a_stream_cut_off_anywhere_is_an_interruption_with_its_drafts() -> None:
    last = STREAM.index(b"event: image_generation.completed")
    for end in range(last, len(STREAM) - 2):
        drafts, error = streamed(STREAM[:end])
        assert drafts == [DRAFT]
        assert isinstance(error, StreamInterrupted)


def events(*values: object) -> bytes:
    return b"".join(b"data: " + json.dumps(value).encode() + b"\n\n" for value in values)


def test_edits_stream_the_same_way() -> None:
    drafts, made = streamed(
        events(
            {"type": "image_edit.partial_image", "b64_json": PNG64, "partial_image_index": 1},
            {"type": "image_edit.completed", "b64_json": PNG64},
        )
    )
    assert [draft.index for draft in drafts] == [1]
    assert isinstance(made, ImageResult)


@pytest.mark.parametrize(("event", "kind"), [
    ({"type": "error", "code": "moderation_blocked", "message": "no"}, ContentFilterError),
    ({"type": "error", "error": {"code": "server_error", "message": "no"}}, ServerError),
    ({"error": {"type": "invalid_request_error", "message": "no"}}, InvalidRequestError),
    ({"type": "image_generation.completed", "b64_json": None}, GenerationError),
    ([1], ProtocolError),
])  # fmt: skip
def test_an_error_amid_the_stream_raises(event: object, kind: type) -> None:
    draft = {"type": "image_generation.partial_image", "b64_json": PNG64}
    drafts, error = streamed(events(draft, event))
    assert len(drafts) == 1
    assert type(error) is kind


def test_events_of_no_interest_and_odd_ones_are_passed_over() -> None:
    odd = {"type": "image_generation.partial_image", "b64_json": PNG64.rstrip("="),
           "partial_image_index": "x", "usage": 5, "output_format": 5}  # fmt: skip
    drafts, made = streamed(
        events({"type": "image_generation.in_progress"}, {"type": 5}, odd),
        b"data: [DONE]\n\n" + STREAM,
    )
    assert drafts == [DRAFT, DRAFT]
    assert made == MADE


@pytest.mark.parametrize("type_", ["image_generation_user_error", "invalid_request_error"])
def test_moderation_is_a_content_filter_error_whatever_its_type(type_: str) -> None:
    error = {"error": {"message": "rejected", "type": type_, "code": "moderation_blocked"}}
    reply = HttpResponse(400, {}, json.dumps(error).encode())
    assert isinstance(OpenAIImages().error(reply), ContentFilterError)


@pytest.mark.parametrize("event", [b'{"type":"ping"}', b'{"type":"x.partial_image","b64_json":7}'])
def test_events_without_an_image_are_counted(event: bytes) -> None:
    decoder = OpenAIImages().image_decoder()
    out: list[PartialImage] = []
    decoder.feed((b"data: " + event + b"\n\n") * MAX_OTHERS, out)
    with pytest.raises(ProtocolError, match="4096 events"):
        decoder.feed(b"data: " + event + b"\n\n", out)
    assert not out


@pytest.mark.parametrize(("count", "is_fine"), [(512, True), (513, False)])
def test_a_reply_has_few_images(count, is_fine):
    """Each takes a microsecond, and ten thousand fit into a small reply."""
    body = json.dumps({"data": [{"b64_json": PNG64}] * count}).encode()
    reply = HttpResponse(200, {}, body)
    if is_fine:
        assert len(OpenAIImages().decode_images(reply).images) == count
    else:
        with pytest.raises(ProtocolError, match="513 parts"):
            OpenAIImages().decode_images(reply)
