"""What `import aiollm` offers: exactly `__all__`, and all of it documented."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import aiollm
from aiollm import servers

ROOT = Path(__file__).parents[2]
KINDS = (type, types.FunctionType)


def test_all_names_every_public_name_and_no_other() -> None:
    assert set(aiollm.__all__) <= set(dir(aiollm))
    for name in aiollm.__all__:
        getattr(aiollm, name)  # some are loaded when they are first used
    found = {
        name
        for name, value in vars(aiollm).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert found | {"__version__"} == set(aiollm.__all__)


def test_all_is_sorted_and_each_name_stands_once() -> None:
    assert list(aiollm.__all__) == sorted(set(aiollm.__all__))


def test_every_class_of_the_servers_can_be_imported_from_their_topic_module() -> None:
    found = {
        name
        for module in (servers.llama_swap, servers.ollama)
        for name, value in vars(module).items()
        if isinstance(value, type)
        and value.__module__ == module.__name__
        and not name.startswith("_")
    }
    assert found | {"ProcessState", "SwapEvent"} == set(servers.__all__)
    assert list(servers.__all__) == sorted(servers.__all__)
    assert all(inspect.getdoc(getattr(servers, name)) for name in found)


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
    assert aiollm.__version__ == importlib.metadata.version("aiollm-client")


@pytest.mark.timeout(300)
def test_every_symbol_has_a_type_that_all_checkers_agree_on() -> None:
    tools = Path(sys.executable).parent
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pyright",
            "--verifytypes",
            "aiollm",
            "--ignoreexternal",
            "--outputjson",
        ],
        cwd=ROOT,
        env=os.environ | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    report = json.loads(run.stdout)["typeCompleteness"]
    vague = [
        symbol["name"]
        for symbol in report["symbols"]
        if symbol["isTypeAmbiguous"] or not symbol["isTypeKnown"]
    ]
    assert not vague
    assert report["completenessScore"] == 1
