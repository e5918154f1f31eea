"""Users' types: their JSON schema, values from JSON, and JSON from values.

msgspec knows most of them. pydantic's are known by their methods; pydantic is imported only where a
type needs it, and then the type's own module has imported it before.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import msgspec

T = TypeVar("T")

_SPEAKS = ("model_json_schema", "model_validate_json")
_PATH = re.compile(r" - at `\$([^`]*)`$")
_UNION = re.compile(r"unions .*custom type.* - type `([^`]*)`")
_NOTES = ("pydantic", "pydantic_core", "annotated_types")
_EXPECTED = {
    "model": "object",
    "model_attributes": "object",
    "dataclass": "object",
    "dict": "object",
    "list": "array",
    "tuple": "array",
    "set": "array",
    "frozen_set": "array",
}
"""What msgspec calls the types in pydantic's errors."""

_UNKNOWN = "it is not a type that JSON can hold"


class UnknownType(TypeError):
    """A type that neither msgspec nor pydantic can describe."""


class _Misfit(ValueError):
    """A value that its pydantic type refuses: for each fault its path and what is wrong."""

    def __init__(self, faults: list[tuple[str, str]]) -> None:
        self.faults = faults
        super().__init__("; ".join(message for _, message in faults))


class _Anything(type):
    """The class of stand-ins, whose values may be of any type."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return True


def is_model(kind: Any) -> bool:
    """Return whether a type is read and described by its own methods, as pydantic's models are."""
    return isinstance(kind, type) and all(hasattr(kind, name) for name in _SPEAKS)


def known(kind: Any) -> Any:
    """Return a type that msgspec takes: where only pydantic can read a part, a stand-in for it.

    Raises: UnknownType.
    """
    if hasattr(kind, "__dataclass_fields__") and hasattr(kind, "__pydantic_validator__"):
        return _stand_in(kind)
    origin, given = get_origin(kind), get_args(kind)
    if origin is Annotated and _has_pydantic_notes(kind.__metadata__):
        return _noted(kind)
    args = tuple(known(item) for item in given)
    if origin in (Union, UnionType):
        several = len([item for item in args if item is not type(None)]) > 1
        if several and any(map(is_model, args)):
            return _stand_in(kind)
        return kind if args == given else Union[args]  # noqa: UP007 - the members are not known
    if args == given:
        return kind
    return Annotated[args] if origin is Annotated else origin[args]


def schema(kind: Any) -> dict[str, Any]:
    """Return the JSON schema of a type.

    Raises: TypeError, ValueError, NameError, RecursionError.
    """
    return _resolved(kind, lambda: _schema(kind))


def decode(text: str | bytes, kind: Any) -> Any:
    """Decode strict JSON as a `kind`. Raises: ValueError (msgspec.ValidationError), RecursionError.

    A type that raises anything while its value is built raises ValidationError, too.
    """
    decoder = _resolved(kind, lambda: msgspec.json.Decoder(kind, dec_hook=_read))
    return _asked(lambda: decoder.decode(text), _misfit)


def convert(value: Any, kind: Any) -> Any:
    """Convert plain JSON values to a `kind`. Raises as `decode` does."""
    return _asked(
        lambda: msgspec.convert(value, kind, str_keys=True, dec_hook=_read),
        _misfit,
    )


def plain(value: Any) -> Any:
    """Return what msgspec can encode for a value that it cannot. Raises: TypeError, ValueError."""
    if not (is_model(type(value)) and hasattr(value, "model_dump")):
        raise UnknownType(f"{type(value).__qualname__}: {_UNKNOWN}")
    return _asked(
        lambda: value.model_dump(mode="json", by_alias=True),
        lambda error: ValueError(_named(error)),
    )


def field_default(value: Any, missing: Any) -> Any:
    """Return the default that a parameter's default value stands for, `missing` if none.

    `x: int = pydantic.Field(ge=0)` describes a parameter rather than giving it a value.
    """
    if not is_note(value):
        return value
    return missing if value.is_required() else value.get_default(call_default_factory=True)


def is_note(value: Any) -> bool:
    """Return whether a value is pydantic's description of a field."""
    return _has_pydantic_notes((value,)) and hasattr(value, "get_default")


def _resolved(kind: Any, make: Callable[[], T]) -> T:
    """Make something of a type, also where it refers to types that are local to a function."""
    try:
        return make()
    except (NameError, UnknownType):
        from aiollm._user_types.local import settle  # only types inside functions need it

        settle(kind)
    return make()


