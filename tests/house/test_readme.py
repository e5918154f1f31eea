"""What the README shows is true: its code compiles, its providers parse, its targets exist."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

import aiollm
from aiollm import Registry
from tests.house.conftest import load_script

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
    env = dict(re.findall(r"^export (LLM_\w+)='?([^'\s]+)", SHELL, re.MULTILINE))
    assert len(env) >= 4
    async with Registry(env=env) as reg:
        for name, origin in reg.providers().items():
            if origin == "environment":
                assert reg.provider(name).base_url
        for alias in reg.aliases():
            assert reg.parse(alias).targets


def test_its_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make (\w+)`", README))
    assert named
    assert named <= targets


def test_its_extras_exist() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    named = set(re.findall(r"(?:aiollm-client|'\.)\[(\w+)\]", README))
    _, table, _ = re.split(r"^\| extra \| adds \|$|^$\n^`make", README, flags=re.MULTILINE)
    named |= {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row)}
    assert len(named) >= 9
    assert all(re.search(rf"^{extra} = \[", project, re.MULTILINE) for extra in named)


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#:]+)\)", README))
def test_its_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


def test_each_promise_has_a_test_of_that_name() -> None:
    promises = re.findall(r"^\| \*\*.*\| \[`(test_\w+)`\]\((\S+)\) \|$", README, re.MULTILINE)
    assert len(promises) == len(re.findall(r"^\| \*\*", README, re.MULTILINE)) >= 8
    for name, place in promises:
        assert re.search(rf"^(async )?def {name}\(", (ROOT / place).read_text(), re.MULTILINE), name


def test_its_picture_is_light_and_made_of_what_the_demo_says() -> None:
    (place,) = re.findall(r"!\[[^\]]*\]\((\S+)\)", README)
    picture = (ROOT / place).read_text()
    assert len(picture) < 20_000
    assert not re.findall(r"(?:href|src|url\()", picture)
    shown = "".join(ET.fromstring(picture).itertext()).replace("\u00a0", " ")
    demo = (ROOT / "examples" / "demo.py").read_text().partition("import asyncio")[2]
    for said in re.findall(r'"([A-Z][^"{]{20,}[:.])"', demo):
        assert said in shown


@pytest.mark.parametrize("repository", ["", "https://host.test/owner/project"])
def test_an_index_shows_no_dead_link_in_it(repository: str) -> None:
    shown = for_an_index()(README, repository)
    links = re.findall(r"\]\(([^)]+)\)", shown)
    assert all(link.startswith("https://host.test/owner/project/") for link in links)
    assert len(links) == (len(re.findall(r"\]\(", README)) if repository else 0)
    assert "test_nothing_shows_the_key" in shown


def for_an_index() -> Callable[[str, str], str]:
    """Return what the build hook does to the README."""
    return load_script("pypi_readme").for_an_index
