"""One real llama.cpp server for all end-to-end tests, run by hand as `python -m aiollm.local`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator

import msgspec
import pytest

from aiollm import Registry, local

KEY = "sk-made-up-for-tests"
MODEL = "smollm2"


class Server(msgspec.Struct, frozen=True):
    """Where the server is."""

    url: str
    place: str
    pid: int

    def dsn(self, scheme: str = "openai", *, key: str = KEY, tail: str = "") -> str:
        return f"{scheme}+http://{key}@{self.place}{tail}"


@pytest.fixture(scope="session")
def local_model() -> None:
    """Skip where the extra is not installed; `make test` installs it, so there that is an error."""
    if lacking := local.missing():
        reason = f"no local model: {' && '.join(lacking)}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def server(local_model: None) -> Iterator[Server]:
    """Start the child, read its one line, and end it by closing its input."""
    options = ["--model", str(local.find_model()), "--alias", MODEL, "--api-key", KEY]
    options += ["--parallel", "2", "--ctx", "2048", "--threads", "1"]
    child = subprocess.Popen(
        [sys.executable, "-m", "aiollm.local", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        ready = json.loads(child.stdout.readline())
        assert (ready["model"], ready["pid"]) == (MODEL, child.pid)
        yield Server(ready["url"], ready["url"].partition("://")[2], ready["pid"])
        child.stdin.close()
        assert child.wait(30) == 0
        assert child.stdout.read() == b""
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()


@pytest.fixture
async def reg(server: Server) -> AsyncIterator[Registry]:
    """A registry that knows the server by each wire it speaks, and a dead port."""
    env = {
        "LLM_LOCAL": server.dsn(tail="?api=chat"),
        "LLM_RESPONSES": server.dsn(tail="?api=responses"),
        "LLM_MESSAGES": server.dsn("anthropic"),
        "LLM_WRONG_KEY": server.dsn(key="sk-wrong"),
        "LLM_WRONG_PATH": server.dsn(tail="/nowhere"),
        "LLM_DOWN": "openai+http://127.0.0.1:9/v1",
    }
    async with Registry(env=env, retries=0, cooldown=60) as registry:
        yield registry
