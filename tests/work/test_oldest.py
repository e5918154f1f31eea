"""Requests and races with the oldest aiohttp and anyio that are allowed, which differ."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.media.test_fetching import OLDEST, ROOT

RACE = """
import anyio
from aiollm import Registry
from aiollm.testing import FakeProvider

async def main():
    async with Registry(env={}) as reg:
        reg.register("a", FakeProvider(default=["well"]).provider())
        reg.register("b", FakeProvider(default=["well"]).provider())
        print((await reg.generate("a/m|b/m", "hi")).text)

anyio.run(main)
"""

TESTS = ("test_connections.py", "test_odd_answers.py", "test_repeated_requests.py")


@pytest.mark.skipif(not OLDEST.exists(), reason="scripts/setup oldest makes .venv-oldest")
@pytest.mark.skipif(OLDEST.is_relative_to(sys.prefix), reason="this is the oldest")
@pytest.mark.timeout(120)
def test_connections_are_reused_alike_with_the_oldest_versions_that_are_allowed():
    files = [f"tests/work/{name}" for name in TESTS]
    command = [OLDEST, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-2000:]


@pytest.mark.parametrize("python", [sys.executable, OLDEST], ids=["current", "oldest"])
def test_a_first_race_within_a_program_that_anyio_runs(python):
    if not Path(python).exists():
        pytest.skip("scripts/setup oldest makes .venv-oldest")
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [python, "-c", RACE]
    ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.stdout, ran.stderr) == ("well\n", "")
