"""Texts of a file that is embedded or ranked, with their keys."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from aiollm.errors import ConfigError
from aiollm.types import _shown

_BOM = b"\xef\xbb\xbf"


class Text(NamedTuple):
    """A text and its key: that of its line, or the line's number."""

    key: str
    text: str


def read_texts(path: str, *, lines: bool) -> list[Text]:
    """Return the texts of a file, "-" for standard input. Raises: ConfigError."""
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        reason = f"the texts {path:.200} cannot be read: {error.strerror}"
    else:
        texts = [*_texts(data.removeprefix(_BOM), lines=lines)]
        if texts:
            _check_keys(texts)
            return texts
        reason = f"{path:.200} has no texts"
    raise ConfigError(reason)


def _texts(data: bytes, *, lines: bool) -> Iterator[Text]:
    """Yield the text of each line; only JSON may have empty lines in between."""
    for number, line in enumerate(data.removesuffix(b"\n").split(b"\n"), 1):
        if not line.strip() and (not lines or not data.strip()):
            continue
        try:
            yield _plain(number, line) if lines else _row(number, line)
        except ConfigError as error:
            reason = f"line {number}: {error}"
        else:
            continue
        raise ConfigError(reason)


def _plain(number: int, line: bytes) -> Text:
    try:
        return Text(str(number), _checked(line.removesuffix(b"\r").decode()))
    except UnicodeDecodeError as error:
        reason = f"it is not UTF-8: {error.reason}"
    raise ConfigError(reason)


def _row(number: int, line: bytes) -> Text:
    try:
        said: Any = msgspec.json.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        reason = f"it is not JSON ({error}); if each line is a text, say --lines"
    else:
        match said:
            case str():
                return Text(str(number), _checked(said))
            case {"text": str(text)}:
                return Text(_key(said.get("key"), number), _checked(text))
            case _:
                pass
        reason = f"expected a text, or an object with a 'text', not {_shown(said)}"
    raise ConfigError(reason)


def _key(key: object, number: int) -> str:
    if key is None:
        return str(number)
    if type(key) not in (str, int):
        raise ConfigError(f"its key is {_shown(key)}: expected a text or an integer")
    return str(key)


def _checked(text: str) -> str:
    if not text.strip():
        raise ConfigError("it is empty, and an empty text has no meaning: leave it out")
    return text


def _check_keys(texts: list[Text]) -> None:
    seen: set[str] = set()
    for key, _ in texts:
        if key in seen:
            raise ConfigError(f"two lines have the key {_shown(key)}")
        seen.add(key)
