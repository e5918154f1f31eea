"""Capabilities: the published limits, and how rows, facts and options add up."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

import pytest

from aiollm.capabilities import COMMON_MIME, ROWS, Capabilities, CapabilityRow, MiB, lookup
from aiollm.dsn import DsnOptions
from aiollm.errors import ConfigError
from aiollm.provider import Provider
from aiollm.providers.ollama.codec import OllamaCodec

PLAIN = ("image/jpeg", "image/png")
GOOGLE = {"image/png", "image/jpeg", "image/webp", "image/heic", "image/heif"}


@pytest.mark.parametrize(
    ("family", "host", "model", "facts"),
    [
        ("openai", "api.openai.com", "gpt-6-sol",
         {"max_images_per_request": 500, "max_image_bytes": 20 * MiB, "max_body_bytes": 50 * MiB,
          "allowed_image_mime": COMMON_MIME, "image_urls": True, "tool_result_images": False}),
        ("openai", "eu.api.openai.com", "gpt-6-sol", {"allowed_image_mime": COMMON_MIME}),
        ("openai", "x.openai.azure.com", "gpt-6-sol", {"allowed_image_mime": COMMON_MIME}),
        ("openai", "openrouter.ai", "x/y", {"allowed_image_mime": COMMON_MIME}),
        ("openai", "127.0.0.1", "any", {"allowed_image_mime": PLAIN}),
        ("openai", "evil-openai.com", "any", {"allowed_image_mime": PLAIN}),
        ("openai", "api.x.ai", "grok-5",
         {"max_image_bytes": 20 * MiB, "allowed_image_mime": PLAIN, "documents": True}),
        ("openai", "api.groq.com", "llama",
         {"max_images_per_request": 5, "max_image_bytes": 4_000_000,
          "image_bytes_in_base64": True}),
        ("openai", "api.mistral.ai", "pixtral",
         {"max_images_per_request": 8, "max_image_bytes": 10_000_000, "max_image_dimension": 1540,
          "allowed_image_mime": COMMON_MIME}),
        ("openai", "api.deepseek.com", "deepseek-flash", {"images": True}),
        ("openai", "api.deepseek.com", "deepseek-v4-flash-vision-exp", {"images": True}),
        ("openai", "api.deepseek.com", "deepseek-v5", {"images": True, "documents": True}),
        ("openai-responses", "api.openai.com", "gpt-6-sol",
         {"tool_result_images": True, "allowed_image_mime": COMMON_MIME}),
        ("openai", "dashscope-intl.aliyuncs.com", "text-embedding-v4", {"max_embed_inputs": 10}),
        ("openai-responses", "gpu1", "any", {"allowed_image_mime": PLAIN}),
        ("anthropic", "api.anthropic.com", "claude-sonnet-5-5",
         {"max_images_per_request": 600, "max_image_bytes": 5_000_000,
          "image_bytes_in_base64": True, "max_image_dimension": 8000, "many_images": 20,
          "many_images_dimension": 2000, "max_body_bytes": 32_000_000,
          "allowed_image_mime": COMMON_MIME, "tool_result_images": True, "prefill": False}),
        ("anthropic", "api.anthropic.com", "claude-haiku-4-5",
         {"max_images_per_request": 100, "prefill": True}),
        ("anthropic", "h", "claude-opus-4-5-20251101", {"max_images_per_request": 100}),
        ("anthropic", "h", "claude-haiku-5-5", {"max_images_per_request": 600}),
        ("google", "h", "gemini-3.8-pro",
         {"max_images_per_request": 3000, "max_body_bytes": 20_000_000, "image_urls": None,
          "documents": True, "audio": True}),
        ("google", "h", "gemini-3-pro-image",
         {"max_images_per_request": 14, "max_image_bytes": 7 * MiB}),
        ("google", "h", "gemini-2.5-flash-image",
         {"max_images_per_request": 3, "max_image_bytes": 7 * MiB}),
        ("ollama", "127.0.0.1", "qwen3:30b",
         {"max_images_per_request": None, "max_body_bytes": None, "allowed_image_mime": PLAIN,
          "image_urls": False, "prefill": True}),
        ("ollama", "ollama.com", "gpt-oss:120b", {"max_body_bytes": 20 * MiB}),
        ("ollama", "127.0.0.1", "gpt-oss:120b-cloud", {"max_body_bytes": 20 * MiB}),
        ("llama-swap", "box", "any", {"allowed_image_mime": PLAIN, "prefill": True}),
        ("nothing", "h", "m",
         {"images": True, "max_images_per_request": None, "image_urls": None, "documents": True,
          "audio": True, "tools": True, "reasoning": True}),
    ],
)  # fmt: skip
def test_limits_are_those_that_vendors_publish(family, host, model, facts) -> None:
    found = lookup(family, host, model)
    assert {name: getattr(found, name) for name in facts} == facts


FIELDLESS = {("ollama", "image_urls"), ("ollama", "documents"), ("ollama", "audio"),
             ("anthropic", "audio")}  # fmt: skip
"""What a wire has no field for, so that no server behind it can take it."""


def test_only_a_wire_without_a_field_or_a_row_that_names_the_model_says_no() -> None:
    for row in ROWS:
        refused = {name for name, fact in row.facts.items() if fact is False or fact == 0}
        if row.model == "*":
            assert {(row.family, name) for name in refused} <= FIELDLESS


def test_every_row_has_its_date() -> None:
    assert all(re.fullmatch(r"2026-(0[1-9]|1[0-2])", row.as_of) for row in ROWS)


def test_google_takes_no_gif() -> None:
    assert set(lookup("google", "h", "gemini-3.8-pro").allowed_image_mime) == GOOGLE


def test_every_target_takes_jpeg_or_png_so_that_any_image_can_be_made_to_fit() -> None:
    for row in ROWS:
        host, model = row.host.replace("*", "x"), row.model.replace("*", "x")
        assert fnmatchcase(host, row.host)
        assert {*lookup(row.family, host, model).allowed_image_mime} & {*PLAIN}


def test_later_rows_win_and_overrides_win_over_all() -> None:
    rows = (
        CapabilityRow("a", {"audio": True, "max_images_per_request": 1}),
        CapabilityRow("b", {"audio": False}),
        CapabilityRow("a", {"max_images_per_request": 2}, host="h*", model="m?"),
        CapabilityRow("a", {"max_images_per_request": 3}, host="h*", model="zz"),
    )
    assert lookup("a", rows=rows) == Capabilities(audio=True, max_images_per_request=1)
    assert lookup("a", "h1", "m1", rows).max_images_per_request == 2
    assert lookup("a", "h1", "m1", rows, max_images_per_request=0).max_images_per_request == 0
    assert lookup("a", "x1", "m1", rows).max_images_per_request == 1
    assert lookup("c", rows=rows) == Capabilities()


def test_an_unknown_override_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"unknown capabilities image, max \(known: images, max"):
        lookup("openai", max=1, image=True)


def test_every_fact_is_a_known_one() -> None:
    for row in ROWS:
        assert set(row.facts) <= set(Capabilities.__struct_fields__)


class TestProvider:
    @pytest.mark.parametrize(
        ("url", "host", "cloud"),
        [
            ("https://ollama.com", "ollama.com", True),
            ("https://ollama.com:443/x", "ollama.com", True),
            ("https://ollama.com:8443/x", "ollama.com:8443", True),
            ("http://[::1]:11434", "[::1]:11434", False),
            ("http://[::1]", "[::1]", False),
        ],
    )
    def test_looks_its_host_up_without_the_port(self, url, host, cloud) -> None:
        provider = Provider("x", "ollama", url, OllamaCodec())
        assert provider.host == host
        assert provider.capabilities("m").max_body_bytes == (20 * MiB if cloud else None)

    def test_takes_the_bracketed_address_whole(self) -> None:
        rows = (CapabilityRow("ollama", {"audio": True}, host="[[]::1]"),)
        assert lookup("ollama", "[::1]", "m", rows).audio

    def test_options_win_over_facts_and_facts_over_rows(self) -> None:
        provider = Provider(
            "x", "openai", "https://api.x.ai", OllamaCodec(), capability_family="openai",
            options=DsnOptions(max_images=0, max_image_bytes=10, max_image_dimension=20),
            facts={"max_images_per_request": 5, "documents": True},
        )  # fmt: skip
        found = provider.capabilities("grok-5")
        assert (found.max_images_per_request, found.max_image_bytes) == (0, 10)
        assert (found.max_image_dimension, found.documents, found.audio) == (20, True, True)
        assert provider.max_concurrency is None


class AcmeCodec(OllamaCodec):
    family = "acme"
    rows = (
        CapabilityRow("acme", {"images": False, "max_body_bytes": 5, "audio": True}),
        CapabilityRow("acme", {"images": True}, model="*-vl"),
        CapabilityRow("acme", {"max_body_bytes": 9}, host="big.example"),
        CapabilityRow("openai", {"images": False, "audio": False}),
    )


class TestRowsOfACodec:
    def test_hold_for_a_family_that_has_none_here(self) -> None:
        provider = Provider("a", "acme", "https://big.example:8443/v1", AcmeCodec())
        assert provider.capabilities("m-vl") == Capabilities(max_body_bytes=9, audio=True)
        assert not provider.capabilities("m").images

    def test_give_way_to_what_was_learned_to_facts_and_to_options(self) -> None:
        provider = Provider(
            "a", "acme", "https://x/v1", AcmeCodec(),
            learned={"m": {"images": True, "audio": False, "max_body_bytes": 6}},
            facts={"audio": True, "max_body_bytes": 7}, options=DsnOptions(max_images=3),
        )  # fmt: skip
        assert provider.capabilities("m") == Capabilities(
            audio=True, max_body_bytes=7, max_images_per_request=3
        )

    def test_never_change_a_family_that_has_rows_here(self) -> None:
        own = Provider("a", "acme", "https://x", AcmeCodec(), capability_family="openai")
        assert own.capabilities("m") == lookup("openai", "x", "m")

    def test_are_not_needed(self) -> None:
        codec = OllamaCodec()
        codec.family = "acme"
        assert Provider("a", "acme", "https://x", codec).capabilities("m") == Capabilities()
