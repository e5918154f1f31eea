"""Specs: parse `provider/model|provider/model,alias` into a Plan of steps."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import gcd
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec.structs import force_setattr

from aiollm.errors import ConfigError, SpecError
from aiollm.types import MAX_NAME, Target, _shown

MAX_TARGETS = 64
"""The most targets after expansion, repeats included."""

MAX_WEIGHT = 1000
"""The highest weight, after those of nested aliases are multiplied."""

_FAMILIES = {"gpt-": "openai", "o[0-9]": "openai", "claude-": "anthropic", "gemini-": "google"}
"""How the models of built-in providers begin."""

_ADDRESS = re.compile(r"(?:^|[,|&])[^/,|&]*(?::/|@)")
"""The beginning of an item that is a URL or a DSN, which may hold a key."""

_NOT_SHOWN = "and it is not shown because it may hold a key"
_NO_ADDRESS = (
    f"this is an address, not a spec, {_NOT_SHOWN}: "
    "set LLM_BOX to the address, for example, and write box/MODEL"
)

_NAME = "[a-z0-9]+(-[a-z0-9]+)*"
"""A name that a variable can define."""

_WEIGHT = "[1-9][0-9]{0,2}|1000"


class Step(msgspec.Struct, frozen=True):
    """Targets tried together: one alone, a race, or a spread that shares the load by weight.

    `weights` holds one for each target of a spread, in lowest terms, or is () if all are 1.
    Raises: SpecError.
    """

    targets: tuple[Target, ...]
    mode: Literal["race", "spread"] = "race"
    weights: tuple[int, ...] = ()

    if TYPE_CHECKING:  # what may be passed is wider than what is kept

        def __init__(
            self,
            targets: Sequence[Target],
            mode: Literal["race", "spread"] = ...,
            weights: Sequence[int] = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        force_setattr(self, "targets", _targets(self.targets))
        force_setattr(self, "weights", _weights(self))
        if len(self.targets) < 2:
            force_setattr(self, "mode", "race")

    def __str__(self) -> str:
        if self.mode == "race":
            return "|".join(map(str, self.targets))
        weights = self.weights or (1,) * len(self.targets)
        pairs = zip(weights, self.targets, strict=True)
        return "&".join(f"{n}*{target}" if n > 1 else str(target) for n, target in pairs)


class Plan(msgspec.Struct, frozen=True, cache_hash=True):
    """Steps tried in order; `str()` turns it back into a spec.

    In place of a `Step`, a sequence of targets is a step that races them. Raises: SpecError.
    """

    steps: tuple[Step, ...]

    if TYPE_CHECKING:

        def __init__(self, steps: Sequence[Step | Sequence[Target]]) -> None: ...

    def __post_init__(self) -> None:
        force_setattr(self, "steps", _steps(self.steps))

    def __str__(self) -> str:
        return ",".join(map(str, self.steps))

    @property
    def targets(self) -> tuple[Target, ...]:
        """All targets in order."""
        return tuple(target for step in self.steps for target in step.targets)


def _steps(steps: object) -> tuple[Step, ...]:
    if not isinstance(steps, list | tuple):
        raise SpecError(f"a plan is a tuple of steps, not of type {type(steps).__name__}")
    return tuple(step if isinstance(step, Step) else Step(step) for step in steps)


def _targets(targets: object) -> tuple[Target, ...]:
    if not isinstance(targets, list | tuple):
        raise SpecError(f"a step is a tuple of targets, not of type {type(targets).__name__}")
    for each in targets:
        if not isinstance(each, Target):
            raise SpecError(f"a step is made of targets, not of type {type(each).__name__}")
    return tuple(targets)


def _weights(step: Step) -> tuple[int, ...]:
    """Return a step's weights in lowest terms, () if all are 1. Raises: SpecError."""
    if step.mode not in ("race", "spread"):
        raise SpecError(f"a step's mode is 'race' or 'spread', not {_shown(step.mode)}")
    if not isinstance(step.weights, Sequence):
        raise SpecError(f"weights are a tuple, not of type {type(step.weights).__name__}")
    weights = tuple(step.weights)
    if not weights:
        return ()
    if step.mode == "race" or len(weights) != len(step.targets):
        raise SpecError("only a spread has weights, one for each of its targets")
    for each in weights:
        if type(each) is not int or each < 1:
            raise SpecError(f"a weight is an integer, 1 or more, not {_shown(each)}")
    weights = _lowest(weights)
    if max(weights) > MAX_WEIGHT:
        raise SpecError(f"a weight is at most {MAX_WEIGHT}, in lowest terms, not {max(weights)}")
    return () if set(weights) == {1} else weights


