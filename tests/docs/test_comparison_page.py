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
