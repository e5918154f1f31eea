"""Chaos in small: two thousand streams over flaky targets leave nothing behind."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

pytestmark = pytest.mark.loops

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "chaos.py"


@pytest.fixture(scope="module")
def chaos():
    spec = importlib.util.spec_from_file_location("chaos", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.timeout(180)
async def test_two_thousand_streams_end_once_each_and_leave_nothing(chaos):
    figures = await chaos.run(2000, seed=7)
    assert figures.streams == 2000
    assert sum(figures.ends.values()) == 2000
    assert {"complete", "cancelled", "left", "all failed"} <= set(figures.ends)
    assert figures.tasks_left == 0
    assert figures.connections_left == 0
    assert figures.slots_held == 0
    assert figures.probes_held == 0
    assert figures.watches_left == 0
    assert figures.outcomes_wrong == 0
    assert figures.more_than_served == 0
