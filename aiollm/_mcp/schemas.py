"""Schemas of tools as servers write them, mended to what providers take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from aiollm._wire.references import Schema
from aiollm._wire.schema import json_schema
from aiollm.errors import ConfigError

_ONE = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")
_LIST = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED = ("properties", "patternProperties", "$defs")

_Rule: TypeAlias = Callable[[Schema], None]


def mended(schema: Any) -> Schema:
    """Return a schema that providers take, with references inlined.

    An alternative at the root becomes one object; what is required exists; arrays have items.
    Raises: ConfigError for what cannot be mended, such as a reference to somewhere else.
    """
    if not isinstance(schema, Mapping):
        raise ConfigError("its schema is not an object")
    kind, reason = schema.get("type", "object"), ""
    if kind != "object":
        raise ConfigError(f"its arguments are of type {kind!r:.40}, not an object")
    try:
        found: Schema = _node(_one_object(json_schema({**schema, "type": "object"})))
    except ConfigError as error:
        reason = error.message
    except (RecursionError, TypeError, AttributeError, ValueError) as error:
        reason = f"its schema cannot be read ({type(error).__name__})"
    else:
        return found | {"type": "object"}
    raise ConfigError(reason)


def _node(schema: Any) -> Any:
    if schema is True:
        return {}
    if not isinstance(schema, dict):
        return schema
    made = dict(schema)
    for key in _ONE:
        if isinstance(made.get(key), dict):
            made[key] = _node(made[key])
    for key in _LIST:
        if key in made:
            made[key] = [_node(item) for item in made[key]]
    for key in _NAMED:
        if key in made:
            made[key] = {name: _node(item) for name, item in (made[key] or {}).items()}
    for rule in _RULES:
        rule(made)
    return made


def _object_has_properties(schema: Schema) -> None:
    if schema.get("type") == "object":
        schema.setdefault("properties", {})


def _required_exists(schema: Schema) -> None:
    """Require what is described: Gemini refuses the rest."""
    if "required" in schema:
        known = schema.get("properties") or {}
        given = schema.pop("required")
        names = [each for each in given if each in known] if isinstance(given, list) else []
        if names:
            schema["required"] = names


def _array_has_items(schema: Schema) -> None:
    """Give each list some kind of items: OpenAI and Gemini refuse one without."""
    kind = schema.get("type")
    is_array = kind == "array" or (isinstance(kind, list) and "array" in kind)
    if is_array and not {"items", "prefixItems"} & schema.keys():
        schema["items"] = {}


def _bounds_are_numbers(schema: Schema) -> None:
    """Take the flags of an old draft for what they say."""
    for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(flag := schema.get(exclusive), bool):
            del schema[exclusive]
            if flag and bound in schema:
                schema[exclusive] = schema.pop(bound)


_RULES: tuple[_Rule, ...] = (
    _object_has_properties,
    _required_exists,
    _array_has_items,
    _bounds_are_numbers,
)


def _one_object(schema: Schema) -> Schema:
    """Join the alternatives at the root, which OpenAI and Anthropic refuse there."""
    properties = dict(schema.get("properties") or {})
    required = _names(schema)
    rest = {key: value for key, value in schema.items() if key not in ("anyOf", "oneOf", "allOf")}
    for key in ("allOf", "anyOf", "oneOf"):
        branches = [each for each in schema.get(key, ()) if isinstance(each, dict)]
        for branch in branches:
            for name, item in (branch.get("properties") or {}).items():
                properties.setdefault(name, item)
        if branches:
            sets = [set(_names(branch)) for branch in branches]
            common = set.union(*sets) if key == "allOf" else set.intersection(*sets)
            required += sorted(common - set(required))
    return rest | {"properties": properties, "required": required}


def _names(schema: Schema) -> list[str]:
    given = schema.get("required")
    return [each for each in given if isinstance(each, str)] if isinstance(given, list) else []
