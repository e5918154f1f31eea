"""Images with Gemini: what a request becomes, what an answer gives."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from aiollm.dsn import Secret
from aiollm.errors import (
    AuthenticationError,
    ContentFilterError,
    GenerationError,
    ProtocolError,
    RateLimitError,
    StreamInterrupted,
    UnsupportedError,
)
from aiollm.images import ImageRequest, ImageResult
from aiollm.provider import HttpRequest, HttpResponse, Provider
from aiollm.providers.google.codec import GoogleCodec
from aiollm.providers.google.images_codec import GoogleImages
from aiollm.types import ImagePart, Target, Usage

FIXTURES = Path(__file__).parents[1] / "fixtures"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)
PNG64 = base64.b64encode(PNG).decode()
BANANA = "gemini-nano-banana-2.1"
PROVIDER = Provider(
    "google", "google", "https://g.example/v1", GoogleCodec(), token=Secret("AIza-k")
)


def http(model: str = BANANA, prompt: str = "kot", **more: Any) -> HttpRequest:
    return GoogleImages().encode_images(
        PROVIDER, Target("google", model), ImageRequest(prompt, **more)
    )


def body(model: str = BANANA, **more: Any) -> dict[str, Any]:
    return json.loads(bytes(http(model, **more).body or b""))  # type: ignore[no-any-return]


def decoded(*parts: object, reason: str = "STOP", **more: object) -> ImageResult:
    candidate = {"content": {"role": "model", "parts": parts}, "finishReason": reason, **more}
    reply = {"candidates": [candidate], "usageMetadata": {"promptTokenCount": 3,
             "candidatesTokenCount": 1290}}  # fmt: skip
    return GoogleImages().decode_images(HttpResponse(200, {}, json.dumps(reply).encode()))


def test_a_request_is_what_the_vendors_library_sends() -> None:
    recorded = json.loads((FIXTURES / "requests/gemini_image.json").read_text())
    sent = http(size="16:9", extra={"generationConfig": {"imageConfig": {"imageSize": "2K"}}})
    assert json.loads(bytes(sent.body or b"")) == recorded["body"]
    assert sent.url == f"https://g.example/v1/models/{BANANA}:generateContent"
    assert sent.headers["x-goog-api-key"] == "AIza-k"
    assert sent.warnings == ()


def test_images_to_edit_follow_the_prompt() -> None:
    (turn,) = body(images=(ImagePart(PNG), ImagePart(url="https://x/a.png")))["contents"]
    assert turn["parts"] == [
        {"text": "kot"},
        {"inlineData": {"mimeType": "image/png", "data": PNG64}},
        {"fileData": {"mimeType": "image/png", "fileUri": "https://x/a.png"}},
    ]


@pytest.mark.parametrize(("model", "size", "config", "warned"), [
    (BANANA, None, None, False),
    (BANANA, "auto", None, False),
    (BANANA, "21:9", {"aspectRatio": "21:9"}, False),
    (BANANA, "1:8", {"aspectRatio": "1:8"}, False),
    ("gemini-3-pro-image", "1:8", {"aspectRatio": "9:16"}, True),
    (BANANA, "2:1", {"aspectRatio": "16:9"}, True),
    (BANANA, (1024, 1024), {"aspectRatio": "1:1", "imageSize": "1K"}, False),
    (BANANA, (512, 512), {"aspectRatio": "1:1", "imageSize": "512"}, False),
    ("models/gemini-3-pro-image", (512, 512), {"aspectRatio": "1:1", "imageSize": "1K"}, True),
    (BANANA, (1920, 1080), {"aspectRatio": "16:9", "imageSize": "1K"}, True),
    (BANANA, (3840, 2160), {"aspectRatio": "16:9", "imageSize": "2K"}, True),
    (BANANA, (5000, 4000), {"aspectRatio": "5:4", "imageSize": "4K"}, True),
    ("gemini-2.5-flash-image", (2048, 2048), {"aspectRatio": "1:1"}, True),
])  # fmt: skip
def test_a_size_is_the_nearest_ratio_and_class(
    model: str, size: Any, config: object, warned: bool
) -> None:
    sent = http(model, size=size)
    wire = json.loads(bytes(sent.body or b""))
    assert wire["generationConfig"].get("imageConfig") == config
    assert bool(sent.warnings) == warned


def test_a_seed_is_a_setting() -> None:
    assert body(seed=7)["generationConfig"]["seed"] == 7


@pytest.mark.parametrize("field", [{"quality": "high"}, {"format": "png"}, {"partial_images": 2}])
def test_what_changes_no_meaning_is_dropped_with_a_warning(field: dict[str, Any]) -> None:
    assert any(next(iter(field)) in text for text in http(**field).warnings) or len(
        http(**field).warnings
    )
    assert http(quality="auto", background="opaque").warnings == ()


@pytest.mark.parametrize("field", [
    {"mask": ImagePart(PNG), "images": (ImagePart(PNG),)}, {"count": 2},
    {"background": "transparent"}, {"images": (ImagePart(PNG),) * 15},
])  # fmt: skip
def test_what_changes_the_meaning_is_unsupported(field: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError):
        http(**field)


def test_an_image_comes_with_its_counts_and_its_signature() -> None:
    made = decoded(
        {"text": "Here:"},
        {"inlineData": {"mimeType": "image/png", "data": PNG64}, "thought": True},
        {"inlineData": {"mimeType": "image/png", "data": PNG64}, "thoughtSignature": "ErAB"},
    )
    (image,) = made.images
    assert (image.data, image.mime) == (PNG, "image/png")
    assert image.provider_data is not None
    assert image.provider_data.data == {"thoughtSignature": "ErAB"}
    assert made.usage == Usage(3, 1290, certainty="exact")


def test_the_recorded_stream_gives_its_image() -> None:
    stream = (FIXTURES / "gemini/image_out.sse").read_bytes()
    made = GoogleImages().decode_images(HttpResponse(200, {}, stream))
    assert [image.data for image in made.images] == [PNG]
    assert made.usage.output_tokens == 1293


@pytest.mark.parametrize("raw", ["IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "SAFETY"])
def test_a_filtered_image_is_a_content_filter_error_that_says_why(raw: str) -> None:
    with pytest.raises(ContentFilterError, match="violates") as caught:
        decoded(reason=raw, finishMessage="It violates a policy.")
    assert caught.value.code == raw


@pytest.mark.parametrize("raw", ["NO_IMAGE", "IMAGE_OTHER", "STOP", "MAX_TOKENS"])
def test_words_in_place_of_an_image_are_a_generation_error_that_quotes_them(raw: str) -> None:
    with pytest.raises(GenerationError, match="I'd rather not"):
        decoded({"text": "I'd rather not"}, reason=raw)


def test_no_words_and_no_image_are_a_generation_error() -> None:
    with pytest.raises(GenerationError):
        decoded(reason="NO_IMAGE")


@pytest.mark.parametrize("reason", ["IMAGE_SAFETY", "IMAGE_SAFETY" * 1000])
def test_a_blocked_prompt_is_a_content_filter_error(reason: str) -> None:
    reply = {"promptFeedback": {"blockReason": reason}}
    with pytest.raises(ContentFilterError, match="IMAGE_SAFETY") as caught:
        GoogleImages().decode_images(HttpResponse(200, {}, json.dumps(reply).encode()))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(("raw", "kind"), [
    (b"nonsense", ProtocolError), (b"{}", StreamInterrupted),
    (b'{"error":{"code":429,"status":"RESOURCE_EXHAUSTED"}}', RateLimitError),
])  # fmt: skip
def test_a_reply_that_is_no_answer_raises(raw: bytes, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        GoogleImages().decode_images(HttpResponse(200, {}, raw))


def test_error_replies_are_those_of_the_chat() -> None:
    reply = (FIXTURES / "gemini_errors/400_api_key.json").read_bytes()
    assert isinstance(GoogleImages().error(HttpResponse(400, {}, reply)), AuthenticationError)
    assert GoogleImages().image_decoder() is None  # type: ignore[func-returns-value]
