"""JSON as models write it: among words, after thinking, with comments, encoded twice.

It is read only where the strict reading failed, and only where it can mean one thing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from aiollm._user_types import convert
from aiollm._wire.lenient import decode_numbers

MAX_VALUES = 32
"""The most places of one text at which a value may begin."""

MAX_MENDED = 256
"""The most values of one text that are mended to fit."""

_OPENED = re.compile(r"\s*<(think|thinking|thought)>", re.IGNORECASE)
_CLOSED = re.compile(r"</(?:think|thinking|thought)>", re.IGNORECASE)
_OPENER = re.compile(r"[{\[]")
_COMMENTS = re.compile(r'"(?:[^"\\]++|\\.)*+"?|//[^\n]*+|/\*.*?(?:\*/|\Z)', re.DOTALL)
_COMMAS = re.compile(r'"(?:[^"\\]++|\\.)*+"?|,(?=\s*+[}\]])', re.DOTALL)
_MISFIT = re.compile(r"Expected `([^`]*)`, got `str`(?: - at `\$([^`]*)`)?")
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+)\]|\[(\.\.\.)\]")
_WORDS = {"True": True, "False": False, "None": None}
"""Constants as Python spells them."""


def _number(text: str) -> int | float:
    value = float(text)
    return int(value) if value.is_integer() else value


_VALUE = json.JSONDecoder(parse_float=_number)


def after_thinking(text: str) -> str:
    """Return the text after its think blocks, "" if one does not end."""
    *_, end = [0, *(found.end() for found in _CLOSED.finditer(text))]
    return "" if not end and _OPENED.match(text) else text[end:]


def values_in(text: str) -> Iterator[Any]:
    """Yield the JSON objects and arrays among words; none if the last one is cut."""
    found = list(_scan(text))
    if not found and (begin := _OPENER.search(text)):
        text = _COMMENTS.sub(_without, text[begin.start() :])
        found = list(_scan(_COMMAS.sub(_without, text)))
    yield from found


def fit(value: Any, kind: Any) -> Any:
    """Convert a value, reading texts as JSON where `kind` takes no text: "2" as 2.

    Raises: msgspec.ValidationError.
    """
    for _ in range(MAX_MENDED):
        try:
            return convert(value, kind)
        except msgspec.ValidationError as error:
            value, mended = _mended(value, str(error))
            if not mended:
                raise
    return convert(value, kind)


def _scan(text: str) -> Iterator[Any]:
    at = 0
    for _ in range(MAX_VALUES):
        opener = _OPENER.search(text, at)
        if opener is None:
            return
        try:
            value, at = _VALUE.raw_decode(text, opener.start())
        except json.JSONDecodeError as error:
            # What begins inside a value that cannot be read is only a part of it.
            at = max(error.pos, opener.end())
            if not text[at:].strip():
                return
        except RecursionError:
            return
        else:
            if text[at:].lstrip()[:1] not in ("}", "]", ",", ":"):
                yield value


def _without(found: re.Match[str]) -> str:
    return found[0] if found[0].startswith('"') else " "


def _mended(value: Any, reason: str) -> tuple[Any, bool]:
    """Read the text in `reason` as JSON; return the new value, and whether it changed."""
    found = _MISFIT.search(reason)
    if found is None or "str" in found[1].split(" | "):
        return value, False
    return _replaced(value, _STEP.findall(found[2] or ""))


def _replaced(value: Any, steps: list[tuple[str, str, str]]) -> tuple[Any, bool]:
    if not steps:
        return _read(value) if isinstance(value, str) else (value, False)
    (name, index, every), *rest = steps
    match value:
        case dict() if every:
            made = {key: _replaced(item, rest) for key, item in value.items()}
            return {key: item for key, (item, _) in made.items()}, any(
                changed for _, changed in made.values()
            )
        case dict() if name in value:
            item, changed = _replaced(value[name], rest)
            return value | {name: item}, changed
        case list() if every:
            items = [_replaced(item, rest) for item in value]
            return [item for item, _ in items], any(changed for _, changed in items)
        case list() if index and int(index) < len(value):
            item, changed = _replaced(value[int(index)], rest)
            return [*value[: int(index)], item, *value[int(index) + 1 :]], changed
        case _:
            return value, False


def _read(text: str) -> tuple[Any, bool]:
    text = text.strip()
    if text in _WORDS:
        return _WORDS[text], True
    try:
        value = decode_numbers(text)
    except (ValueError, RecursionError):
        return text, False
    return value, not isinstance(value, str)
