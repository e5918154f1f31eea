"""Rows from the lines of a JSONL file: prompts, keyed objects, conversations, saved requests."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from aiollm._bulk.source import MapRow, Placed
from aiollm._serialization import from_json
from aiollm._wire.lenient import encode
from aiollm.errors import ConfigError
from aiollm.providers.openai.histories import messages_from_openai
from aiollm.types import ImagePart, Message, Request, _shown, user

_BOM = b"\xef\xbb\xbf"

_BITE = 1 << 16

_FIELDS = tuple(name for name in Request.__struct_fields__ if name not in {"messages", "tools"})
"""Fields of a line that are settings of its request; all others are the user's own."""


class LineFormat(msgspec.Struct, frozen=True):
    """Which field of a line is its prompt, and which holds images: paths, URLs, or a list of them.

    Paths are relative to `folder`.
    """

    prompt: str = "prompt"
    image: str | None = None
    folder: str = ""


def read_rows(fd: int, form: LineFormat) -> Iterator[Any]:
    """Yield the rows of an open file, with the numbers of their lines; empty lines are left out.

    What a line says wrong is a ConfigError in place of its row. Raises: OSError.
    """
    for number, line in enumerate(_lines(fd), 1):
        if number == 1:
            line = line.removeprefix(_BOM)  # noqa: PLW2901
        if line.strip():
            yield Placed(number, _row(line, form))


def _lines(fd: int) -> Iterator[bytes]:
    """Yield lines without Python's own buffer: a thread that holds its lock breaks the exit."""
    rest: list[bytes] = []  # a line of many megabytes must not be copied with each bite
    while bite := os.read(fd, _BITE):
        first, *more = bite.split(b"\n")
        rest.append(first)
        for piece in more:
            yield b"".join(rest)
            rest = [piece]
    yield b"".join(rest)


def _row(line: bytes, form: LineFormat) -> MapRow:
    try:
        return _request(_decoded(line), form)
    except ConfigError as error:
        return error
    except (OSError, ValueError, TypeError, RecursionError) as error:
        return ConfigError(f"{error}")


def _decoded(line: bytes) -> Any:
    """Return what a line says. Raises: ConfigError."""
    try:
        return msgspec.json.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        reason = f"it is not JSON: {error}"
    with suppress(ValueError, RecursionError):
        return json.loads(line.decode())  # Python also writes NaN, and halves of characters
    raise ConfigError(reason)


def _request(said: Any, form: LineFormat) -> MapRow:
    if isinstance(said, str):
        return said
    if not isinstance(said, dict):
        raise ConfigError(f"expected a text or an object, not {_shown(said)}")
    request = _asked(said, form)
    key = said.get("key", said.get("id"))
    if key is None:
        return request
    if type(key) not in (str, int):
        raise ConfigError(f"its key is {_shown(key)}: expected a text or an integer")
    return key, request


def _asked(said: dict[str, Any], form: LineFormat) -> Request:
    messages = said.get("messages")
    if isinstance(messages, list) and any("parts" in each for each in messages if each):
        return from_json(encode(said), Request)
    settings = {name: said[name] for name in _FIELDS if name in said}
    images = [*_images(said.get(form.image or ""), form)]
    if messages is not None:
        history = messages_from_openai(messages)
        return Request([*history, *([user(*images)] if images else [])], **settings)
    prompt = said.get(form.prompt)
    if not isinstance(prompt, str):
        has = "it has neither (--prompt-field names another field)"
        if form.prompt in said:
            has = f"{form.prompt!r} is {_shown(prompt)}"
        raise ConfigError(f"expected a text as {form.prompt!r}, or a list as 'messages': {has}")
    return Request([Message("user", [*images, prompt])], **settings)


def _images(given: Any, form: LineFormat) -> Iterator[ImagePart]:
    for each in given if isinstance(given, list) else [] if given is None else [given]:
        if not isinstance(each, str):
            raise ConfigError(f"{form.image!r} is {_shown(each)}: expected a path or a URL")
        if each.startswith(("http://", "https://")):
            yield ImagePart(url=each)
        elif each.startswith("data:"):
            part = {"type": "image_url", "image_url": {"url": each}}
            (message,) = messages_from_openai([{"role": "user", "content": [part]}])
            yield from (part for part in message.parts if isinstance(part, ImagePart))
        else:
            yield ImagePart.from_path(Path(form.folder, each))
