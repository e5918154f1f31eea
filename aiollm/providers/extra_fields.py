"""The field `extra` of requests: the scopes of its fields, and which fields one target gets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from aiollm._validation import BRINGING, any_of, check
from aiollm.errors import ConfigError, UnsupportedError
from aiollm.images import ImageRequest
from aiollm.spec import KnownNames, refuse_address
from aiollm.types import MAX_NAME, Request, Target

ALL = "*"
WIRE = "wire:"

_WIRES = {
    "openai": ("openai", "openai-chat"),
    "openai-responses": ("openai", "openai-responses"),
}
"""The wires of families that have two: all that OpenAI's have in common, and one for chat alone."""

WIRES = ("anthropic", "google", "ollama", "openai", "openai-chat", "openai-responses")
"""The wires that need no provider to be known."""

_LEANED_ON = (*BRINGING, "tools")
"""Fields without which a request may be one that cannot be sent."""


def wires_of(family: str) -> tuple[str, ...]:
    """Return the wires that a codec's family is of, the more exact one last."""
    return _WIRES.get(family, (family,))


def request_for(request: Request, family: str, target: Target) -> Request:
    """Return a request with the fields for one target as its `extra`.

    Raises: UnsupportedError where it cannot be sent without fields that only others get.
    """
    extra = request.extra
    fields = fields_of(extra, wires_of(family), target)
    missing = [name for name in _LEANED_ON if any_of((name,), extra) and not fields.get(name)]
    if missing and (reason := _fault(msgspec.structs.replace(request, extra=fields))):
        raise UnsupportedError(f"extra has no {' or '.join(missing)} for {target}: {reason}")
    return msgspec.structs.replace(request, extra=fields)


def _fault(request: Request) -> str:
    try:
        check(request)
    except ConfigError as error:
        return error.message
    return ""


def image_request_for(request: ImageRequest, family: str, target: Target) -> ImageRequest:
    """Return a request with the fields for one target as its `extra`."""
    fields = fields_of(request.extra, wires_of(family)[:1], target)
    return msgspec.structs.replace(request, extra=fields)


def fields_of(extra: Mapping[str, Any], wires: Iterable[str], target: Target) -> dict[str, Any]:
    """Return the fields for one target; each scope replaces fields of those before it."""
    fields: dict[str, Any] = {}
    for scope in (ALL, *(WIRE + each for each in wires), target.provider, str(target)):
        if scope in extra:
            fields.update(extra[scope])
    return fields


def check_extra(
    extra: Mapping[str, Any], names: KnownNames, wires: Callable[[], Iterable[str]]
) -> None:
    """Check that each scope exists and maps names to values; `wires` finds those of providers.

    Raises: ConfigError, for fields without a scope with the form that they should have.
    """
    strange = [scope for scope in extra if not _exists(scope, names, wires)]
    if strange:
        for scope in strange:
            refuse_address(scope)
        first, is_any_known = strange[0], len(strange) < len(extra)
        if _is_field(first, extra[first], names, is_any_known=is_any_known):
            raise ConfigError(_how_to_write(first) + _hint(first, names))
        raise ConfigError(_unknown(first, names, wires))
    for scope, fields in extra.items():
        if not isinstance(fields, Mapping) or not all(isinstance(name, str) for name in fields):
            raise ConfigError(f"extra[{scope!r}] must map field names of the wire body to values")


def _exists(scope: str, names: KnownNames, wires: Callable[[], Iterable[str]]) -> bool:
    if scope.startswith(WIRE):
        wire = scope.removeprefix(WIRE)
        return wire in WIRES or wire in wires()
    provider, slash, model = scope.partition("/")
    return scope == ALL or (names.is_provider(provider) and bool(slash) == bool(model))


def _is_field(key: str, value: object, names: KnownNames, *, is_any_known: bool) -> bool:
    """Return whether what should be a scope is rather a field of the body."""
    if not isinstance(value, Mapping):
        return True
    return not (is_any_known or "/" in key or key.startswith(WIRE) or names.alias(key) is not None)


def _how_to_write(field: str) -> str:
    return (
        f"extra needs a scope, which says who gets its fields: write extra={{'*': "
        f"{{{_short(field)}: ...}}}} for every target, or instead of '*' a wire ('wire:openai'), "
        "a provider ('box') or a target ('box/model')"
    )


def _unknown(scope: str, names: KnownNames, wires: Callable[[], Iterable[str]]) -> str:
    if scope.startswith(WIRE):
        known = sorted({*WIRES, *wires()})
        close = _closest(scope.removeprefix(WIRE), known, WIRE)
        return f"extra has an unknown wire {_short(scope)}{close or f' (known: {_joined(known)})'}"
    provider, slash, model = scope.partition("/")
    if slash and not model and names.is_provider(provider):
        return f"extra has a target without a model, {_short(scope)}: write {_short(provider)}"
    return f"extra has an unknown provider in {_short(scope)}{_hint(scope, names)}"


def _hint(scope: str, names: KnownNames) -> str:
    """Return what else a scope may have been meant to be, "" if nothing is like it."""
    provider, slash, model = scope.partition("/")
    if not slash and names.alias(provider) is not None:
        return f"; {_short(provider)} is an alias: name its providers or targets"
    known = [each for each in names.all() if names.is_provider(each)]
    return _closest(provider, known, after=slash + model)


def _closest(name: str, known: Iterable[str], before: str = "", after: str = "") -> str:
    from difflib import get_close_matches  # most programs never need it

    close = get_close_matches(name, known, 1) if len(name) <= MAX_NAME else []
    return f"; did you mean {_short(before + close[0] + after)}?" if close else ""


def _short(name: str) -> str:
    return f"{name!r:.80}"


def _joined(names: Iterable[str]) -> str:
    return f"{', '.join(names):.200}"
