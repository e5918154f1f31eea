"""Specs: `provider/model|provider/model,alias` to a Plan of steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec

from aiollm.errors import SpecError
from aiollm.types import Target

MAX_TARGETS = 64
"""Targets after expansion, repeats included (design: the language of specs)."""


class Plan(msgspec.Struct, frozen=True):
    """Steps tried in order; the targets of one step are raced. Prints back as a spec."""

    steps: tuple[tuple[Target, ...], ...]

    def __str__(self) -> str:
        return ",".join("|".join(map(str, step)) for step in self.steps)

    @property
    def targets(self) -> tuple[Target, ...]:
        """All targets in order."""
        return tuple(target for step in self.steps for target in step)


class Names(msgspec.Struct, frozen=True):
    """What a parser may ask about names: an alias's spec, and whether a provider exists."""

    alias: Callable[[str], str | None]
    is_provider: Callable[[str], bool]
    all: Callable[[], Iterable[str]]


def parse_spec(spec: str, names: Names) -> Plan:
    """Parse a spec and expand its aliases. Raises: SpecError."""
    parser = _Parser(names)
    steps: list[tuple[Target, ...]] = []
    seen: set[Target] = set()
    for step in parser.steps(spec, ()):
        fresh = tuple(dict.fromkeys(target for target in step if target not in seen))
        seen.update(fresh)
        if fresh:
            steps.append(fresh)
    return Plan(tuple(steps))


class _Parser:
    def __init__(self, names: Names) -> None:
        self._names = names
        self._count = 0

    def steps(self, spec: str, path: tuple[str, ...]) -> list[list[Target]]:
        if not spec.strip():
            where = f"alias {path[-1]!r} is" if path else "the spec is"
            raise SpecError(f"{where} empty", spec=spec or " ")
        found: list[list[Target]] = []
        for text, column in _split(spec, ",", 0):
            items = list(_split(text, "|", column))
            expanded = [self._item(spec, *item, path) for item in items]
            if len(items) == 1:
                found += expanded[0]
                continue
            for (name, at), several in zip(items, expanded, strict=True):
                if len(several) > 1:
                    raise SpecError(
                        f"alias {name.strip()!r} has several steps and cannot be raced",
                        spec=spec,
                        column=at + _indent(name),
                    )
            found.append([target for (step,) in expanded for target in step])
        return found

    def _item(self, spec: str, raw: str, column: int, path: tuple[str, ...]) -> list[list[Target]]:
        column += _indent(raw)
        name = raw.strip()
        if not name:
            raise SpecError("an element is empty", spec=spec, column=column)
        if any(char.isspace() or not char.isprintable() for char in name):
            raise SpecError("white space inside an element", spec=spec, column=column)
        if "/" in name:
            return [[self._target(spec, name, column)]]
        text = self._names.alias(name)
        if text is None:
            known = self._names.all()
            hint = _closest(name, known)
            if self._names.is_provider(name):
                hint = f": a target is provider/model, for example {name}/some-model"
            raise SpecError(f"unknown alias {name!r}{hint}", spec=spec, column=column)
        if name in path:
            cycle = " -> ".join((*path[path.index(name) :], name))
            raise SpecError(f"alias cycle: {cycle}", spec=spec, column=column)
        if len(path) >= MAX_TARGETS:
            raise SpecError(f"more than {MAX_TARGETS} nested aliases", spec=spec, column=column)
        return self.steps(text, (*path, name))

    def _target(self, spec: str, name: str, column: int) -> Target:
        provider, _, model = name.partition("/")
        if not provider or not model:
            what = "model" if provider else "provider"
            raise SpecError(f"{name!r} lacks its {what}", spec=spec, column=column)
        if not self._names.is_provider(provider):
            hint = _closest(provider, self._names.all())
            raise SpecError(f"unknown provider {provider!r}{hint}", spec=spec, column=column)
        self._count += 1
        if self._count > MAX_TARGETS:
            raise SpecError(
                f"more than {MAX_TARGETS} targets after expansion", spec=spec, column=column
            )
        return Target(provider, model)


def _split(text: str, separator: str, column: int) -> Iterator[tuple[str, int]]:
    for piece in text.split(separator):
        yield piece, column
        column += len(piece) + 1


def _indent(text: str) -> int:
    return len(text) - len(text.lstrip())


def _closest(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches  # most programs never need it

    close = get_close_matches(name, list(known), 3)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