def _schema(kind: Any) -> dict[str, Any]:
    definitions: dict[str, Any] = {}

    def hook(foreign: type) -> dict[str, Any]:
        if not is_model(foreign):
            raise UnknownType(f"{foreign.__qualname__} is not supported: {_UNKNOWN}")
        # Each model's definitions have a place of their own, because names may occur twice.
        place = f"{len(definitions)}"
        made = _described(foreign, f"#/$defs/{place}/{{model}}")
        if "$defs" in made:
            definitions[place] = made.pop("$defs")
        return made

    try:
        made = msgspec.json.schema(known(kind), schema_hook=hook)
    except TypeError as error:
        if isinstance(error, UnknownType) or not (union := _UNION.search(str(error))):
            raise
        # What `known` cannot replace, because it is a field of a class of msgspec's.
        reason = f"{union[1]} is not supported here: make it a field of a pydantic model"
    else:
        return made | {"$defs": made.get("$defs", {}) | definitions} if definitions else made
    raise UnknownType(reason)


def _has_pydantic_notes(notes: tuple[Any, ...]) -> bool:
    homes = {type(note).__module__.partition(".")[0] for note in notes}
    return "pydantic" in sys.modules and not homes.isdisjoint(_NOTES)


def _noted(kind: Any) -> Any:
    """Return a stand-in; where pydantic does not know the type, only what describes it stays."""
    try:
        return _stand_in(kind)
    except UnknownType:
        texts = [getattr(note, "description", None) for note in kind.__metadata__]
        meta = msgspec.Meta(description=next(filter(None, texts), None))
        return Annotated[known(kind.__origin__), meta]


def _stand_in(kind: Any) -> Any:
    from pydantic import TypeAdapter  # only types that are pydantic's need it

    adapter: Any = _asked(
        lambda: TypeAdapter(kind),
        lambda error: UnknownType(f"pydantic cannot read {kind!s:.120}: {_first(error)}"),
    )
    name = getattr(kind, "__name__", "") or re.sub(r"[A-Za-z0-9_<>]+\.", "", str(kind))
    methods = (adapter.json_schema, adapter.validate_json)
    return _Anything(name, (), dict(zip(_SPEAKS, methods, strict=True)))


def _described(model: Any, place: str) -> dict[str, Any]:
    made: dict[str, Any] = _asked(
        lambda: model.model_json_schema(ref_template=place),
        lambda error: UnknownType(f"pydantic cannot describe {model.__name__}: {_first(error)}"),
    )
    return made or {"title": model.__name__}


def _read(kind: Any, value: Any) -> Any:
    """Read plain JSON values as a type that msgspec does not know, as its hook."""
    if not is_model(kind):
        raise UnknownType(f"{kind!s:.120} is not supported: {_UNKNOWN}")
    # As JSON, because a strict model takes a text for a date only from there.
    text = msgspec.json.encode(value)
    return _asked(lambda: kind.model_validate_json(text), _faults)


def _asked(call: Callable[[], Any], failed: Callable[[Exception], Exception]) -> Any:
    """Return what a user's type returns; whatever it raises becomes what `failed` makes of it."""
    try:
        return call()
    except RecursionError:
        raise
    except Exception as error:  # noqa: BLE001 - a type's own code may raise anything
        failure = failed(error)
    try:
        raise failure
    finally:
        del failure  # its traceback refers to this frame, which would make a cycle


def _misfit(error: Exception) -> Exception:
    match error:
        case msgspec.ValidationError(__cause__=_Misfit() as misfit):
            return msgspec.ValidationError(_told(error, misfit))
        case msgspec.DecodeError() | UnknownType():
            return error
        case _:
            return msgspec.ValidationError(_named(error))


def _faults(error: Exception) -> Exception:
    errors = getattr(error, "errors", None)
    listed = errors(include_url=False) if callable(errors) else ()
    return _Misfit([_fault(item) for item in listed] or [("", _named(error))])


def _fault(item: dict[str, Any]) -> tuple[str, str]:
    """Return the path and the words of one of pydantic's errors, in msgspec's form."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in item["loc"])
    kind, _, found = str(item["type"]).rpartition("_")
    message = item["msg"]
    if isinstance(item["input"], str) and found in ("type", "parsing") and kind != "string":
        message = f"Expected `{_EXPECTED.get(kind, kind)}`, got `str`"
    return "".join(steps), message


def _told(error: BaseException, misfit: _Misfit) -> str:
    found = _PATH.search(str(error))
    base = found[1] if found else ""
    return "; ".join(
        f"{message} - at `${base}{path}`" if base or path else message
        for path, message in misfit.faults
    )


def _first(error: BaseException) -> str:
    """Return the first sentence of an error; what follows is advice on pydantic's settings."""
    return str(error).partition("\n")[0].partition(". ")[0][:200]


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
