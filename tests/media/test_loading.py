"""What images need is loaded in a thread, by the first request that holds one."""

from __future__ import annotations

import asyncio
import json

import pytest

from aiollm import ImagePart, Registry, Request, user
from aiollm.errors import ClosedError
from aiollm.testing import FakeProvider
from tests.programs import run_program

SERVICE = """
import asyncio, json, sys, threading
from aiollm import ImagePart, Registry, Request, user
from aiollm.testing import FakeProvider

loaded = {}

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("aiollm.media") or name in {"hashlib", "concurrent.futures.thread"}:
            loaded[name] = threading.current_thread() is threading.main_thread()
        return None

# Threads are there before: the first `to_thread` loads what it needs itself.
asyncio.run(asyncio.to_thread(int))
sys.meta_path.insert(0, Finder())

async def main():
    seen = {}
    async with Registry(env={}) as reg:
        reg.register("fake", FakeProvider(default="Hello").provider())
        if "preload" in sys.argv:
            await reg.preload()
        await reg.generate("fake/m", "without an image")
        seen["before"] = dict(loaded)
        png = bytes.fromhex("89504e470d0a1a0a0000000d49484452000000010000000108020000009077"
            "53de0000000c4944415478da6338c3c0000003010100c9fe92ef0000000049454e44ae426082")
        await reg.generate("fake/m", Request(user("look", ImagePart(png))))
    seen["after"] = loaded
    print(json.dumps(seen))

asyncio.run(main())
"""


def loaded(*arguments: str) -> dict[str, dict[str, bool]]:
    """Return the modules loaded before and after the first image, true if in the main thread."""
    done = run_program(SERVICE, *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_first_image_loads_its_modules_off_the_loop():
    seen = loaded()
    assert not any(name.startswith("aiollm.media") for name in seen["before"])
    assert {"aiollm.media.pool", "aiollm.media.prepare"} <= seen["after"].keys()
    assert [name for name, on_the_loop in seen["after"].items() if on_the_loop] == ["aiollm.media"]


def test_after_preloading_the_first_image_loads_nothing():
    seen = loaded("preload")
    assert {"aiollm.media.pool", "aiollm.media.prepare"} <= seen["before"].keys()
    assert seen["before"] == seen["after"]


async def test_two_first_images_at_once_share_one_pool():
    async with Registry(env={}) as reg:
        first, second = await asyncio.gather(reg._resources.open_pool(), reg._resources.open_pool())
        assert first is second


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
async def test_a_registry_that_is_closed_meanwhile_opens_no_pool(turns):
    reg = Registry(env={})
    reg.register("fake", FakeProvider().provider())
    asked = Request(user("look", ImagePart(b"\x89PNG\r\n\x1a\n")))
    call = asyncio.create_task(reg.generate("fake/m", asked))
    for _ in range(turns):
        await asyncio.sleep(0)
    await reg.aclose()
    with pytest.raises(ClosedError):
        await call
    assert reg._resources._pool is None
