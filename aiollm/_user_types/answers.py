"""Answers as typed values: read strictly first, then as models write JSON."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import msgspec

from aiollm._user_types.density import is_dense
from aiollm._user_types.hooks import convert, decode
from aiollm._user_types.loose_json import after_thinking, decode_numbers, fit, values_in

Take: TypeAlias = Callable[[Any], Any]
"""Takes what was asked for out of a value."""

_FENCE = re.compile(r"```(?:json\b|\w*\s*\n)", re.IGNORECASE)
"""What JSON in a Markdown fence, a common answer where no schema is enforced, begins with."""

_CUT = ("length", "content_filter", "error", "tool_calls")
"""Finish reasons of answers that go on elsewhere, of which a part must not pass for all."""


def itself(value: Any) -> Any:
    """Return a value as it is."""
    return value


def read(text: str, kinds: Sequence[tuple[Any, Take]], finish_reason: str | None) -> Any:
    """Return what an answer says, as the first of `kinds` that it fits.

    Raises: ValueError or RecursionError, with the reason why it is not of the first kind.
    """
    if finish_reason in _CUT and text[-1:].isdigit():
        raise ValueError("it was cut, and a number at its end may lack digits")
    inner = _unfenced(text)
    if is_dense(inner):
        raise ValueError("it is too large: the event loop would stand still while it is read")
    failure: ValueError | RecursionError | None = None
    for kind, take in kinds:
        try:
            return take(_decode(inner, kind))
        except (ValueError, RecursionError) as error:
            failure = failure or error
    if finish_reason not in _CUT and (values := _loose(text, kinds)):
        return values[0]
    assert failure is not None
    is_misfit = isinstance(failure, msgspec.ValidationError)
    if isinstance(failure, msgspec.DecodeError) and not is_misfit:
        failure = ValueError(f"it is not JSON: {failure}")
    try:
        raise failure
    finally:
        del failure  # its traceback refers to this frame, which would make a cycle


def _decode(text: str, kind: Any) -> Any:
    """Decode JSON; 3.0 is an integer to JSON schema, but not to msgspec. Raises: ValueError."""
    try:
        return decode(text, kind)
    except msgspec.ValidationError:
        with contextlib.suppress(ValueError):
            return convert(decode_numbers(text), kind)
        raise


def _loose(text: str, kinds: Sequence[tuple[Any, Take]]) -> list[Any]:
    """Return the one value that fits, among words and after thinking; none if several do."""
    text = after_thinking(text)
    fitting: list[Any] = []
    for value in _sole(_unfenced(text)) or values_in(text):
        for kind, take in kinds:
            with contextlib.suppress(ValueError, RecursionError):
                fitting.append(take(fitted(value, kind)))
                break
    return fitting[:1] if all(other == fitting[0] for other in fitting) else []


def _unfenced(text: str) -> str:
    """Return what is inside of a fence that holds all of the text, else the text."""
    # No expression looks for the end: a model may send white space up to its limit, and each place
    # in it would be tried as the end of what the fence holds.
    inner = text.strip()
    begin = _FENCE.match(inner)
    if begin and inner.endswith("```") and begin.end() <= len(inner) - 3:
        return inner[begin.end() : -3].rstrip()
    return text


def _sole(text: str) -> list[Any]:
    """Return the value that a text is, also where it was encoded several times."""
    with contextlib.suppress(ValueError, RecursionError):
        return [decode_numbers(text.strip())]
    return []


def fitted(value: Any, kind: Any) -> Any:
    """Return JSON's values as a `kind`, also the only one of a list. Raises: ValueError."""
    try:
        return fit(value, kind)
    except msgspec.ValidationError:
        if not isinstance(value, list) or len(value) != 1:
            raise
    return fit(value[0], kind)
