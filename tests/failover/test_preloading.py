"""What the first call needs is imported in a thread, so that the event loop goes on meanwhile."""

from __future__ import annotations

import json

import pytest

from aiollm import ConfigError, Registry
from tests.programs import run_program

SERVICE = """
import asyncio, json, sys, threading
from aiollm import Registry
from aiollm.testing import FaultServer

loaded = {"on the loop": [], "in a thread": []}

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(("aiollm.providers", "aiollm._http", "aiohttp")):
            is_main = threading.current_thread() is threading.main_thread()
            loaded["on the loop" if is_main else "in a thread"].append(name)

async def main():
    async with FaultServer() as server, Registry(env={"LLM_A": f"openai+{server.url}/v1"}) as reg:
        sys.meta_path.insert(0, Finder())
        await reg.preload("a/m")
        await reg.generate("a/m", "hi")
    print(json.dumps(loaded))

asyncio.run(main())
"""


def test_preloading_a_spec_imports_its_codec_in_a_thread_and_leaves_nothing_to_the_first_call():
    done = run_program(SERVICE)
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)
    assert loaded["on the loop"] == []
    wanted = {"openai.chat_codec", "openai.chat_decode"}
    assert {f"aiollm.providers.{name}" for name in wanted} <= set(loaded["in a thread"])
    assert {"aiollm._http.streaming", "aiollm._http.transport"} <= set(loaded["in a thread"])


async def test_preloading_asks_a_scheme_of_the_program_once_and_on_the_loop():
    asked = []

    def make(name, dsn):
        asked.append(name)
        raise ConfigError("there is no such box")

    async with Registry(env={"LLM_A": "box://here"}) as reg:
        reg.register_scheme("box", make)
        with pytest.raises(ConfigError, match="no such box"):
            await reg.preload("a/m")
    assert asked == ["a"]
