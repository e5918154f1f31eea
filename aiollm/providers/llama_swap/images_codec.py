"""llama-swap, images: OpenAI's wire under /v1, or stable-diffusion-webui's under /sdapi."""

from __future__ import annotations

from typing import Any

import msgspec

from aiollm._wire.base64_files import from_text
from aiollm._wire.body import Blob, json_body
from aiollm._wire.image_type import image_mime
from aiollm._wire.lenient import load
from aiollm.errors import GenerationError, LLMError, UnsupportedError
from aiollm.images import ImageRequest, ImageResult
from aiollm.provider import HttpRequest, HttpResponse, Provider
from aiollm.providers.decoding import check_parts
from aiollm.providers.encoding import Warnings, bearer_headers, merge
from aiollm.providers.error_bodies import is_error
from aiollm.providers.llama_swap.codec import LlamaSwapCodec, openai_wire
from aiollm.providers.openai.errors import stream_error
from aiollm.providers.openai.images_codec import OpenAIImages, pixels_for
from aiollm.types import ImagePart, Target


class _Made(msgspec.Struct):
    """A reply of stable-diffusion-webui."""

    images: list[bytes | None] = []


_MADE = msgspec.json.Decoder(_Made)


class LlamaSwapImages(OpenAIImages):
    """Images over OpenAI's wire; `SdapiImages` reaches upstreams that do not speak it."""

    def encode_images(
        self, provider: Provider, target: Target, request: ImageRequest
    ) -> HttpRequest:
        """Translate a request. Raises: UnsupportedError."""
        return super().encode_images(openai_wire(provider), target, request)

    def error(self, reply: HttpResponse) -> LLMError:
        """Translate an error reply, llama-swap's own or the upstream's."""
        return LlamaSwapCodec().error(reply)


class SdapiImages:
    """Images over stable-diffusion-webui's routes: txt2img, or img2img to edit images.

    It supports a seed. Pass its other settings (`steps`, `cfg_scale`, `negative_prompt`,
    `denoising_strength`, `n_iter`) in `extra`.
    """

    def encode_images(
        self, provider: Provider, target: Target, request: ImageRequest
    ) -> HttpRequest:
        """Translate a request. Raises: UnsupportedError."""
        if request.mask is not None:
            raise UnsupportedError("/sdapi reads masks by brightness, not by transparency")
        if request.background == "transparent":
            raise UnsupportedError("/sdapi cannot make a transparent background")
        warnings = Warnings()
        _warn(request, warnings)
        body: dict[str, Any] = {"model": target.model, "prompt": request.prompt}
        if size := pixels_for(request):
            body["width"], body["height"] = size
        if request.seed is not None:
            body["seed"] = request.seed
        if request.count > 1:
            body["batch_size"] = request.count
        if request.images:
            first, *others = map(_inline, request.images)
            body["init_images"] = [first]
            # An addition of stable-diffusion.cpp, for images after the first.
            body |= {"extra_images": others} if others else {}
        base = provider.base_url.removesuffix("/v1")
        return HttpRequest(
            f"{base}/sdapi/v1/{'img2img' if request.images else 'txt2img'}",
            bearer_headers(provider),
            json_body(merge(body, request.extra)),
            warnings=tuple(warnings),
        )

    def decode_images(self, reply: HttpResponse) -> ImageResult:
        """Read a reply. Raises: ProviderError for an error in it, GenerationError for no image."""
        files = _files(reply.body)
        check_parts(files)
        images = [ImagePart(data) for data in files if data]
        if images:
            return ImageResult(tuple(ImagePart(i.data, mime=image_mime(i)) for i in images))
        value = load(reply.body)
        if is_error(value):
            raise stream_error(value, reply.body)
        raise GenerationError("the reply contains no image", body=reply.body)

    def image_decoder(self) -> None:
        """Return None: the images are never streamed."""

    def error(self, reply: HttpResponse) -> LLMError:
        """Translate an error reply, llama-swap's own or the upstream's."""
        return LlamaSwapCodec().error(reply)


def _files(body: bytes) -> list[bytes | None]:
    try:
        return _MADE.decode(body).images
    except (ValueError, RecursionError):
        pass  # data URLs, another form of base64, or different JSON
    match load(body):
        case {"images": list() as texts}:
            return [from_text(text) for text in texts if isinstance(text, str)]
        case _:
            return []


def _warn(request: ImageRequest, warnings: Warnings) -> None:
    for name in ("quality", "format", "partial_images"):
        if getattr(request, name) not in (None, "auto", 0):
            warnings.add(f"/sdapi has no {name}: it is dropped")


def _inline(image: ImagePart) -> Blob | str:
    if image.data:
        return Blob(image.data)
    head, comma, text = image.url.partition(";base64,")
    if not comma or not head.startswith("data:"):
        raise UnsupportedError("/sdapi does not fetch image URLs: send the image's bytes")
    return text
