"""Schemas: inline a type's or given JSON schema, and adapt it to a provider's strict mode."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, get_args, get_origin

import msgspec

from aiollm._user_types import hooks
from aiollm._wire.references import Schema, inline
from aiollm.errors import ConfigError, UnsupportedError

_TYPES = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    type(None): "null",
}


class _Dialect(msgspec.Struct, frozen=True):
    """What a provider's strict mode supports; other keywords move to the description."""

    name: str
    keywords: frozenset[str]
    formats: frozenset[str]
    all_required: bool
    """Whether every property must be required, so that null means an absent one."""
    recursive: bool
    """Whether a schema may refer to itself (OpenAI does, Anthropic does not; November 2026)."""
    most_min_items: int | None = None


_FORMATS = frozenset(
    {
        "date-time",
        "time",
        "date",
        "duration",
        "email",
        "hostname",
        "ipv4",
        "ipv6",
        "uuid",
    }
)
_COMMON = frozenset({"title", "description", "enum", "const"})
_OPENAI = _Dialect(
    "OpenAI's strict mode",
    _COMMON
    | {
        "pattern",
        "multipleOf",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "minItems",
        "maxItems",
    },
    _FORMATS,
    all_required=True,
    recursive=True,
)
_ANTHROPIC = _Dialect(
    "Anthropic's structured output",
    _COMMON | {"minItems"},
    _FORMATS | {"uri"},
    all_required=False,
    recursive=False,
    most_min_items=1,
)


_LOOKS_AROUND = re.compile(r"\(\?(?:[=!]|<[=!])")


def schema_name(kind: Any) -> str:
    """Return a name for a type's schema: at most 64 characters of A-Z, a-z, 0-9, `_` and `-`."""
    match kind:
        case Mapping():
            name = str(kind.get("title", ""))
        case type() if not get_args(kind):
            name = kind.__name__
        case _ if get_origin(kind) is Annotated:
            return schema_name(get_args(kind)[0])
        case _:
            name = re.sub(r"[A-Za-z0-9_<>]+\.", "", _text(kind))
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_")[:64] or "output"


def json_schema(kind: Any) -> dict[str, Any]:
    """Return the inlined schema of a type or schema, whose root must be an object.

    Only objects are accepted by every provider. Raises: ConfigError.
    """
    schema = type_schema(kind)
    if "properties" in schema:
        schema.setdefault("type", "object")
    if schema.get("type") != "object":
        raise ConfigError(
            f"{_shown(kind)} does not describe an object, as providers require: "
            "make it a field of a Struct"
        )
    return schema


def type_schema(kind: Any) -> Schema:
    """Return the schema of a type, or a given schema, with references inlined.

    Only what refers to itself stays a `$ref` into `$defs`. Raises: ConfigError.
    """
    schema = dict(kind) if isinstance(kind, Mapping) else _generated(kind)
    return inline(schema, _shown(kind))


def strict(schema: Schema) -> Schema:
    """Return the schema as OpenAI's strict mode requires it.

    Every object is closed and requires all its properties; a property that was optional and has
    no default may be null. Raises: UnsupportedError for what strict mode cannot express, such as
    an object with free keys.
    """
    return _fitted(schema, _OPENAI)


def bounded(schema: Schema) -> Schema:
    """Return the schema as Anthropic's structured output requires it.

    Every object is closed; bounds on numbers, strings and lists move to the description.
    Raises: UnsupportedError for what it cannot express, such as an object with free keys.
    """
    return _fitted(schema, _ANTHROPIC)


def loosened(schema: Schema) -> tuple[Schema, list[str]]:
    """Return a schema that Gemini takes, and the properties that are no longer required in it.

    Gemini unrolls what contains itself to some depth, and leaves out there what goes on. So it
    takes a reference only in a property that is not required (its reference, November 2026).
    """
    names: list[str] = []
    definitions = schema.get("$defs")
    if not definitions:
        return schema, names
    made = {name: _loosened(item, names) for name, item in definitions.items()}
    return schema | {"$defs": made}, list(dict.fromkeys(names))


