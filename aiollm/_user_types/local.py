"""Types that are local to functions: found in the frames that define them, or in a closure.

Where annotations are texts (`from __future__ import annotations`), Python looks their names up in
the module alone.
"""

from __future__ import annotations

import sys
import typing
from collections.abc import Iterator
from types import FrameType, SimpleNamespace
from typing import Any, get_args, get_origin


def hints_of(function: Any) -> dict[str, Any]:
    """Return a function's type hints, without that of its result.

    Raises: NameError, TypeError, SyntaxError, AttributeError.
    """
    around = getattr(function, "__globals__", {})
    # Since Python 3.14, this is where hints are evaluated.
    notes = getattr(function, "__annotations__", {})
    notes = {name: hint for name, hint in notes.items() if name != "return"}
    try:
        return _evaluated(notes, around, {})
    except NameError:
        names = _names(function.__qualname__, around) | _closure(function)
    return _evaluated(notes, around, names)


def settle(kind: Any) -> None:
    """Replace the texts in the annotations of local classes in `kind` by the types they name.

    What cannot be found stays as it is.
    """
    _settle(kind, set())


def _settle(kind: Any, seen: set[Any]) -> None:
    for part in get_args(kind):
        _settle(part, seen)
    made = get_origin(kind) or kind
    if not isinstance(made, type) or made in seen or "<locals>" not in made.__qualname__:
        return
    seen.add(made)
    if hasattr(made, "model_rebuild"):
        made.model_rebuild(raise_errors=False, _types_namespace=_names_of(made))
        return
    for base in made.__mro__:
        for hint in _settled(base).values():
            _settle(hint, seen)


def _settled(made: type) -> dict[str, Any]:
    try:
        notes: dict[str, Any] = made.__annotations__
        notes.update(_evaluated(notes, _module(made), _names_of(made)))
    except (NameError, TypeError, SyntaxError, AttributeError):
        return {}
    return notes


def _evaluated(
    notes: dict[str, Any], around: dict[str, Any], names: dict[str, Any]
) -> dict[str, Any]:
    noted: Any = SimpleNamespace(__annotations__=notes)
    return typing.get_type_hints(noted, around, names, include_extras=True)


def _module(made: type) -> dict[str, Any]:
    return vars(sys.modules.get(made.__module__, typing))


def _names_of(made: type) -> dict[str, Any]:
    return _names(made.__qualname__, _module(made)) | {made.__name__: made}


def _names(qualname: str, around: dict[str, Any]) -> dict[str, Any]:
    """Return the local names of the running functions and classes that enclose a definition."""
    parts = qualname.split(".")
    scopes = [".".join(parts[:count]) for count in range(1, len(parts))]
    running: dict[str, FrameType] = {}
    for frame in _frames():
        if frame.f_globals is around:
            running.setdefault(frame.f_code.co_qualname, frame)
    names: dict[str, Any] = {}
    for scope in scopes:
        if scope in running:
            names |= running[scope].f_locals
    return names


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - inspect's way to it is slower and the same
    while frame is not None:
        yield frame
        frame = frame.f_back


def _closure(function: Any) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            names[name] = cell.cell_contents
        except ValueError:
            continue  # its variable has no value yet
    return names
