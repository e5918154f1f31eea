"""A griffe extension: what makes a struct, what an error does to a chain, and lists of parameters.

msgspec makes `__init__` from the fields, as dataclasses do, which reading the source does not show.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Iterator
from typing import Any

import griffe

_LISTED = re.compile(r"(?<=[.;)])\s+(?=(?:`\w+`(?:, | and )?)+:\s|Raises:\s)")
"""Where a paragraph that describes parameters goes on to the next one."""

HARM = {"no": "no", "target": "for a cooldown", "long": "as misconfigured"}


class Structs(griffe.Extension):
    """Give structs and TypedDicts an `__init__`, and each error the facts that a chain goes by."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Complete the classes of a package that has been read."""
        del kwargs
        for each in list(_classes(pkg)):
            lineage = [each, *each.mro()]
            roots = {str(base).rpartition(".")[2] for one in lineage for base in one.bases}
            if roots & {"Struct", "TypedDict"}:
                _complete(each, lineage)
            elif lineage[-1].name == "LLMError" and each.docstring:
                each.docstring.value += _facts(lineage)
        for member in _documented(pkg):
            paragraphs = member.docstring.value.split("\n\n")
            member.docstring.value = "\n\n".join(map(_as_list, paragraphs))


def _documented(home: griffe.Module | griffe.Class) -> Iterator[Any]:
    """Yield all that has a docstring."""
    for member in home.members.values():
        if not isinstance(member, griffe.Alias) and member.docstring:
            yield member
        if isinstance(member, griffe.Module | griffe.Class):
            yield from _documented(member)


def _as_list(paragraph: str) -> str:
    """Return a paragraph of three or more descriptions of parameters as a list."""
    items = _LISTED.split(paragraph)
    if not paragraph.startswith("`") or len(items) < 3:
        return paragraph
    raises = [items.pop()] if items[-1].startswith("Raises: ") else []
    listed = "\n".join("- " + each.replace("\n", "\n  ") for each in items)
    return "\n\n".join([listed, *raises])


def _classes(home: griffe.Module | griffe.Class) -> Iterator[griffe.Class]:
    for member in home.members.values():
        if isinstance(member, griffe.Class):
            yield member
        if isinstance(member, griffe.Module | griffe.Class):
            yield from _classes(member)


def _complete(struct: griffe.Class, lineage: list[griffe.Class]) -> None:
    """Give a struct its `__init__`, or the defaults of its fields to the one that is written."""
    fields = _fields(lineage)
    init = struct.members.get("__init__")
    if init is None:
        made = griffe.Function(
            "__init__", parameters=griffe.Parameters(*fields.values()), returns="None"
        )
        made.parent = struct
        struct.set_member("__init__", made)
    elif isinstance(init, griffe.Function):
        for parameter in init.parameters:
            if str(parameter.default) == "..." and parameter.name in fields:
                parameter.default = fields[parameter.name].default


def _fields(lineage: list[griffe.Class]) -> dict[str, griffe.Parameter]:
    """Return the fields of a struct as parameters, those of its bases first."""
    found: dict[str, griffe.Parameter] = {}
    for struct in reversed(lineage):
        kind = griffe.ParameterKind.positional_or_keyword
        if {"kw_only", "total"} & struct.keywords.keys():  # what may be left out of a TypedDict
            kind = griffe.ParameterKind.keyword_only
        for name, member in struct.members.items():
            if isinstance(member, griffe.Attribute) and _is_field(member):
                default = "..." if "total" in struct.keywords else _default(member.value)
                found[name] = griffe.Parameter(
                    name, annotation=member.annotation, kind=kind, default=default
                )
    by_keyword = griffe.ParameterKind.keyword_only
    return dict(sorted(found.items(), key=lambda each: each[1].kind is by_keyword))


def _is_field(member: griffe.Attribute) -> bool:
    """Return whether a name in the body of a struct is a public field of it."""
    is_public = member.annotation is not None and not member.name.startswith("_")
    return is_public and "instance-attribute" in member.labels  # a ClassVar is not


def _default(value: Any) -> Any:
    """Return a field's default, and what a factory makes where it says so."""
    text = "" if value is None else str(value)
    if "default_factory" not in text and not text.startswith(("msgspec.field", "field(")):
        return value
    factory = text.partition("default_factory=")[2].rstrip(")")
    return {"dict": "{}", "list": "[]"}.get(factory, "...")


def _facts(lineage: list[griffe.Class]) -> str:
    """Return what an error does to a chain and to its target."""
    moves_on = "yes" if _constant(lineage, "moves_on") == "True" else "no"
    harm = HARM[_constant(lineage, "harms").strip("\"'")]
    kinds = ", ".join(_linked(str(base)) for base in lineage[0].bases)
    return f"\n\nIs a: {kinds}. Moves a chain on: {moves_on}. Harms its target: {harm}."


def _linked(base: str) -> str:
    """Return the name of a base, as a link if it is an error of aiollm's own."""
    is_own = base.endswith(("Error", "Interrupted")) and not hasattr(builtins, base)
    return f"[`{base}`][aiollm.{base}]" if is_own else f"`{base}`"


def _constant(lineage: list[griffe.Class], name: str) -> str:
    """Return what a class has under this name, as it is written."""
    found = (one.members[name] for one in lineage if name in one.members)
    return next(str(each.value) for each in found if isinstance(each, griffe.Attribute))
