"""Error bodies: message, code, type and parameter, found in any shape that servers send."""

from __future__ import annotations

import re
from itertools import islice
from typing import Any

import msgspec

from aiollm._user_types.density import LARGE, SHORT, is_small
from aiollm._wire.lenient import encode, load, mend

MAX_WORD = 200
"""Characters of a provider's code or request id that an error shows."""

_MAX_KEYS = 256
"""Keys of an object that are searched for an error's."""

MAX_MESSAGE = 16 * 1024
"""Characters of a message that are read: it is searched many times."""

BASE_RESP = "base_resp"
"""The type of a fault whose code is MiniMax's `base_resp.status_code`, a number of its own."""

_TEXTS = ("message", "detail", "error_description", "msg", "error_msg", "Message")
"""Where a flat body has its text: most have the first, FastAPI `detail`, z.ai `msg`, Baidu
`error_msg`, AWS's gateways `Message` (November 2026)."""

_KINDS = ("type", "status", "error_type", "reason", "__type")
"""Where a flat body has its kind: Novita has `reason`, AWS `__type` (November 2026)."""

_MARKS = (b"error", b"\\u", b'"base_resp"', b'"message"', b'"detail"', b'"success"')
"""What any error has: its name, a key that `is_error` knows, or an escape that may hide it."""

_LONG = 4 * 1024
"""Bytes from which words are found much sooner than an expression."""

_MAYBE_ERROR = re.compile(
    rb'(?i:error)|"message"\s*+:\s*+"|"detail"\s*+:\s*+["\[{]|"base_resp"|"success"|\\u'
)

_NAMED = re.compile(rb'\s*+\{\s*+"(error [^"\\]{1,200}+)"\s*+:\s*+', re.IGNORECASE)
"""How an object begins whose only key names an error."""

_KEYS = frozenset(
    ("error", "errors", "object", "type", "base_resp", "choices", "message", "detail", "success")
)
"""Keys that may make an error, or tell that there is none."""

_READ = (
    *("error", "errors", "object", "base_resp", "choices", "success"),
    *(*_TEXTS, *_KINDS, "code", "error_code", "param", "status_code", "StatusCode", "status_msg"),
    *("details", "metadata", "headers", "raw", "resets_in_seconds", "request_id", "loc"),
)
"""Keys of an object that an error is read from."""

_PARTS: Any = msgspec.json.Decoder(
    msgspec.defstruct(
        "_Parts",
        [(f"at{place}", msgspec.Raw, msgspec.Raw()) for place in range(len(_READ))],
        rename={f"at{place}": name for place, name in enumerate(_READ)},
        gc=False,
    )
)
"""Finds these keys, and makes nothing of others, of which there may be thousands."""

_FIRST: Any = msgspec.json.Decoder(
    msgspec.defstruct(
        "_First",
        [(f"at{place}", msgspec.Raw, msgspec.Raw()) for place in range(16)],
        array_like=True,
        gc=False,
    )
)
"""Finds the first items of a list, such as a validator's of all that it does not like."""


_NONE = msgspec.Raw()


class Fault(msgspec.Struct, frozen=True):
    """The contents of an error body of any shape; all texts may be empty.

    `status` is an HTTP status that the body itself names, 0 where it names none.
    """

    message: str = ""
    code: str = ""
    type: str = ""
    raw: Any = None
    param: str = ""
    status: int = 0


def fault_of(value: Any, depth: int = 4) -> Fault:
    """Find what a decoded error body says, whatever its shape.

    It looks `depth` levels deep, because a decoder may return a deeper nesting than can be walked.
    """
    match value:
        case [first, *_] if depth:
            return fault_of(first, depth - 1)
        case {"error": dict() as inner} if depth:
            return _within(value, fault_of(inner, depth - 1))
        case {"errors": [_, *_] as errors} if depth:
            return _within(value, fault_of(errors, depth - 1))
        case {"base_resp": {"status_code": code} as inner} if code:
            text = _text(inner.get("status_msg"))
            return Fault(mend(text), _word(code), BASE_RESP, value)
        case {"error": str() as message} | {"detail": {"msg": str() as message}}:
            message = message[:MAX_MESSAGE]
            nested = _nested(message) if depth else None
            if nested is not None:  # Ollama and LM Studio pass on the runner's body as a text
                return _within(value, fault_of(nested, depth - 1))
            return _flat(value, message)
        case dict():
            found = (text for name in _TEXTS if (text := _text(value.get(name))))
            message = next(found, "") or named_error(value)
            nested = _nested(message) if depth else None
            if nested is not None and is_error(nested):  # Google's SDK for JavaScript, 2026
                return _within(value, fault_of(nested, depth - 1))
            return _flat(value, message)
        case str():
            return Fault(mend(value[:MAX_MESSAGE]), raw=value)
        case _:
            return Fault(raw=value)


