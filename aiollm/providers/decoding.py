"""Shared by all decoders: frames without an answer; tool calls, their ids and arguments."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sized
from typing import Any

import msgspec

from aiollm._user_types.density import SHORT, is_small
from aiollm._wire.lenient import SurrogateJoiner, encode, load, mend
from aiollm.errors import ProtocolError
from aiollm.types import Item, Usage

MAX_CALLS = 512
"""The most tool calls in one answer: to start so many tools takes some ten milliseconds, in which
nothing else runs. Models make a few dozen at most (November 2026)."""


MAX_PARTS = 512
"""The most parts of one frame, such as choices or items of the output, and of those that wait for
the end of their answer: all are read in one go, and each takes some ten microseconds."""

_LONGEST_MIME = 255
"""Characters, as parts of messages accept them."""

_decode = msgspec.json.Decoder().decode


def check_parts(parts: Sized) -> None:
    """Raise ProtocolError if a frame has too many parts of one kind."""
    if len(parts) > MAX_PARTS:
        raise ProtocolError(f"a frame has {len(parts)} parts: at most {MAX_PARTS} are read")


def check_open(parts: Sized) -> None:
    """Raise ProtocolError if more parts of an answer are open than its end could deal with."""
    if len(parts) > MAX_PARTS:
        raise ProtocolError(f"the answer has more than {MAX_PARTS} parts that have not ended")


def one_more_call(calls: int) -> int:
    """Return `calls` + 1. Raises: ProtocolError if an answer may not have so many."""
    if calls >= MAX_CALLS:
        raise ProtocolError(f"the answer has more than {MAX_CALLS} tool calls")
    return calls + 1


def new_call_id() -> str:
    """Return a new id for a tool call that came without one."""
    return f"call_{os.urandom(8).hex()}"


def later_usage(earlier: Usage, later: Usage) -> Usage:
    """Return later counts that lack the input, with the earlier ones where they have none.

    Some servers count the input at the start, and end with zeros (2026).
    """
    names = [name for name in Usage.__struct_fields__ if name not in _NEVER_EARLIER]
    kept = {name: getattr(later, name) or getattr(earlier, name) for name in names}
    billed = earlier.billed_usd if later.billed_usd is None else later.billed_usd
    return Usage(certainty=later.certainty, billed_usd=billed, **kept)


_NEVER_EARLIER = {"certainty", "billed_usd"}


def own_call_id(id: str, taken: set[str]) -> str:  # noqa: A002  the wire's word
    """Return the id that a call came with, a new one if it has none or another call has it.

    `taken` holds the ids of the answer's other calls. Some servers give parallel calls one id, so
    that nobody could say which call a result answers.
    """
    own = id if id and id not in taken else new_call_id()
    taken.add(own)
    return own


def arguments_text(value: Any) -> str:
    """Return a call's arguments as JSON text, "" if there are none; some servers decode them.

    Nothing is made of much that is not decoded yet. Raises: ProtocolError.
    """
    if type(value) is msgspec.Raw:
        if (text := _large_text(value)) is not None:
            return text
        try:
            value = _decode(value) if value else None
        except (ValueError, RecursionError):  # half a surrogate pair, or invalid UTF-8
            value = load(bytes(value))
    match value:
        case str():
            return value
        case None:
            return ""
        case _:
            pass
    try:
        return encode(value).decode()
    except RecursionError:
        pass
    raise ProtocolError("the arguments of a tool call nest too deeply")


def complete_arguments(value: Any) -> str:
    """Return as JSON text the arguments of a call that come at once, as `arguments_text` does.

    No half of a surrogate pair waits for another piece.
    """
    if type(value) is msgspec.Raw and (text := _large_text(value)) is not None:
        return text  # to look for halves in a megabyte would take as long as half of all else
    return mend(arguments_text(value))


def _large_text(raw: msgspec.Raw) -> str | None:
    """Return large JSON that is not a text, without white space; None for anything else."""
    if len(raw) > SHORT:
        data = bytes(raw)
        if not data.startswith(b'"') and not is_small(data):
            return msgspec.json.format(data, indent=-1).decode("utf-8", "replace")
    return None


def flush(
    joiner: SurrogateJoiner, kinds: Mapping[str, Callable[[str], Item]], out: list[Item]
) -> None:
    """Emit the surrogates that never got their other half; `kinds` are those of the fields."""
    for field, kind in kinds.items():
        if text := joiner.flush(field):
            out.append(kind(text))


def mime_in(text: str) -> str:
    """Return the MIME type that a service says, "" if it is longer than any."""
    return mend(text) if len(text) <= _LONGEST_MIME else ""


def says_nothing(frame: bytes) -> bool:
    """Return whether a frame is blank or `null`, as some servers send to keep a stream open."""
    return frame.strip() in (b"", b"null")


def is_done(frame: bytes) -> bool:
    """Return whether a frame is `[DONE]`, the end mark of chat, in any spelling."""
    return frame[:32].strip()[:6].upper() == b"[DONE]"


def is_unreadable(frame: bytes) -> bool:
    """Return whether a frame cannot be an event: a word, a number, raw JSON between events.

    After the finish it does not matter; before it, it is an error.
    """
    return not frame.lstrip().startswith(b"{")
