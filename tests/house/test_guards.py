"""The guards of conftest.py catch what they are there for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.programs import is_gone, waited_for

ROOT = Path(__file__).parents[2]

LEAKS = {
    "leaked tasks": """
async def test_leak():
    global task
    task = asyncio.create_task(asyncio.Event().wait())
""",
    "leaked sockets": """
async def test_leak():
    global pair
    pair = socket.socketpair()
""",
    "leaked processes": """
def test_leak():
    global child
    child = subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL)

def teardown_module():
    child.kill()
    child.wait()
""",
    "Blocking call to time.sleep": """
async def test_leak():
    file = os.path.join(aiollm.__path__[0], "made_up.py")
    exec(compile("import time; time.sleep(0)", file, "exec"))
""",
    "ResourceWarning": """
def test_leak():
    socket.socket()
""",
    "was never awaited": """
def test_leak():
    asyncio.sleep(0)
""",
}
CLEAN = """
async def test_clean():
    host, port = LISTENER.getsockname()
    reader, writer = await asyncio.open_connection(host, port)
    writer.close()
    await writer.wait_closed()
    await asyncio.create_task(asyncio.sleep(0))
    subprocess.run(["true"], check=True)

LISTENER = socket.create_server(("127.0.0.1", 0))

def teardown_module():
    LISTENER.close()
"""
IMPORTS = "import asyncio, os, socket, subprocess\nimport aiollm\n"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the report on all of them, run under the project's own settings and conftest."""
    folder = tmp_path_factory.mktemp("made_up")
    guards = (ROOT / "tests/conftest.py").read_text()
    # Each leak is waited for; the clean test leaves nothing that has to go.
    (folder / "conftest.py").write_text(re.sub(r"(?m)^LOOKS = .*", "LOOKS = 50", guards))
    for number, test in enumerate([*LEAKS.values(), CLEAN]):
        (folder / f"test_made_up_{number}.py").write_text(IMPORTS + test)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--tb=short"]
    # Without what would have a coverage run follow into made-up modules.
    kept = {name: value for name, value in os.environ.items() if "COVERAGE" not in name}
    environment = kept | {"PYTHONPATH": str(ROOT)}
    settings = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder), str(folder)]
    run = subprocess.run(
        command + settings,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 1, run.stdout + run.stderr
    return run.stdout


@pytest.mark.parametrize("complaint", LEAKS)
def test_a_leak_fails_the_run(complaint: str, report: str) -> None:
    assert complaint in report


def test_every_leak_fails_once_and_a_clean_test_passes(report: str) -> None:
    bad = [line for line in report.splitlines() if line.startswith(("ERROR ", "FAILED "))]
    assert len(bad) == len(LEAKS), report
    assert not any(f"test_made_up_{len(LEAKS)}" in line for line in bad)


SERVER = """
import subprocess, sys
from tests.programs import ending_with_us
subprocess.Popen(ending_with_us("sh", "-c", "echo $$; exec sleep 600"))  # once it is bound to us
sys.stdin.read()
"""


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="no setpriv")
def test_a_server_of_tests_ends_with_the_killed_process_that_started_it() -> None:
    parent = subprocess.Popen([sys.executable, "-c", SERVER], stdin=-1, stdout=-1, text=True)
    with waited_for(parent):
        assert parent.stdout is not None
        server = int(parent.stdout.readline())
        parent.kill()
    while not is_gone(server):  # the suite's timeout ends what never comes
        time.sleep(0.01)
