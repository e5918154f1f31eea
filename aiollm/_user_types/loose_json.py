"""JSON as models write it: among words, after thinking, with comments, in Python, encoded twice.

It is read only where the strict reading failed, and only where it can mean one thing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec

from aiollm._user_types.density import is_dense
from aiollm._user_types.hooks import convert

if TYPE_CHECKING:
    from json import JSONDecoder

MAX_VALUES = 32
"""The most places of one text at which a value may begin."""

MAX_ENCODED = 3
"""How often a value may have been encoded as text."""

MAX_MENDED = 256
"""The most values of one text that are mended to fit."""

MAX_MARKS = 8192
"""The most marks in a text that is tidied: each takes a step of Python, and all of them hold up the
event loop for ten milliseconds at most."""

THINKING = ("think", "thinking", "thought")
"""The tags that models think in."""

CLOSED = re.compile(rf"</(?:{'|'.join(THINKING)})>", re.IGNORECASE)
_OPENED = re.compile(rf"\s*<(?:{'|'.join(THINKING)})>", re.IGNORECASE)
_OPENER = re.compile(r"[{\[]")
_EMPTY_FIRST = re.compile(r"\s*+\{\s*+\}(?=\s*+\{)")
_COMMENTS = re.compile(r'"(?:[^"\\]++|\\.)*+"?|//[^\n]*+|/\*.*?(?:\*/|\Z)', re.DOTALL)
_COMMAS = re.compile(r'"(?:[^"\\]++|\\.)*+"?|,(?=\s*+[}\]])', re.DOTALL)
_PYTHON = re.compile(
    r""""(?:[^"\\]++|\\.)*+"?|'((?:[^'\\]++|\\.)*+)('?)|\b(True|False|None)\b""", re.DOTALL
)
_QUOTES = re.compile(r"""(\\')|\\.|(")""", re.DOTALL)
_BRACKETS = re.compile(r"[{}\[\]]")
_MISFIT = re.compile(r"Expected `([^`]*)`, got `(\w+)`(?: - at `\$([^`]*)`)?")
_NULL = re.compile(r"Invalid enum value '(?:null|None)'(?: - at `\$([^`]*)`)?")
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+)\]|\[(\.\.\.)\]")
_SCALARS = ("str", "int", "float", "bool")
_WORD = re.compile(r"[^\s,;|\[{]+")
_MARKS = ('"', "'", "\\", "/", ",", "True", "False", "None")
"""What tidying stops at."""
_WORDS = {"True": "true", "False": "false", "None": "null"}
"""Constants as Python spells them, and JSON."""


def decode_numbers(text: str | bytes) -> Any:
    """Decode strict JSON; 3.0 becomes the integer 3, as JSON schema defines it.

    Raises: ValueError.
    """
    return _NUMBERS.decode(text)


def _number(text: str) -> int | float:
    value = float(text)
    return int(value) if value.is_integer() else value


_NUMBERS = msgspec.json.Decoder(float_hook=_number)


def _refuse(name: str) -> Any:
    raise ValueError(name)


# Not strict: a text of several lines often has them as they are.
@cache
def _value() -> JSONDecoder:
    from json import JSONDecoder  # what most answers do without

    return JSONDecoder(strict=False, parse_float=_number)


@cache
def _arguments() -> JSONDecoder:
    from json import JSONDecoder  # as above

    return JSONDecoder(strict=False, parse_constant=_refuse)


def after_thinking(text: str) -> str:
    """Return the text after its think blocks, "" if one does not end."""
    *_, end = [0, *(found.end() for found in CLOSED.finditer(text))]
    return "" if not end and _OPENED.match(text) else text[end:]


def values_in(text: str) -> Iterator[Any]:
    """Yield the JSON objects and arrays among words; none if the last one is cut."""
    begin = _OPENER.search(text)
    for tidied in _tidied(text[begin.start() :]) if begin else ():
        if found := list(_scan(tidied)):
            yield from found
            return


def object_in(text: str) -> dict[str, Any] | None:
    """Return the one JSON object of a text, None if there is none, or anything but words with it.

    The text may have been encoded repeatedly.
    """
    for _ in range(MAX_ENCODED):
        if is_dense(text):
            return None
        value = _decoded(text)
        if not isinstance(value, str):
            break
        text = value
    text = _once(after_thinking(text))
    begin = _OPENER.search(text)
    # What comes later could be a part of an object that cannot be read.
    for tidied in _tidied(text[begin.start() :]) if begin else ():
        try:
            value, end = _arguments().raw_decode(tidied)
        except (ValueError, RecursionError):
            continue
        return value if isinstance(value, dict) and not _BRACKETS.search(tidied, end) else None
    return None


