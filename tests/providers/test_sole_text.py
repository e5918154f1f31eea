"""A prompt of plain text, which is encoded without detours, goes out as any other text does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiollm.dsn import Secret
from aiollm.errors import LLMError
from aiollm.provider import Codec, Provider
from aiollm.providers.anthropic.codec import AnthropicCodec
from aiollm.providers.encoding import sole_text
from aiollm.providers.google.codec import GoogleCodec
from aiollm.providers.ollama.codec import OllamaCodec
from aiollm.providers.openai.chat_codec import ChatCodec
from aiollm.types import (
    ImagePart,
    Message,
    ProviderData,
    Request,
    Target,
    TextPart,
    assistant,
    system,
    user,
)

FOREIGN = ProviderData("elsewhere", {})
"""State that no codec takes: a text with it goes the long way, and is sent without it."""


def sent(codec: Codec, request: Request) -> tuple[str, bytes]:
    """Return the error, or the URL and the body."""
    provider = Provider("p", "x", "https://h/v1", codec, token=Secret("k"))
    try:
        http = codec.encode(provider, Target("p", "model"), request)
    except LLMError as error:
        return repr(error), b""
    return http.url, bytes(http.body or b"")


@pytest.mark.parametrize("codec", [ChatCodec(), AnthropicCodec(), GoogleCodec(), OllamaCodec()])
@given(text=st.text(), prompt=st.sampled_from(["", "be brief"]), limit=st.sampled_from([None, 9]))
def test_the_short_way_sends_what_the_long_one_sends(codec, text, prompt, limit) -> None:
    short, long = (
        Request((user(part),), system=prompt, max_output_tokens=limit)
        for part in (TextPart(text), TextPart(text, provider_data=FOREIGN))
    )
    assert sent(codec, short) == sent(codec, long)
    assert bool(sole_text(short)) == bool(text.strip())
    assert not sole_text(long)


@pytest.mark.parametrize(
    "messages",
    [
        (),
        (user("a"), user("b")),
        (user("a", "b"),),
        (user("a", ImagePart(b"x")),),
        (system("a"),),
        (assistant("a"),),
        (Message("user", ()),),
        (user(" \n"),),
    ],
    ids=repr,
)
def test_any_other_conversation_goes_the_long_way(messages) -> None:
    assert sole_text(Request(messages)) == ""
