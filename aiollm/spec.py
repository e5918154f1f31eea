"""Specs: `provider/model|provider/model,alias` to a Plan of steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec

from aiollm.errors import SpecError
from aiollm.types import Target

MAX_TARGETS = 64
"""Targets after expansion, repeats included (design: the language of specs)."""


class Plan(msgspec.Struct, frozen=True, cache_hash=True):
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
    _check_type(spec)
    parser = _Parser(names)
    steps: list[tuple[Target, ...]] = []
    seen: set[Target] = set()
    for step in parser.steps(spec, ()):
        fresh = tuple(dict.fromkeys(target for target in step if target not in seen))
        seen.update(fresh)
        if fresh:
            steps.append(fresh)
    return Plan(tuple(steps))


def _check_type(spec: object) -> None:
    if not isinstance(spec, str):
        raise SpecError(f"a spec is a str or a Plan, not of type {type(spec).__name__}")


class _Parser:
    """Expands aliases depth first, counting targets as it goes."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._count = 0

    def steps(self, spec: str, path: tuple[str, ...]) -> list[list[Target]]:
        """Return the steps of `spec`, to which the aliases of `path` have led."""
        if not spec.strip():
            raise _error("the spec is empty", spec or " ", 0, path)
        found: list[list[Target]] = []
        for text, column in _split(spec, ",", 0):
            items = [_trimmed(*piece) for piece in _split(text, "|", column)]
            expanded = [self._item(spec, name, at, path) for name, at in items]
            if len(items) == 1:
                found += expanded[0]
                continue
            for (name, at), several in zip(items, expanded, strict=True):
                if len(several) > 1:
                    reason = f"alias {name!r} has several steps and cannot be raced"
                    raise _error(reason, spec, at, path)
            found.append([target for (step,) in expanded for target in step])
        return found

    def _item(self, spec: str, name: str, at: int, path: tuple[str, ...]) -> list[list[Target]]:
        if not name:
            raise _error("an element is empty", spec, at, path)
        for offset, char in enumerate(name):
            if char.isspace() or not char.isprintable():
                reason = "white space or a control character inside an element"
                raise _error(reason, spec, at + offset, path)
        if "/" in name:
            return [[self._target(spec, name, at, path)]]
        text = self._names.alias(name)
        if text is None:
            raise _error(f"unknown alias {name!r}{self._hint(name)}", spec, at, path)
        if name in path:
            cycle = " -> ".join((*path[path.index(name) :], name))
            raise _error(f"alias cycle: {cycle}", spec, at, path)
        if len(path) >= MAX_TARGETS:
            raise _error(f"more than {MAX_TARGETS} nested aliases", spec, at, path)
        return self.steps(text, (*path, name))

    def _target(self, spec: str, name: str, at: int, path: tuple[str, ...]) -> Target:
        provider, _, model = name.partition("/")
        if not provider or not model:
            reason = f"{name!r} lacks its {'model' if provider else 'provider'}"
            raise _error(reason, spec, at, path)
        if not self._names.is_provider(provider):
            if self._names.alias(provider) is not None:
                reason = f"{provider!r} is an alias, which stands alone, without a slash"
                raise _error(reason, spec, at, path)
            hint = _closest(provider, self._names.all())
            raise _error(f"unknown provider {provider!r}{hint}", spec, at, path)
        self._count += 1
        if self._count > MAX_TARGETS:
            raise _error(f"more than {MAX_TARGETS} targets after expansion", spec, at, path)
        return Target(provider, model)

    def _hint(self, name: str) -> str:
        if self._names.is_provider(name):
            return f": a target is provider/model, for example {name}/some-model"
        return _closest(name, self._names.all())


def _error(reason: str, spec: str, column: int, path: tuple[str, ...]) -> SpecError:
    where = f" (in alias {path[-1]!r})" if path else ""
    return SpecError(f"{reason}{where}", spec=spec, column=column)


def _split(text: str, separator: str, column: int) -> Iterator[tuple[str, int]]:
    for piece in text.split(separator):
        yield piece, column
        column += len(piece) + 1


def _trimmed(text: str, column: int) -> tuple[str, int]:
    return text.strip(), column + len(text) - len(text.lstrip())


def _closest(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches  # most programs never need it

    names = {each.lower(): each for each in known}
    close = [names[each] for each in get_close_matches(name.lower(), names, 3)]
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
