"""The tables of providers say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from aiollm import Registry
from aiollm.providers.schemes import BUILTINS, SCHEMES

DOCS = Path(__file__).parents[2] / "docs"
KEY = "made-up-key"


def rows(page: str, first: str) -> list[list[list[str]]]:
    """Return the rows of the table whose first column is `first`: what is code in each cell."""
    text = (DOCS / page).read_text()
    table = text[text.index(f"| {first} |") :].split("\n\n", 1)[0]
    cells = [line.strip("|").split("|") for line in table.splitlines()[2:]]
    return [[re.findall("`([^`]+)`", cell) for cell in line] for line in cells]


def test_every_builtin_is_listed_with_its_variables_and_its_server() -> None:
    listed = rows("targets-and-dsns.md", "built-in")
    assert {name for names, *_ in listed for name in names} == {
        name for name in BUILTINS if SCHEMES[name].home
    }
    for names, server, keys, address in listed:
        for name in names:
            scheme = SCHEMES[name]
            assert (list(scheme.keys), [scheme.base_variable]) == (keys, address)
            registry = Registry(env=dict.fromkeys(keys, KEY))
            assert [registry.provider(name).base_url] == server


def test_the_start_page_names_the_keys_of_all_that_need_one() -> None:
    named = {
        target[0].partition("/")[0]: keys for target, keys in rows("start/with-a-key.md", "target")
    }
    assert named.keys() == {name for name in BUILTINS if SCHEMES[name].home} - {"gemini"}
    for name, keys in named.items():
        assert keys == (["OLLAMA_HOST"] if name == "ollama" else list(SCHEMES[name].keys))