def _loosened(schema: Any, names: list[str]) -> Any:
    """Leave the properties that hold a reference, outside their own properties, optional."""
    if isinstance(schema, list):
        return [_loosened(item, names) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    made = {key: _loosened(item, names) for key, item in schema.items() if key != "properties"}
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        return made
    made["properties"] = {name: _loosened(item, names) for name, item in properties.items()}
    loops = [name for name in schema.get("required", ()) if _refers(properties.get(name))]
    if loops:
        names += loops
        made["required"] = [name for name in schema["required"] if name not in loops]
    return made


def _refers(schema: Any) -> bool:
    """Return whether a schema holds a reference that is not inside one of its properties."""
    if isinstance(schema, list):
        return any(map(_refers, schema))
    if not isinstance(schema, Mapping):
        return False
    return "$ref" in schema or any(
        _refers(item)
        for key, item in schema.items()
        if key not in ("properties", "default", "enum")
    )


def _generated(kind: Any) -> Schema:
    reason = ""
    try:
        return hooks.schema(kind)
    except (TypeError, ValueError, NameError, RecursionError) as error:
        reason = f"cannot make a JSON schema of {_shown(kind)}: {error}"
    raise ConfigError(reason)


def _shown(kind: Any) -> str:
    match kind:
        case Mapping():
            return f"the JSON schema {kind.get('title', '')!s:.60}".rstrip()
        case type() if not get_args(kind):
            return kind.__qualname__
        case _:
            return f"{_text(kind):.120}"


def _text(kind: Any) -> str:
    try:
        return str(kind)
    except Exception:  # noqa: BLE001 - what is passed by mistake may be a value that has no text
        return f"a value of type {type(kind).__name__}"


def _fitted(schema: Schema, dialect: _Dialect) -> Schema:
    reason = ""
    try:
        return _fit(schema, dialect, "the root")
    except (TypeError, AttributeError, KeyError) as error:
        reason = f"{_shown(schema)} is malformed: {error}"
    raise ConfigError(reason)


def _fit(schema: Any, dialect: _Dialect, place: str) -> Schema:
    if not isinstance(schema, Mapping):
        raise _cannot(dialect, place, "a schema without a type")
    if "$ref" in schema:
        return _reference(schema, dialect, place)
    schema = _plain(schema)
    made: Schema = {}
    notes: list[str] = []
    for key, value in schema.items():
        match key:
            case "anyOf":
                made[key] = [_fit(item, dialect, place) for item in value]
            case "$defs":
                made[key] = {name: _fit(item, dialect, name) for name, item in value.items()}
            case "items":
                made[key] = _fit(value, dialect, f"the items of {place}")
            case _ if _keeps(dialect, key, value):
                made[key] = value
            case _ if _conveys(key, value):
                notes.append(f"{key}: {_compact(value)}")
            case _:
                pass
    if made.get("type") == "object":
        _close(schema, made, dialect, place)
    elif "type" not in made and "anyOf" not in made:
        raise _cannot(dialect, place, "a schema without a type")
    if notes:
        noted = "{" + ", ".join(notes) + "}"
        made["description"] = f"{made.get('description', '')}\n\n{noted}".strip()
    return made


def _reference(schema: Mapping[str, Any], dialect: _Dialect, place: str) -> Schema:
    if not dialect.recursive:
        raise _cannot(dialect, place, "a type that contains itself")
    return {"$ref": schema["$ref"]}


def _keeps(dialect: _Dialect, key: str, value: Any) -> bool:
    if key == "pattern" and _LOOKS_AROUND.search(str(value)):
        # OpenAI answers 500 or 400 to these (May 2026); pydantic writes one for every Decimal.
        return False
    if key == "format":
        return value in dialect.formats
    if key == "minItems" and dialect.most_min_items is not None:
        return isinstance(value, int) and value <= dialect.most_min_items
    return key == "type" or key in dialect.keywords


def _conveys(key: str, value: Any) -> bool:
    structure = ("properties", "required", "additionalProperties", "patternProperties")
    return key not in structure and not (key == "default" and value is None)


def _compact(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _close(schema: Schema, made: Schema, dialect: _Dialect, place: str) -> None:
    """Allow an object its listed properties and nothing else."""
    given = schema.get("properties")
    open_ended = schema.get("patternProperties") or schema.get("additionalProperties")
    if given is None or (open_ended and not given):
        raise _cannot(dialect, place, "an object with free keys")
    required = schema.get("required", ())
    made["properties"] = {
        name: _property(item, dialect, name, optional=name not in required)
        for name, item in given.items()
    }
    made["required"] = list(given) if dialect.all_required else [*required]
    made["additionalProperties"] = False


def _property(schema: Any, dialect: _Dialect, name: str, *, optional: bool) -> Schema:
    fitted = _fit(schema, dialect, f"the property {name!r}")
    # A default replaces an absent value, and the property's type may not allow null.
    if not (dialect.all_required and optional) or schema.get("default") is not None:
        return fitted
    if _nullable(fitted):
        return fitted
    return {"anyOf": [*fitted.get("anyOf", [fitted]), {"type": "null"}]} | {
        key: fitted[key] for key in ("title", "description") if "anyOf" in fitted and key in fitted
    }


def _nullable(schema: Schema) -> bool:
    choices: list[Schema] = schema.get("anyOf", [])
    return schema.get("type") == "null" or any(map(_nullable, choices))


def _plain(schema: Mapping[str, Any]) -> Schema:
    """Rewrite keywords that no dialect has in terms of types, items and anyOf, which all have."""
    made = dict(schema)
    for part in made.pop("allOf", ()):
        made = _both(made, part) if isinstance(part, Mapping) else made
    if "oneOf" in made:
        made.setdefault("anyOf", made.pop("oneOf"))
    if "prefixItems" in made:
        kinds = made.pop("prefixItems")
        unique = [kind for at, kind in enumerate(kinds) if kind not in kinds[:at]]
        made["items"] = unique[0] if len(unique) == 1 else {"anyOf": unique}
    if isinstance(made.get("items"), bool):
        del made["items"]
    if isinstance(made.get("type"), list):
        return _split(made)
    if "type" not in made:
        _infer_type(made)
    return made


def _both(left: Schema, right: Mapping[str, Any]) -> Schema:
    made = left | dict(right)
    for key in ("properties", "required"):
        first, second = left.get(key), right.get(key)
        if isinstance(first, dict) and isinstance(second, dict):
            made[key] = first | second
        elif isinstance(first, list) and isinstance(second, list):
            made[key] = [*first, *(item for item in second if item not in first)]
    return made


def _split(schema: Schema) -> Schema:
    """Turn a list of types into alternative schemas with one type each."""
    shared = {key: schema.pop(key) for key in ("title", "description", "default") if key in schema}
    kinds = schema.pop("type")
    if "enum" in schema:
        schema["enum"] = [value for value in schema["enum"] if value is not None]
    choices = [schema | {"type": kind} if kind != "null" else {"type": kind} for kind in kinds]
    if len(choices) == 1:
        return choices[0] | shared
    return {"anyOf": choices} | shared


def _infer_type(schema: Schema) -> None:
    values = schema["enum"] if "enum" in schema else [schema["const"]] if "const" in schema else []
    kinds = list(dict.fromkeys(_TYPES.get(type(value), "object") for value in values))
    if len(kinds) == 1:
        schema["type"] = kinds[0]
    elif kinds:
        by_kind = {kind: [v for v in values if _TYPES.get(type(v)) == kind] for kind in kinds}
        schema.pop("enum", None)
        schema["anyOf"] = [{"type": kind, "enum": some} for kind, some in by_kind.items()]
    elif "properties" in schema:
        schema["type"] = "object"
    elif "items" in schema:
        schema["type"] = "array"


def _cannot(dialect: _Dialect, place: str, what: str) -> UnsupportedError:
    return UnsupportedError(f"{dialect.name} cannot describe {what}: {place}")
