"""A registry leaves no reference cycle: it dies with its last reference, not with the collector."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from aiollm import FailoverError, RateLimitError, Registry, tool
from aiollm.testing import FakeProvider, tool_call


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def unused(reg):
    del reg


async def streamed(reg):
    await reg.stream("a/m", "hi").collect()


async def hooked(reg):
    events = []
    reg.on_event(events.append)
    await reg.stream("a/m", "hi").collect()
    assert events


async def left(reg):
    async with reg.stream("a/m", "hi") as stream:
        await anext(stream)


async def failed(reg):
    with pytest.raises(FailoverError):
        await reg.generate("busy/m", "hi")


async def raced(reg):
    await reg.generate("busy/m|a/m", "hi")


async def ran(reg):
    await reg.run("tools/m", "2 + 2?", tools=[add]).collect()


async def drawn(reg):
    await reg.generate_images("a/m", "a boat")


async def listed(reg):
    reg.health()
    reg.describe()
    reg.parse("a/m")
    reg.llama_swap("ls")


@pytest.mark.parametrize("use", [unused, streamed, hooked, left, failed, raced, ran, drawn, listed])
async def test_a_registry_dies_with_its_last_reference(use):
    gc.collect()
    gc.disable()
    try:
        reg = Registry(env={"LLM_LS": "llama-swap://127.0.0.1:1"}, retries=0)
        reg.register("a", FakeProvider().provider())
        reg.register("busy", FakeProvider(RateLimitError("slow down")).provider())
        reg.register("tools", FakeProvider([tool_call("add", {"a": 2, "b": 2})], "4").provider())
        await use(reg)
        await reg.aclose()
        gone = weakref.ref(reg)
        resources = weakref.ref(reg._resources)
        del reg
        await asyncio.sleep(0)
        assert gone() is None
        assert resources() is None
    finally:
        gc.enable()