def _once(text: str) -> str:
    """Return a text without an empty object at its start, and the half of one that is said twice.

    Gateways to Bedrock send the former where a call begins, others send all arguments again (2026).
    """
    if (nothing := _EMPTY_FIRST.match(text)) is not None:
        text = text[nothing.end() :]
    half = len(text) // 2
    return text[:half] if text[:half] == text[half:] else text


def _decoded(text: str) -> Any:
    try:
        return _arguments().decode(text.strip())
    except (ValueError, RecursionError):
        return None


def _tidied(text: str) -> Iterator[str]:
    """Yield a text, then without comments and commas too many, then with Python's quotes too."""
    yield text
    if sum(map(text.count, _MARKS)) > MAX_MARKS:
        return
    yield _COMMAS.sub(_without, _COMMENTS.sub(_without, text))
    plain = _PYTHON.sub(_from_python, text)
    yield _COMMAS.sub(_without, _COMMENTS.sub(_without, plain))


def _from_python(found: re.Match[str]) -> str:
    if found[3]:
        return _WORDS[found[3]]
    if not found[2]:
        return found[0]
    text = _QUOTES.sub(lambda each: "'" if each[1] else '\\"' if each[2] else each[0], found[1])
    return f'"{text}"'


def fit(value: Any, kind: Any) -> Any:
    """Convert a value, reading texts as JSON where `kind` takes no text: "2" as 2.

    A number or one word is a list of one where `kind` takes a list.

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
    from json import JSONDecodeError  # as above

    at = 0
    for _ in range(MAX_VALUES):
        opener = _OPENER.search(text, at)
        if opener is None:
            return
        try:
            value, at = _value().raw_decode(text, opener.start())
        except JSONDecodeError as error:
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
    """Change the value that `reason` names to what it can only mean; return whether it changed."""
    if none := _NULL.search(reason):
        return _replaced(value, _STEP.findall(none[1] or ""), _read)
    found = _MISFIT.search(reason)
    if found is None:
        return value, False
    wanted, got, steps = found[1].split(" | "), found[2], _STEP.findall(found[3] or "")
    if "array" in wanted and got in _SCALARS:
        return _replaced(value, steps, _listed)
    if got == "str" and "str" not in wanted:
        return _replaced(value, steps, _read)
    return value, False


def _replaced(
    value: Any, steps: list[tuple[str, str, str]], change: Callable[[Any], tuple[Any, bool]]
) -> tuple[Any, bool]:
    if not steps:
        return change(value)
    (name, index, every), *rest = steps
    match value:
        case dict() if every:
            made = {key: _replaced(item, rest, change) for key, item in value.items()}
            return {key: item for key, (item, _) in made.items()}, any(
                changed for _, changed in made.values()
            )
        case dict() if name in value:
            item, changed = _replaced(value[name], rest, change)
            return value | {name: item}, changed
        case list() if every:
            items = [_replaced(item, rest, change) for item in value]
            return [item for item, _ in items], any(changed for _, changed in items)
        case list() if index and int(index) < len(value):
            item, changed = _replaced(value[int(index)], rest, change)
            return [*value[: int(index)], item, *value[int(index) + 1 :]], changed
        case _:
            return value, False


def _listed(value: Any) -> tuple[Any, bool]:
    """Return the list that a text holds, or a number or one word as a list of one.

    Several words may be several items, and an object may be what holds the list.
    """
    read, changed = _read(value)
    if changed and (read is None or isinstance(read, list | dict)):
        return read, True
    if isinstance(value, list | dict) or (isinstance(value, str) and not _WORD.fullmatch(value)):
        return value, False
    return [value], True


def _read(text: Any) -> tuple[Any, bool]:
    if not isinstance(text, str):
        return text, False
    text = text.strip()
    if text in _WORDS:
        return _WORDS[text], True
    value: Any = text
    for _ in range(MAX_ENCODED):
        if is_dense(value):
            return text, False
        try:
            value = decode_numbers(value)
        except (ValueError, RecursionError):
            break
        if not isinstance(value, str):
            return value, True
    if text[:1] in ("[", "{"):
        for tidied in _tidied(text):
            with suppress(ValueError, RecursionError):
                return _value().decode(tidied), True
    return text, False
