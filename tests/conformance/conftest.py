"""Mock servers by third parties, each in a child process that ends with the tests."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import pytest

from aiollm import Registry
from tests.registries import registries

HERE = Path(__file__).parent
AIMOCK = "1.43.0"
NODE = (20, 15)
"""The first version that it runs on."""


class Server(msgspec.Struct, frozen=True):
    """A mock server, and the way to tell it what to do."""

    url: str

    def dsn(self, scheme: str, path: str = "", **options: str) -> str:
        place = self.url.partition("://")[2]
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return f"{scheme}+http://sk-test@{place}{path}{query and '?'}{query}"

    async def ask(self, path: str, body: Any = None) -> Any:
        """Call the server's own interface: GET, or POST with a body."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data, {"content-type": "application/json"}
        )
        return await asyncio.to_thread(_fetch, request)


def _fetch(request: urllib.request.Request) -> Any:
    with urllib.request.urlopen(request, timeout=10) as reply:
        return json.loads(reply.read() or b"null")


def lacking(reason: str) -> NoReturn:
    """Skip for want of a tool; the gate installs them all, so there that is an error."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def child(*command: str) -> Iterator[str]:
    """Run a server until the block ends; give the address that it prints first."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["url"]
        process.stdin.close()
        process.wait(30)
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def installed_aimock() -> Path:
    """Return where aimock is, installed once for each environment by its locked hash."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("no node and npm: aimock cannot run")
    told = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    if tuple(map(int, told.strip().removeprefix("v").split(".")[:2])) < NODE:
        pytest.skip(
            f"aimock needs Node.js {NODE[0]}.{NODE[1]} or newer, and this is {told.strip()}"
        )
    root = Path(sys.prefix if sys.prefix != sys.base_prefix else tempfile.gettempdir())
    home = root / "share" / f"aimock-{AIMOCK}"
    entry = home / "node_modules" / "@copilotkit" / "aimock" / "dist" / "index.js"
    if not entry.exists():
        home.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, home)
        command = [npm, "ci", "--prefix", home, "--ignore-scripts", "--no-audit", "--no-fund"]
        try:
            subprocess.run(command, cwd=home, capture_output=True, timeout=50, check=True)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            # A machine may have node and no way to the packages: then there is nothing to test.
            said = (error.stderr or b"").decode("utf-8", "replace").strip()
            pytest.skip(f"npm cannot install aimock: {said[-200:] or error}")
    return entry


@pytest.fixture(scope="session")
def aimock_server() -> Iterator[str]:
    """Run aimock for all tests."""
    entry = installed_aimock()
    with child("node", str(HERE / "aimock.mjs"), str(entry)) as url:
        yield url


@pytest.fixture
async def aimock(aimock_server: str) -> Server:
    """Aimock without fixtures; requests that nothing matches get a 503."""
    server = Server(aimock_server)
    await server.ask("/__aimock/reset", {})
    return server


@pytest.fixture(scope="session")
def llmock_server() -> Iterator[str]:
    """Run llmock for all tests."""
    if importlib.util.find_spec("llmock") is None:
        lacking("llmock is not installed")
    with child(sys.executable, str(HERE / "llmock_child.py")) as url:
        yield url


@pytest.fixture
async def llmock(llmock_server: str) -> AsyncIterator[Server]:
    """Llmock without a scenario; the test fails unless its verdict is a pass.

    Of its warnings only `gave_up` is let through: it does not see that a chain moves on.
    """
    server = Server(llmock_server)
    await server.ask("/_llmock/reset", {})
    yield server
    verdict = await server.ask("/_llmock/verdict")
    assert verdict["passed"], verdict
    assert {each["code"] for each in verdict["findings"]} <= {"gave_up"}, verdict
    assert await server.ask("/_llmock/scenario") == {"pending": []}


@pytest.fixture
async def registry() -> AsyncIterator[Callable[..., Any]]:
    """Make a registry of DSNs by name; it ends with the test."""
    async with registries(Steady, cooldown=0.05) as make:
        yield make


class Steady(Registry):
    """Waits without jitter."""

    @staticmethod
    def _uniform(a: float, b: float) -> float:
        return (a + b) / 2
