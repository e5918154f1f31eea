"""What the README shows is true: its code compiles, its providers parse, its targets exist."""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

import pytest

import aiollm
from aiollm import Registry

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
SHELL = "\n".join(code for language, code in BLOCKS if language == "sh")


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_its_code_compiles_and_imports_what_exists(code: str) -> None:
    tree = ast.parse("async def example():\n" + textwrap.indent(code, "    "))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert {name.name for name in node.names} <= set(aiollm.__all__)


async def test_its_providers_and_aliases_are_valid() -> None:
    env = dict(re.findall(r"^export (LLM_\w+)=(\S+)$", SHELL, re.MULTILINE))
    assert len(env) >= 4
    async with Registry(env=env) as reg:
        for name, origin in reg.providers().items():
            if origin == "environment":
                assert reg.provider(name).base_url
        for alias in reg.aliases():
            assert reg.parse(alias).targets


def test_its_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"^make (\w+)", SHELL, re.MULTILINE))
    assert named
    assert named <= targets


def test_its_extras_exist() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    named = set(re.findall(r"(?:aiollm-client|'\.)\[(\w+)\]", README)) | {
        "otel",
        "testing",
        "uvloop",
        "all",
    }
    assert all(re.search(rf"^{extra} = \[", project, re.MULTILINE) for extra in named)


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#:]+)\)", README))
def test_its_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()
