"""What `import aiollm` offers: exactly `__all__`, and all of it documented."""

from __future__ import annotations

import importlib.metadata
import inspect
import types

import pytest

import aiollm

KINDS = (type, types.FunctionType)


def test_all_names_every_public_name_and_no_other() -> None:
    found = {
        name
        for name, value in vars(aiollm).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert found | {"__version__"} == set(aiollm.__all__)


def test_all_is_sorted_and_each_name_stands_once() -> None:
    assert list(aiollm.__all__) == sorted(set(aiollm.__all__))


@pytest.mark.parametrize("name", aiollm.__all__)
def test_a_public_name_is_documented(name: str) -> None:
    value = getattr(aiollm, name)
    if isinstance(value, KINDS):
        assert inspect.getdoc(value)


@pytest.mark.parametrize(
    "name", [name for name in aiollm.__all__ if isinstance(getattr(aiollm, name), type)]
)
def test_public_methods_are_documented(name: str) -> None:
    kind = getattr(aiollm, name)
    bare = [
        member
        for member, value in vars(kind).items()
        if not member.startswith("_")
        and isinstance(value, (*KINDS, property, classmethod, staticmethod))
        and not inspect.getdoc(value)
    ]
    assert not bare


def test_the_version_is_that_of_the_distribution() -> None:
    assert aiollm.__version__ == importlib.metadata.version("aiollm")
