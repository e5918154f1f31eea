"""The way of requests with the oldest aiohttp that is allowed: its private names differ."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.media.test_fetching import OLDEST, ROOT

TESTS = ("test_connections.py", "test_odd_answers.py", "test_repeated_requests.py")


@pytest.mark.skipif(not OLDEST.exists(), reason="scripts/setup oldest makes .venv-oldest")
@pytest.mark.skipif(OLDEST.is_relative_to(sys.prefix), reason="this is the oldest")
@pytest.mark.timeout(120)
def test_connections_are_reused_alike_with_the_oldest_versions_that_are_allowed():
    files = [f"tests/work/{name}" for name in TESTS]
    command = [OLDEST, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-2000:]