def is_error(value: Any) -> bool:
    """Return whether a decoded frame or body without an answer is an error, whatever its shape."""
    while isinstance(value, list) and value:  # a list may nest deeper than calls may
        value = value[0]
    match value:
        case dict() if _KEYS.isdisjoint(value):  # quicker than so many patterns
            return bool(named_error(value))
        case {"error": error} if error:
            return True
        case {"object": "error"} | {"type": "error"} | {"errors": [_, *_]}:
            return True
        case {"base_resp": {"status_code": code}} if code:
            return True
        case {"choices": _}:
            return False
        case {"message": str()} | {"detail": str() | list() | dict()}:
            return True
        case {"success": False, "msg": str()}:  # z.ai, with status 200 (November 2026)
            return True
        case dict():
            return bool(named_error(value))
        case _:
            return False


def says_error(raw: msgspec.Raw) -> bool:
    """Return whether the field of an error, not decoded yet, has one."""
    if not raw or (data := bytes(raw)) == b"null":
        return False
    # Nothing failed, either, with `false`, `0.0` or `{ }`; what cannot be read says something.
    return not is_small(data) or (value := load(data)) is None or bool(value)


def error_of(raw: msgspec.Raw) -> dict[str, Any]:
    """Return the body of an error whose field was not decoded yet."""
    return {"error": _brief(bytes(raw), 2)}


def load_error(data: bytes, error: msgspec.Raw = _NONE) -> Any:
    """Decode a frame or body that is an error; of a large one, only what is short.

    `error` is its field of this name, if that was found already.
    """
    if is_small(data):
        return load(data)
    around = _around(data, bytes(error)) if error else None
    return _outline(data) if around is None else around | {"error": _brief(bytes(error), 2)}


def _around(data: bytes, error: bytes) -> dict[str, Any] | None:
    """Return what is beside the large field of an error, None if that is not little."""
    at = data.find(error[:SHORT])  # all of it would take long to look for
    if len(data) - len(error) > SHORT or not data.startswith(error, max(0, at)):
        return None
    value = load(b"%b0%b" % (data[:at], data[at + len(error) :]))
    return value if isinstance(value, dict) else None


def error_in(data: bytes) -> Any:
    """Decode a frame or body if it is an error, else return None."""
    if not _may_be_error(data):
        return None
    return value if is_error(value := load_error(data)) else None


def _outline(data: bytes, depth: int = 2) -> Any:
    """Decode what is short in an object, and how what is large begins."""
    try:
        parts = msgspec.structs.astuple(_PARTS.decode(data))
    except (ValueError, RecursionError):
        return load(data)
    given = {name: bytes(raw) for name, raw in zip(_READ, parts, strict=True) if raw}
    if not given.get("errors", b"[").startswith(b"["):
        del given["errors"]  # errors by the names of fields, as ASP.NET has them
    found = {name: _brief(raw, depth) for name, raw in given.items()}
    if (named := _NAMED.match(data)) is not None:
        rest = data[named.end() : named.end() + MAX_MESSAGE]
        found[named[1].decode("utf-8", "replace")] = rest.decode("utf-8", "replace")
    return found


