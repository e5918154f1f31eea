"""Images through llama-swap: OpenAI's wire, and stable-diffusion-webui's."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from aiollm.dsn import Secret
from aiollm.errors import (
    GenerationError,
    LLMError,
    ProtocolError,
    RateLimitError,
    ServerError,
    UnsupportedError,
)
from aiollm.images import ImageRequest, ImageResult
from aiollm.provider import HttpRequest, HttpResponse, Provider
from aiollm.providers.llama_swap.codec import LlamaSwapCodec
from aiollm.providers.llama_swap.images_codec import LlamaSwapImages, SdapiImages
from aiollm.types import ImagePart, Target

FIXTURES = Path(__file__).parents[1] / "fixtures"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)
PNG64 = base64.b64encode(PNG).decode()
IMAGE = ImagePart(PNG, mime="image/png")
SWAP = Provider("ls", "llama-swap", "http://lab:8080", LlamaSwapCodec(), token=Secret("k-1234"))


def encoded(codec: Any, **more: Any) -> tuple[HttpRequest, dict[str, Any]]:
    request: HttpRequest = codec.encode_images(
        SWAP, Target("ls", "sdxl"), ImageRequest("a paper boat", **more)
    )
    return request, json.loads(bytes(request.body or b""))


def test_openais_wire_is_spoken_under_v1() -> None:
    request, wire = encoded(LlamaSwapImages(), size=(1024, 1024))
    assert request.url == "http://lab:8080/v1/images/generations"
    assert request.headers["Authorization"] == "Bearer k-1234"
    assert wire == {
        "model": "sdxl", "prompt": "a paper boat", "size": "1024x1024",
        "response_format": "b64_json",
    }  # fmt: skip


def test_openais_wire_is_read() -> None:
    reply = HttpResponse(200, {}, json.dumps({"data": [{"b64_json": PNG64}]}).encode())
    assert LlamaSwapImages().decode_images(reply).images == (IMAGE,)
    assert LlamaSwapImages().image_decoder().finished is False


@pytest.mark.parametrize("codec", [LlamaSwapImages(), SdapiImages()])
def test_errors_of_llama_swap_are_its_own(codec: Any) -> None:
    reply = (FIXTURES / "llamaswap_errors/429_concurrency.json").read_bytes()
    assert isinstance(codec.error(HttpResponse(429, {}, reply)), RateLimitError)


def test_a_text_goes_to_txt2img() -> None:
    request, wire = encoded(
        SdapiImages(), size="1:1", seed=7, count=2, extra={"steps": 20, "n_iter": 1}
    )
    assert request.url == "http://lab:8080/sdapi/v1/txt2img"
    assert request.headers["Authorization"] == "Bearer k-1234"
    assert wire == {
        "model": "sdxl", "prompt": "a paper boat", "width": 1024, "height": 1024, "seed": 7,
        "batch_size": 2, "steps": 20, "n_iter": 1,
    }  # fmt: skip
    assert request.warnings == ()


def test_only_what_is_asked_is_sent() -> None:
    assert encoded(SdapiImages())[1] == {"model": "sdxl", "prompt": "a paper boat"}


def test_images_go_to_img2img() -> None:
    data_url = ImagePart(url=f"data:image/png;base64,{PNG64}")
    request, wire = encoded(SdapiImages(), images=(IMAGE, data_url))
    assert request.url == "http://lab:8080/sdapi/v1/img2img"
    assert (wire["init_images"], wire["extra_images"]) == ([PNG64], [PNG64])
    assert "extra_images" not in encoded(SdapiImages(), images=(IMAGE,))[1]


def test_a_base_with_v1_is_the_same_server() -> None:
    provider = Provider("ls", "llama-swap", "http://lab:8080/v1", LlamaSwapCodec())
    request = SdapiImages().encode_images(provider, Target("ls", "m"), ImageRequest("x"))
    assert request.url == "http://lab:8080/sdapi/v1/txt2img"


@pytest.mark.parametrize("field", [
    {"mask": IMAGE, "images": (IMAGE,)}, {"background": "transparent"},
    {"images": (ImagePart(url="https://x/a.png"),)},
])  # fmt: skip
def test_what_sdapi_cannot_do_is_unsupported(field: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError):
        encoded(SdapiImages(), **field)


@pytest.mark.parametrize("field", [{"quality": "high"}, {"format": "webp"}, {"partial_images": 1}])
def test_what_sdapi_has_no_word_for_is_dropped_with_a_warning(field: dict[str, Any]) -> None:
    request, _ = encoded(SdapiImages(), **field)
    assert [next(iter(field)) in warning for warning in request.warnings] == [True]
    assert encoded(SdapiImages(), quality="auto")[0].warnings == ()


def sdapi(value: object) -> ImageResult:
    return SdapiImages().decode_images(HttpResponse(200, {}, json.dumps(value).encode()))


def test_the_images_of_sdapi_are_read_in_order() -> None:
    made = sdapi({"images": [PNG64, f"data:image/png;base64,{PNG64}", None, ""], "info": "{}"})
    assert made == ImageResult((IMAGE, IMAGE))
    assert SdapiImages().image_decoder() is None  # type: ignore[func-returns-value]


@pytest.mark.parametrize(("value", "kind"), [
    ({"images": []}, GenerationError), ({"images": 5}, GenerationError), ([], GenerationError),
    ({"images": ["!"]}, ProtocolError), ({"error": "out of memory"}, ServerError),
])  # fmt: skip
def test_a_reply_of_sdapi_without_an_image_raises(value: object, kind: type[LLMError]) -> None:
    with pytest.raises(kind):
        sdapi(value)
