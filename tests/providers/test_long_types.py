"""What a server calls its files is no longer than a type can be, or it is left out."""

from __future__ import annotations

import base64

import msgspec
import pytest

from aiollm.providers.google.decode import GoogleDecoder
from aiollm.providers.openai.chat_decode import ChatDecoder
from aiollm.providers.openai.images_decode import _image

DATA = base64.b64encode(b"some bytes").decode()


def google(mime):
    part = {"inlineData": {"mimeType": mime, "data": DATA}}
    return GoogleDecoder(), {"candidates": [{"content": {"parts": [part]}}]}


def chat(mime):
    image = {"type": "image_url", "image_url": {"url": f"data:{mime};base64,{DATA}"}}
    return ChatDecoder("openai"), {"choices": [{"index": 0, "delta": {"images": [image]}}]}


@pytest.mark.parametrize("wire", [google, chat])
@pytest.mark.parametrize("mime", ["image/" + "x" * 249, "image/" + "x" * 250])
def test_a_type_that_is_too_long_is_left_out(wire, mime):
    decoder, chunk = wire(mime)
    out = []
    decoder.feed([msgspec.json.encode(chunk)], out)
    (image,) = (item.image for item in out)
    assert image.data == b"some bytes"
    assert image.mime == (mime if len(mime) <= 255 else "")


def test_so_is_a_format_that_is_too_long():
    assert _image(b"some bytes", "x" * 1000).mime == ""
    assert _image(b"some bytes", "x").mime == "image/x"
