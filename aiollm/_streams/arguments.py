"""What the complete text of a call's arguments means: an object, however it is written."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from aiollm._user_types.density import is_dense

MAX_LOOSE = 256 * 1024
"""Characters of arguments that are read although they are not strict JSON, which takes fifteen
times as long, or were encoded twice, which takes three times as long."""


class _Object(msgspec.Struct):
    """Any object; its fields are not read."""


_OBJECT: msgspec.json.Decoder[_Object | str] = msgspec.json.Decoder(_Object | str)
"""Checks all of an object, as any decoder does, but makes no objects of what is in it."""


def object_text(text: str, data: str | bytes) -> str:
    """Return the text of a JSON object, "" if it is not one; some models encode it twice.

    `data` is the same text, in UTF-8 where it has been encoded.
    """
    if len(text) > MAX_LOOSE and text[0] == '"':
        return ""
    try:
        value = _OBJECT.decode(data)
        if isinstance(value, str):
            text = value.strip()
            if is_dense(text):
                return ""
            value = _OBJECT.decode(text)
    except (ValueError, RecursionError):
        return ""
    return text if isinstance(value, _Object) else ""


def restated(pieces: Sequence[str]) -> str:
    """Return the last piece if it is an object and every piece begins with all that came before.

    Some gateways send what there is of the arguments with every event (Baidu's, 2026).
    """
    said = [piece for piece in pieces if piece.strip()]
    if len(said) < 2 or not all(map(str.startswith, said[1:], said)):
        return ""
    last = said[-1].strip()
    return object_text(last, last.encode("utf-8", "replace"))


def loose_object(text: str) -> str:
    """Return as JSON the one object that a complete text means, "" if it is not clear."""
    if text == "null":  # servers in Go write so that there are no arguments (2026)
        return "{}"
    from aiollm._user_types.loose_json import object_in
    from aiollm._wire.lenient import encode  # few models write what needs it

    value = object_in(text)
    if value is None:
        return ""
    try:
        return encode(value).decode()
    except (ValueError, RecursionError):
        return ""
