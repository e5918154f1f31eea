"""Capabilities: what a target accepts, as ordered rows of facts and one lookup.

Numbers are the providers' published or measured limits. Every one can be overridden, per target in
code and per provider by DSN options.

Facts grow old. A target is refused something before it is asked only where a row that names its
model, or a wire without a field for it, says no. Anything else is sent: the server's refusal costs
one request, and a stale "no" the whole feature.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import msgspec

from aiollm._settings.wildcards import matches
from aiollm.errors import ConfigError
from aiollm.types import _shown

MiB = 1024 * 1024

COMMON_MIME = ("image/jpeg", "image/png", "image/gif", "image/webp")


class Capabilities(msgspec.Struct, frozen=True):
    """What a target accepts; None means no known limit, 0 means none are accepted.

    `image_urls` None means unknown: an image's URL is fetched where aiollm may fetch, else sent.
    `prefill` says that the target is known to go on from an assistant's message at the end.

    `max_image_bytes` counts base64 characters if `image_bytes_in_base64` is set, else bytes.
    `max_body_bytes` is the size of the entire encoded request. In a request of more than
    `many_images` images, `many_images_dimension` replaces `max_image_dimension`; both are in
    pixels of the longer side. `max_pixels` is width times height; None means that of the registry.
    `min_image_dimension` is in pixels of the shorter side, and `max_image_ratio` the longer side
    divided by it. `context_length` is in tokens, of prompt and answer together;
    `max_output_tokens` are the most of an answer to a request that sets no limit.
    `max_embed_inputs` and `max_embed_tokens` are of one request for embeddings.
    """

    images: bool = True
    max_images_per_request: int | None = None
    max_image_dimension: int | None = None
    min_image_dimension: int | None = None
    max_image_ratio: int | None = None
    max_pixels: int | None = None
    max_image_bytes: int | None = None
    image_bytes_in_base64: bool = False
    max_body_bytes: int | None = None
    many_images: int | None = None
    many_images_dimension: int | None = None
    allowed_image_mime: tuple[str, ...] = ("image/jpeg", "image/png")
    image_urls: bool | None = None
    tool_result_images: bool = False
    documents: bool = True
    audio: bool = True
    tools: bool = True
    output_schema: bool = True
    reasoning: bool = True
    prefill: bool = False
    context_length: int | None = None
    max_output_tokens: int | None = None
    max_embed_inputs: int | None = None
    max_embed_tokens: int | None = None

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            _check(name, getattr(self, name))


_OPTIONAL_FLAGS = ("image_urls",)
_FLAGS = {
    "images", "image_bytes_in_base64", "tool_result_images", "documents", "audio", "tools",
    "output_schema", "reasoning", "prefill", *_OPTIONAL_FLAGS,
}  # fmt: skip


def _check(name: str, value: object) -> None:
    """Raise ConfigError unless `value` is one that the capability may have."""
    if name in _FLAGS:
        right = isinstance(value, bool) or (value is None and name in _OPTIONAL_FLAGS)
    elif name == "allowed_image_mime":
        right = isinstance(value, tuple) and all(isinstance(each, str) for each in value)
    else:
        least = name == "max_image_ratio"
        right = value is None or (type(value) is int and value >= least)
    if not right:
        raise ConfigError(f"the capability {name} is {_shown(value)}: expected {_wanted(name)}")


def _wanted(name: str) -> str:
    if name in _FLAGS:
        return "a bool"
    if name == "allowed_image_mime":
        return "a tuple of MIME types"
    return f"an integer from {int(name == 'max_image_ratio')} up"


class CapabilityRow(msgspec.Struct, frozen=True):
    """Facts about the targets whose family, host and model match; `*` is a wildcard.

    `as_of` is when the vendor said so, or its server was seen to do so, as `YYYY-MM`.
    """

    family: str
    facts: dict[str, Any]
    host: str = "*"
    model: str = "*"
    as_of: str = ""


# fmt: off
ROWS: tuple[CapabilityRow, ...] = (
    CapabilityRow("openai", {
        "max_images_per_request": 500, "max_image_bytes": 20 * MiB, "max_body_bytes": 50 * MiB,
        "max_image_dimension": 5000, "image_urls": True,
    }, as_of="2026-10"),
    CapabilityRow("openai", {"max_image_bytes": 20 * MiB}, host="api.x.ai", as_of="2026-11"),
    CapabilityRow("openai", {
        "max_images_per_request": 5, "max_image_bytes": 4_000_000, "image_bytes_in_base64": True,
        "allowed_image_mime": ("image/jpeg", "image/png", "image/webp"),
    }, host="api.groq.com", as_of="2026-11"),
    CapabilityRow("openai", {"max_images_per_request": 8, "max_image_bytes": 10_000_000,
                   "max_image_dimension": 1540, "allowed_image_mime": COMMON_MIME},
        host="api.mistral.ai", as_of="2026-11"),
    CapabilityRow("openai", {"max_output_tokens": 384_000},
        host="api.deepseek.com", as_of="2026-11"),
    *(
        CapabilityRow(family, {"max_embed_inputs": 2048, "max_embed_tokens": 300_000}, host=host,
            as_of="2026-11")
        for family in ("openai", "openai-responses")
        for host in ("*.openai.com", "*.openai.azure.com")
    ),
    # The least of its models, by its pages.
    CapabilityRow("openai", {"max_embed_inputs": 1000, "max_embed_tokens": 120_000},
        host="api.voyageai.com", as_of="2026-11"),
    CapabilityRow("openai", {"max_embed_inputs": 2048}, host="api.jina.ai", as_of="2026-11"),
    # Its newer models take 10, older ones 20 or 25.
    CapabilityRow("openai", {"max_embed_inputs": 10},
        host="*dashscope*.aliyuncs.com", as_of="2026-07"),
    # DeepSeek takes images: since 21 August 2026 `deepseek-v4-flash-vision-exp`, since 10 September
    # `deepseek-flash`, to which the older names lead by now. So none of its models is refused any.
    CapabilityRow("openai-responses", {
        "max_images_per_request": 500, "max_image_bytes": 20 * MiB, "max_body_bytes": 50 * MiB,
        "max_image_dimension": 5000, "image_urls": True, "tool_result_images": True,
    }, as_of="2026-10"),
    *(
        # Elsewhere only JPEG and PNG are safe: llama.cpp, for example, silently drops a WebP.
        CapabilityRow(family, {"allowed_image_mime": COMMON_MIME}, host=host, as_of="2026-11")
        for family in ("openai", "openai-responses")
        for host in ("*.openai.com", "*.openai.azure.com", "openrouter.ai")
    ),
    CapabilityRow("anthropic", {
        "max_images_per_request": 600, "max_image_bytes": 5_000_000, "image_bytes_in_base64": True,
        "max_image_dimension": 8000, "many_images": 20, "many_images_dimension": 2000,
        "max_body_bytes": 32_000_000, "allowed_image_mime": COMMON_MIME, "image_urls": True,
        "tool_result_images": True, "audio": False,
        "max_output_tokens": 64_000,  # every request of this wire has a limit, by default this one
    }, as_of="2026-11"),
    CapabilityRow("anthropic", {"max_images_per_request": 100},
        model="*haiku-4-5*", as_of="2026-11"),
    CapabilityRow("anthropic", {"max_images_per_request": 100, "prefill": True},
        model="claude-*-4-5*", as_of="2026-11"),
    CapabilityRow("google", {
        "max_images_per_request": 3000, "max_body_bytes": 20_000_000,
        "allowed_image_mime": (
            "image/png", "image/jpeg", "image/webp", "image/heic", "image/heif",
        ),
        "tool_result_images": True, "max_embed_inputs": 100,
    }, as_of="2026-11"),
    CapabilityRow("google", {"max_images_per_request": 14, "max_image_bytes": 7 * MiB},
        model="*-image*", as_of="2026-11"),
    CapabilityRow("google", {"max_images_per_request": 14, "max_image_bytes": 7 * MiB},
        model="*banana*", as_of="2026-11"),
    CapabilityRow("google", {"max_images_per_request": 3},
        model="*2.5-flash-image*", as_of="2026-11"),
    # A message of Ollama's has a field for the bytes of images, and none for other files or URLs.
    CapabilityRow("ollama", {
        "prefill": True, "image_urls": False, "documents": False, "audio": False,
    }, as_of="2026-08"),
    CapabilityRow("ollama", {"max_body_bytes": 20 * MiB}, host="ollama.com", as_of="2026-08"),
    CapabilityRow("ollama", {"max_body_bytes": 20 * MiB}, model="*cloud", as_of="2026-08"),
    CapabilityRow("llama-swap", {"prefill": True}, as_of="2026-08"),
    # Qwen's vision models cut images into squares of 28 pixels, from Qwen3 on of 32. Their
    # `smart_resize`, which Ollama, vLLM and others run as it is, fails on a side below one square
    # ("must be larger than factor") and on sides of more than 200 to 1. It does so with a 500 or a
    # panic, which looks like a broken server.
    *(
        CapabilityRow(family, facts, model=model, as_of="2026-11")
        for family in ("openai", "openai-responses", "ollama", "llama-swap")
        for model, facts in (
            ("*[Qq]wen*[Vv][Ll]*", {"min_image_dimension": 28, "max_image_ratio": 200}),
            ("*[Qq]wen*[Oo]mni*", {"min_image_dimension": 28, "max_image_ratio": 200}),
            ("*[Qq]wen3*", {"min_image_dimension": 32, "max_image_ratio": 200}),
        )
    ),
)
# fmt: on
"""Later rows add to and override earlier ones."""

FAMILIES = frozenset(row.family for row in ROWS)
"""The families that have rows here; the codec of any other may bring its own."""


def lookup(
    family: str,
    host: str = "",
    model: str = "",
    rows: Iterable[CapabilityRow] = ROWS,
    **overrides: Any,
) -> Capabilities:
    """Return the facts of all matching rows, later ones winning, then `overrides`.

    Raises: ConfigError for an override that is not a capability.
    """
    given = _published(family, host, model) if rows is ROWS else _of(family, host, model, rows)
    if not overrides:
        return given
    if unknown := overrides.keys() - set(Capabilities.__struct_fields__):
        known = ", ".join(Capabilities.__struct_fields__)
        raise ConfigError(f"unknown capabilities {', '.join(sorted(unknown))} (known: {known})")
    return msgspec.structs.replace(given, **overrides)


@lru_cache(maxsize=256)
def _published(family: str, host: str, model: str) -> Capabilities:
    return _of(family, host, model, ROWS)


def _of(family: str, host: str, model: str, rows: Iterable[CapabilityRow]) -> Capabilities:
    facts: dict[str, Any] = {}
    for row in rows:
        if row.family == family and matches(host, row.host) and matches(model, row.model):
            facts |= row.facts
    return Capabilities(**facts)