def _lowest(weights: Iterable[int]) -> tuple[int, ...]:
    """Divide weights by their greatest common divisor."""
    weights = tuple(weights)
    divisor = gcd(*weights)
    return tuple(each // divisor for each in weights)


class KnownNames(msgspec.Struct, frozen=True):
    """What a parser needs to know of names: aliases' specs, and which providers exist."""

    alias: Callable[[str], str | None]
    is_provider: Callable[[str], bool]
    all: Callable[[], Iterable[str]]


def parse_target(text: str) -> Target:
    """Parse `provider/model`. Raises: SpecError."""
    provider, slash, model = text.partition("/")
    if not slash:
        raise SpecError("a target is provider/model", spec=text)
    return Target(provider, model)


def as_target(target: str | Target) -> Target:
    """Return a target, parsed if it is a text. Raises: SpecError, ConfigError."""
    if isinstance(target, str):
        return parse_target(target)
    if not isinstance(target, Target):
        raise ConfigError(f"expected a target, not of type {type(target).__name__}")
    return target


def parse_spec(spec: str, names: KnownNames) -> Plan:
    """Parse a spec and expand its aliases. Raises: SpecError."""
    if not isinstance(spec, str):
        raise SpecError(f"a spec is a str or a Plan, not of type {type(spec).__name__}")
    steps: list[Step] = []
    seen: set[Target] = set()
    for draft in _Parser(names).steps(_Text(spec)):
        fresh = {target: n for target, n in draft.weights().items() if target not in seen}
        seen.update(fresh)
        if fresh and draft.operator == "&":
            steps.append(Step(tuple(fresh), "spread", tuple(fresh.values())))
        elif fresh:
            steps.append(Step(tuple(fresh)))
    return Plan(tuple(steps))


class _Text(msgspec.Struct):
    """A spec or an alias's spec, with the aliases that led to it."""

    spec: str
    path: tuple[str, ...] = ()

    def error(self, reason: str, column: int) -> SpecError:
        where = f" (in alias {self.path[-1]!r})" if self.path else ""
        if _ADDRESS.search(self.spec):
            return SpecError(f"{_NO_ADDRESS}{where}")
        return SpecError(f"{reason}{where}", spec=self.spec or " ", column=column)


class _Draft(msgspec.Struct):
    """A step as written: with repeats, and weights not yet in lowest terms."""

    operator: str
    items: list[tuple[Target, int]] = []

    def weights(self) -> dict[Target, int]:
        """Return the targets with their weights; repeats add up."""
        found: dict[Target, int] = {}
        for target, weight in self.items:
            found[target] = found.get(target, 0) + weight
        return found


class _Parser:
    """Expands aliases depth first, counting targets as it goes."""

    def __init__(self, names: KnownNames) -> None:
        self._names = names
        self._count = 0

    def steps(self, text: _Text) -> list[_Draft]:
        """Return the steps of a spec."""
        if not text.spec.strip():
            raise text.error("the spec is empty", 0)
        if _ADDRESS.search(text.spec):
            raise text.error(_NO_ADDRESS, 0)
        return [draft for each in _split(text.spec, ",", 0) for draft in self._step(text, *each)]

    def _step(self, text: _Text, step: str, column: int) -> list[_Draft]:
        """Return a step, or all steps of the alias that is its only item."""
        operator = _operator(text, step, column)
        items = [_trimmed(*item) for item in _split(step, operator, column)]
        if len(items) == 1 and operator == "|":
            return self._item(text, *items[0])
        draft = _Draft(operator)
        for item, at in items:
            weight, name, start = _weighed(text, item, at)
            if operator == "|" and start != at:
                raise text.error("a race has no weights: '&' shares the load by weight", at)
            beside = self._beside(text, name, start, operator)
            draft.items += [(target, weight * own) for target, own in beside]
        heaviest = max(_lowest(draft.weights().values()))
        if operator == "&" and heaviest > MAX_WEIGHT:
            reason = f"the weights of a step come to {heaviest}: at most {MAX_WEIGHT}"
            raise text.error(reason, items[0][1])
        return [draft]

    def _beside(self, text: _Text, name: str, at: int, operator: str) -> list[tuple[Target, int]]:
        """Return the targets of an item to which `operator` joins others."""
        drafts = self._item(text, name, at)
        fault = ""
        if len(drafts) > 1:
            fault = "has several steps"
        elif drafts[0].operator != operator and len(drafts[0].items) > 1:
            fault = "is a race" if operator == "&" else "is a spread"
        if fault:
            verb = "spread" if operator == "&" else "raced"
            raise text.error(f"alias {name!r} {fault} and cannot be {verb}", at)
        return drafts[0].items

    def _item(self, text: _Text, name: str, at: int) -> list[_Draft]:
        if not name:
            raise text.error("an element is empty", at)
        model_at = len(_head(name))
        for offset, char in enumerate(name):
            if char.isspace() or not char.isprintable():
                reason = "white space or a control character inside an element"
                raise text.error(reason, at + offset)
            if char in "()" and offset < model_at:
                reason = (
                    "parentheses are not supported: ',' separates steps, '|' or '&' their items"
                )
                raise text.error(reason, at + offset)
        if "/" in name:
            return [_Draft("|", [(self._target(text, name, at), 1)])]
        spec = self._names.alias(name)
        if spec is None:
            raise text.error(f"unknown alias {name!r}{self._hint(name)}", at)
        if name in text.path:
            cycle = " -> ".join((*text.path[text.path.index(name) :], name))
            raise text.error(f"alias cycle: {cycle}", at)
        if len(text.path) >= MAX_TARGETS:
            raise text.error(f"more than {MAX_TARGETS} nested aliases", at)
        return self.steps(_Text(spec, (*text.path, name)))

    def _target(self, text: _Text, name: str, at: int) -> Target:
        provider, _, model = name.partition("/")
        if not provider or not model:
            raise text.error(f"{name!r} has no {'model' if provider else 'provider'}", at)
        if len(name) > MAX_NAME:
            raise text.error(f"a target has {len(name)} characters: at most {MAX_NAME}", at)
        if not self._names.is_provider(provider):
            if self._names.alias(provider) is not None:
                reason = f"{provider!r} is an alias: write it alone, without a slash"
                raise text.error(reason, at)
            hint = how_to_define(provider, closest(provider, self._names.all()))
            raise text.error(f"unknown provider {provider!r}{hint}", at)
        self._count += 1
        if self._count > MAX_TARGETS:
            raise text.error(f"more than {MAX_TARGETS} targets after expansion", at)
        return Target(provider, model)

    def _hint(self, name: str) -> str:
        if self._names.is_provider(name):
            return f": a target is provider/model, for example {name}/some-model"
        made_by = [by for start, by in _FAMILIES.items() if re.match(start, name.lower())]
        targets = [f"{by}/{name}" for by in made_by if self._names.is_provider(by)]
        for mark in ":.\\":
            provider, _, model = name.partition(mark)
            if model and self._names.is_provider(provider):
                return did_you_mean([f"{provider}/{model}"])
        close = closest(name, self._names.all())
        targets += [f"{each}/MODEL" if self._names.is_provider(each) else each for each in close]
        return did_you_mean(targets) or _how_to_name(name)


def _head(item: str) -> str:
    """Return the part of an item before its model."""
    return item.partition("/")[0]


def _operator(text: _Text, step: str, column: int) -> str:
    """Return the operator between the items of a step, '&' also for one item with a weight."""
    if "|" in step and "&" in step:
        reason = (
            "a step uses '|' (a race) or '&' (a spread), not both, even through an alias: "
            "write ',' here to make two steps"
        )
        raise text.error(reason, column + max(step.index("|"), step.index("&")))
    spread = "&" in step or ("|" not in step and "*" in _head(step))
    return "&" if spread else "|"


def _weighed(text: _Text, item: str, at: int) -> tuple[int, str, int]:
    """Return the weight of an item, its name, and the column of the name."""
    if "*" not in _head(item):
        return 1, item, at
    weight, _, rest = item.partition("*")
    figure = weight.rstrip()  # int() takes fewer characters for white space
    if not re.fullmatch(_WEIGHT, figure):
        reason = f"a weight is an integer from 1 to {MAX_WEIGHT}, as in 3*provider/model"
        raise text.error(reason, at)
    name, start = _trimmed(rest, at + len(weight) + 1)
    if "*" in _head(name):
        raise text.error("an item can have only one weight", start)
    return int(figure), name, start


def _split(text: str, separator: str, column: int) -> Iterator[tuple[str, int]]:
    for piece in text.split(separator):
        yield piece, column
        column += len(piece) + 1


def _trimmed(text: str, column: int) -> tuple[str, int]:
    return text.strip(), column + len(text) - len(text.lstrip())


def closest(name: str, known: Iterable[str]) -> list[str]:
    """Return at most three of the names that are known, those most like `name` first."""
    from difflib import get_close_matches  # most programs never need it

    if len(name) > MAX_NAME:  # nobody mistyped that, and comparing takes long
        return []
    names = {each.lower(): each for each in known}
    return [names[each] for each in get_close_matches(name.lower(), names, 3, 0.65)]


def shown_spec(spec: str) -> str:
    """Return a spec, but for one that is an address by mistake, which may hold a key."""
    return "(an address, not a spec)" if _ADDRESS.search(spec) else spec


def refuse_address(name: str) -> None:
    """Raise ConfigError, which does not show it, for an address in place of a name."""
    if _ADDRESS.search(name):
        raise ConfigError(f"this is an address, not a name, {_NOT_SHOWN}")


def how_to_define(provider: str, close: Sequence[str]) -> str:
    """Return a hint at names like that of a provider, and at the variable that defines it."""
    name = provider.lower().replace("_", "-")
    if name in close or not re.fullmatch(_NAME, name):
        return did_you_mean(close)
    start = "in code, `await local.start(registry)` comes first; or " if name == "local" else ""
    example = "openai+http://127.0.0.1:8080"
    set_it = f"{start}set {variable_of(name)}=scheme://[token@]host, as in {example}"
    if name != provider:
        set_it += f", and write {name!r}"
    return f"{did_you_mean(close)} If not, {set_it}" if close else f": {set_it}"


def _how_to_name(alias: str) -> str:
    """Return a hint at the variable that defines an alias, if a variable can."""
    reason = ": a target is provider/model"
    if not re.fullmatch(_NAME, alias):
        return reason
    return f"{reason}, and {variable_of(alias)}=alias:provider/model would set this alias"


def variable_of(name: str) -> str:
    """Return the variable that usually defines a provider or an alias."""
    return f"LLM_{name.upper().replace('-', '_')}"


def did_you_mean(names: Sequence[str]) -> str:
    """Return a question with these names, "" without any."""
    return f"; did you mean {' or '.join(map(repr, names))}?" if names else ""
