"""The comparison shows what its script measured, and the lines of its programs as they are."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = json.loads((ROOT / "benchmarks" / "results" / "comparison.json").read_text())


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("comparison")


def test_the_table_of_the_page_is_drawn_from_the_results(script):
    drawn = importlib.import_module("compared_table").table(RESULTS)
    assert drawn in (ROOT / "docs" / "comparison.md").read_text()
    assert [*RESULTS] == [*script.FIELD]


@pytest.mark.parametrize("library", RESULTS)
def test_the_lines_that_were_counted_are_those_of_the_programs(script, library):
    assert script.lines(library) == RESULTS[library]["lines"]


@pytest.mark.parametrize("library", [each for each in RESULTS if each != "aiollm"])
def test_the_versions_that_were_measured_are_those_that_are_pinned(script, library):
    assert f"=={RESULTS[library]['version']}" in script.COMPARED[library].split()[0]


def test_the_readme_has_the_figures_and_the_outcomes_of_the_results():
    readme = (ROOT / "README.md").read_text()
    rows = {
        "requests to a dead first target in 20 calls": lambda found: found["dead"]["requests"],
        "requests for 200 calls at once, 20 a second allowed": lambda found: found["crowd"][
            "requests"
        ],
        "rows paid twice after `kill -9` in a run of 2,000": lambda found: found["killed"]["twice"],
        "MCP servers left after `kill -9` of the program": lambda found: found["mcp_kill"]["left"],
    }
    four = [RESULTS[name] for name in ("aiollm", "openai", "litellm", "pydantic-ai")]
    for title, figure in rows.items():
        assert f"| {title} | {' | '.join(str(figure(each)) for each in four)} |" in readme
    cut = ["an error" if "error" in each["cut"] else "success" for each in four[1:]]
    shown = f"| an answer that is cut cleanly | an error, with what came | {' | '.join(cut)} |"
    assert shown in readme
