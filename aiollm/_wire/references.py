"""References of JSON schemas: replace each by what it refers to, but for those to themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from aiollm.errors import ConfigError

Schema: TypeAlias = dict[str, Any]

MAX_NODES = 10_000
"""The most subschemas after inlining: references can double their number at every level."""

_ONE = frozenset(
    {
        "items",
        "additionalProperties",
        "additionalItems",
        "contains",
        "propertyNames",
        "unevaluatedItems",
        "unevaluatedProperties",
        "not",
        "if",
        "then",
        "else",
        "contentSchema",
    }
)
_LIST = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_NAMED = frozenset({"properties", "patternProperties", "dependentSchemas"})
_SILENT = frozenset(
    {
        "$schema",
        "$id",
        "$anchor",
        "$comment",
        "$defs",
        "definitions",
        "discriminator",
        "deprecated",
        "readOnly",
        "writeOnly",
    }
)


def inline(root: Schema, name: str) -> Schema:
    """Return a schema without references, except that what contains itself stays in `$defs`.

    `name` is how errors call the schema. Raises: ConfigError.
    """
    reason = ""
    try:
        return _Inliner(root, name).inlined()
    except RecursionError:
        reason = f"{name} is nested too deeply"
    raise ConfigError(reason)


class _Inliner:
    """Replaces references by what they refer to, except for those inside themselves."""

    def __init__(self, root: Schema, name: str) -> None:
        self._root = root
        self._name = name
        self._nodes = 0
        self._loops = self._find_loops()
        self._kept: dict[str, str] = {}
        """Names in `$defs` by reference."""

    def inlined(self) -> Schema:
        made = dict(self._expand(self._root, at_root=True))
        definitions: Schema = {}
        while waiting := [ref for ref, key in self._kept.items() if key not in definitions]:
            for ref in waiting:
                found = _resolve(self._root, ref, self._name)
                definitions[self._kept[ref]] = self._expand(found)
        return made | {"$defs": definitions} if definitions else made

    def _expand(self, schema: Any, *, at_root: bool = False) -> Any:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise ConfigError(f"{self._name} has more than {MAX_NODES} subschemas")
        if not isinstance(schema, Mapping):
            return schema
        kept = {key: value for key, value in schema.items() if key not in _SILENT}
        reference = kept.pop("$ref", None)
        others = _map(kept, lambda item, _: self._expand(item))
        if not isinstance(reference, str):
            return others
        if reference in self._loops and not at_root:
            # Gemini and OpenAI refuse other keywords beside a reference.
            return {"$ref": self._key(reference)}
        found = self._expand(_resolve(self._root, reference, self._name), at_root=at_root)
        # Keywords beside the reference, such as a description, win over those that it brings.
        return found | others

    def _key(self, reference: str) -> str:
        if reference not in self._kept:
            base = reference.rpartition("/")[2].lstrip("#") or "root"
            taken = set(self._kept.values())
            tries = (base, *(f"{base}_{number}" for number in range(2, len(taken) + 3)))
            self._kept[reference] = next(key for key in tries if key not in taken)
        return f"#/$defs/{self._kept[reference]}"

    def _find_loops(self) -> set[str]:
        """Return the references that lead back to themselves."""
        links: dict[str, set[str]] = {"#": _references(self._root)}
        waiting = list(links["#"])
        while waiting:
            reference = waiting.pop()
            if reference not in links:
                links[reference] = _references(_resolve(self._root, reference, self._name))
                waiting += links[reference]
        return {reference for reference in links if reference in _reached(reference, links)}


def _references(schema: Any) -> set[str]:
    """Return the references in a schema, without those in its definitions."""
    found: set[str] = set()

    def visit(item: Any) -> Any:
        if isinstance(item, Mapping):
            if isinstance(reference := item.get("$ref"), str):
                found.add(reference)
            _map({k: v for k, v in item.items() if k not in _SILENT}, lambda sub, _: visit(sub))
        return item

    visit(schema)
    return found


def _reached(start: str, links: Mapping[str, set[str]]) -> set[str]:
    reached: set[str] = set()
    waiting = list(links[start])
    while waiting:
        reference = waiting.pop()
        if reference not in reached:
            reached.add(reference)
            waiting += links[reference]
    return reached


def _map(schema: Mapping[str, Any], change: Callable[[Any, str], Any]) -> Schema:
    """Return a copy with `change` applied to every direct subschema and its place."""
    made: Schema = {}
    for key, value in schema.items():
        if key in _NAMED and isinstance(value, Mapping):
            made[key] = {name: change(item, str(name)) for name, item in value.items()}
        elif key in _LIST and isinstance(value, list):
            made[key] = [change(item, key) for item in value]
        elif key in _ONE:
            made[key] = change(value, key)
        else:
            made[key] = value
    return made


def _resolve(root: Schema, reference: str, name: str) -> Any:
    head, *steps = reference.split("/")
    found: Any = root if head == "#" else None
    for step in steps:
        key = step.replace("~1", "/").replace("~0", "~")
        found = found.get(key) if isinstance(found, Mapping) else None
    if not isinstance(found, Mapping):
        raise ConfigError(f"{name} refers to {reference}, which it does not define")
    return found
