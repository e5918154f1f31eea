"""Regular expressions match alike in every Python that is supported.

Before 3.11.5, as on Debian 12, a possessive repeat or an atomic group gives back some of what it
took where its body backtracks (CPython's gh-106052).
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from re import _constants as code  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any

import aiollm

KEEPS = {code.POSSESSIVE_REPEAT, code.ATOMIC_GROUP}
BACKTRACKS = {code.MAX_REPEAT, code.MIN_REPEAT, code.ASSERT, code.ASSERT_NOT}


def patterns() -> Iterator[tuple[str, re.Pattern[Any]]]:
    """Yield the name of each pattern that a module of the package keeps, and the pattern."""
    for found in pkgutil.walk_packages(aiollm.__path__, "aiollm."):
        if found.name == "aiollm.__main__":
            continue
        module = importlib.import_module(found.name)
        for name, value in vars(module).items():
            if isinstance(value, re.Pattern):
                yield f"{found.name}.{name}", value


def steps(tree: Any, *, kept: bool = False, deep: bool = False) -> Iterator[str]:
    """Yield what backtracks in a possessive repeat or an atomic group.

    Alternatives directly in it do not, where each begins with another character.
    """
    for step, value in tree:
        if kept and (step in BACKTRACKS or (step is code.BRANCH and deep)):
            yield str(step)
        inner = kept or step in KEEPS
        for body in bodies(value):
            yield from steps(body, kept=inner, deep=kept and step is not code.SUBPATTERN)


def bodies(value: Any) -> Iterator[Any]:
    """Yield the parts of a pattern that a step's value holds."""
    if isinstance(value, _parser.SubPattern):
        yield value
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from bodies(each)


def test_what_gives_nothing_back_has_nothing_in_it_that_backtracks() -> None:
    found = dict(patterns())
    assert len(found) > 50
    for name, pattern in found.items():
        assert not [*steps(_parser.parse(pattern.pattern, pattern.flags))], name


def test_a_pattern_that_older_versions_misread_is_seen() -> None:
    assert [*steps(_parser.parse(r"(?:a|u(?:b|c{2}))++"))]
    assert [*steps(_parser.parse(r"(?:a+|b)*+"))]
    assert not [*steps(_parser.parse(r"(?:a++|b)*+(?:c|d)*"))]