def _brief(raw: bytes, depth: int) -> Any:
    if is_small(raw):
        return load(raw)
    begin = raw[:MAX_MESSAGE].decode("utf-8", "replace")
    match begin[:1]:
        case '"':
            # It may be cut within an escape; those of a surrogate pair are twelve bytes.
            ends = (load(raw[: MAX_MESSAGE - less] + b'"') for less in range(12))
            return next((text for text in ends if text is not None), begin[1:])
        case "{" if depth and (found := _outline(raw, depth - 1)):
            return found
        case "[" if depth:
            items = map(bytes, msgspec.structs.astuple(_FIRST.decode(raw)))
            said = [_brief(each, depth - 1) for each in items if each.startswith((b"{", b'"'))]
            return said or [begin]
        case _:  # it is shown as it is
            return [begin]


def _may_be_error(data: bytes) -> bool:
    if len(data) <= _LONG:
        return _MAYBE_ERROR.search(data) is not None
    if len(data) > 2 * LARGE:  # it may echo a prompt, all of which would take long to search
        data = data[:LARGE] + data[-LARGE:]
    data = data.lower()
    return any(mark in data for mark in _MARKS)


def named_error(value: dict[str, Any]) -> str:
    """Return the words of an error whose key names it, "" if there is none.

    llama.cpp writes `{"error parsing tool call": text}` (2026).
    """
    for key, text in islice(value.items(), _MAX_KEYS):
        if key[:6].lower() == "error ":
            return f"{key}: {text}"
    return ""


def _within(value: Any, inner: Fault) -> Fault:
    """Return what the inner object says as what `value` says, and what a relay adds."""
    code, message = inner.code, inner.message
    match value:
        case {"error": {"metadata": {"raw": str() as raw}}} if raw and raw not in message:
            # OpenRouter: a body or a text
            behind = fault_of(load_error(raw.encode("utf-8", "replace")))
            message = f"{message}: {behind.message or raw}"
            if behind.code and code.isdecimal():
                code = behind.code
        case _:
            pass
    status = inner.status or _status(value)
    return msgspec.structs.replace(inner, message=message, code=code, raw=value, status=status)


def _flat(value: dict[str, Any], message: str) -> Fault:
    detail = value.get("detail")
    kind = next((value[name] for name in _KINDS if value.get(name)), None)
    if not kind and isinstance(detail, dict):  # KoboldCpp
        kind = detail.get("type")
    if isinstance(kind, str):
        kind = kind.rpartition("#")[2]  # AWS puts a name space before it
    code = value.get("code")
    code = value.get("error_code") if code is None else code
    given = value.get("param")
    param = _word(given) if isinstance(given, str) else ""
    if param.count(" ") > 1:  # Xiaomi gives the reason where others name a field (2026)
        message = f"{message}: {param}"
    return Fault(mend(message), _word(code), _word(kind), value, param, _status(value))


def _status(value: dict[str, Any]) -> int:
    status = value.get("status_code") or value.get("StatusCode")  # Ollama, of its cloud (2026)
    return status if type(status) is int and 400 <= status <= 599 else 0


def _nested(message: str) -> dict[str, Any] | None:
    value = load_error(message.encode("utf-8", "replace")) if message.startswith("{") else None
    return value if isinstance(value, dict) else None


def _text(value: Any) -> str:
    """Return a text as it is, and of what validators list each message with its place."""
    try:
        match value:
            case None:
                return ""
            case {"detail": [{"msg": str()}, *_] as problems}:
                return _text(problems)
            case [{"msg": str()}, *_]:
                return "; ".join(map(_problem, value))
            case str():
                return value[:MAX_MESSAGE]
            case dict() | list():
                data = encode(value)  # many times faster, where there is much
                return (
                    str(value)
                    if len(data) <= MAX_MESSAGE
                    else data[:MAX_MESSAGE].decode("utf-8", "replace")
                )
            case _:
                return str(value)
    except (RecursionError, ValueError):
        return ""


def _problem(value: Any) -> str:
    """Return a validator's message without the input that it echoes."""
    match value:
        case {"loc": list() as place, "msg": str() as message}:
            return f"{'.'.join(map(str, place))}: {message}"
        case {"msg": str() as message}:
            return message
        case _:
            return str(value)


def _word(value: Any) -> str:
    match value:
        case bool() | "None":  # LiteLLM's word where there is none (2026)
            return ""
        case str() | int():
            return mend(str(value))[:MAX_WORD]
        case _:
            return ""
