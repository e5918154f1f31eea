"""HTML by construction: all text is escaped, and what could hide or reorder it is taken out."""

from __future__ import annotations

from html import escape

from aiollm._wire.printable import printable

_EMPTY = frozenset({"meta", "line", "rect"})


class Markup(str):
    """Text that is HTML; any other string is text to be shown."""

    __slots__ = ()


def tag(name: str, /, *children: str, **attributes: str | float) -> Markup:
    """Return an element; `class_` and `aria_label` stand for `class` and `aria-label`.

    Children are texts, which are escaped, and elements, which are not. A number is written with
    at most two decimals: fewer than a pixel needs are of no use.
    """
    written = "".join(f' {_name(key)}="{_value(value)}"' for key, value in attributes.items())
    if name in _EMPTY and not children:
        return Markup(f"<{name}{written}/>" if name != "meta" else f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(*children)}</{name}>")


def join(*children: str) -> Markup:
    """Return elements and texts one after the other."""
    return Markup(
        "".join(child if isinstance(child, Markup) else text(child) for child in children)
    )


def text(value: str) -> Markup:
    """Escape a text."""
    return Markup(escape(printable(value)))


def _name(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def _value(value: str | float) -> str:
    return text(value) if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
