"""Calls that are cancelled before any callback leave nothing, and the next call works."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import msgspec
import pytest

from aiollm import Limits, Registry, tool
from aiollm.testing import Answer, FakeProvider, FaultServer, ToolCallStep, chat
from tests.broken_off import cancelled_everywhere, held

ROOM = "?max_concurrency=2&rpm=1000000"
FAKE_ROOM = Limits(rpm=1_000_000, max_concurrency=2)
OK = chat("Hel", "lo")
VECTOR = {"object": "list", "data": [{"index": 0, "embedding": [1.0, 2.0]}], "model": "m"}
MODELS = {"object": "list", "data": [{"id": "m"}]}


class City(msgspec.Struct):
    name: str


def served(**servers: FaultServer) -> Registry:
    env = {f"LLM_{name.upper()}": f"openai+{each.url}/v1{ROOM}" for name, each in servers.items()}
    return Registry(env=env, stagger=0.0, cooldown=0.0)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("spec", ["a/m", "sick/m,a/m", "a/m|b/m", "sick/m|a/m", "a/m&b/m"])
async def test_a_call_in_a_chain_a_race_or_a_spread(spec, times):
    async with AsyncExitStack() as stack:
        names = {"a": OK, "b": OK, "sick": chat(error={"message": "x"})}
        servers = {
            name: await stack.enter_async_context(FaultServer(script))
            for name, script in names.items()
        }
        reg = await stack.enter_async_context(served(**servers))

        async def call():
            assert (await reg.generate(spec, "hi")).text == "Hello"

        async def check():
            if not (found := await held(reg)):
                await call()
                found = await held(reg)
            return found

        await call()
        await cancelled_everywhere(call, check, times=times, least=10)


async def test_the_first_call_which_opens_everything():
    async with FaultServer(OK) as server:
        regs = []

        async def call():
            regs.append(served(a=server))
            await regs[-1].generate("a/m", "hi")

        async def check():
            found = []
            while regs:
                reg = regs.pop()
                found += await held(reg)
                await reg.generate("a/m", "hi")
                await reg.aclose()
                await server.wait_idle()
            return found

        await cancelled_everywhere(call, check, least=10)
        await check()


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("way", ["ready", "left", "closed", "closed before"])
async def test_each_way_of_reading_a_stream(way, times):
    async with FaultServer(OK) as server, served(a=server) as reg:

        async def ready():
            async with reg.stream("a/m", "hi") as stream:
                await stream.ready(unless=asyncio.Event().wait())
                async for _ in stream.heartbeat(60):
                    pass

        async def left():
            stream = reg.stream("a/m", "hi")
            await stream.ready()
            async for _ in stream.heartbeat(60):
                pass

        async def closed(first=True):
            async with reg.stream("a/m", "hi") as stream:
                if first:
                    await anext(stream)
                reader = asyncio.create_task(stream.collect())
                await asyncio.sleep(0)
                try:
                    await stream.aclose()
                finally:
                    reader.cancel()
                    await asyncio.wait((reader,))

        async def check():
            found = await held(reg)
            await reg.generate("a/m", "hi")
            return found

        ways = {"ready": ready, "left": left, "closed": closed}
        ways["closed before"] = lambda: closed(first=False)
        await cancelled_everywhere(ways[way], check, times=times)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("operation", ["embed", "models"])
async def test_a_single_request(operation, times):
    answers = {"/v1/embeddings": VECTOR, "/v1/models": MODELS}
    headers = {"content-type": "application/json"}
    paths = {path: Answer(200, headers, body) for path, body in answers.items()}
    async with FaultServer(paths=paths) as server, served(a=server) as reg:

        async def call():
            await (reg.models("a") if operation == "models" else reg.embed("a/m", ["x"]))

        async def check():
            found = await held(reg)
            await call()
            return found

        await call()
        await cancelled_everywhere(call, check, times=times, least=5)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("operation", ["embed", "rerank", "count", "images", "typed", "run"])
async def test_every_other_operation(operation, times):
    entered = left = 0

    @tool
    async def slow() -> str:
        """Take two turns."""
        nonlocal entered, left
        entered += 1
        try:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        finally:
            left += 1
        return "well"

    @tool
    def plain() -> str:
        """Run in a thread."""
        return "well"

    async def approve(*_):
        await asyncio.sleep(0)
        return True

    async def save(_):
        await asyncio.sleep(0)

    def script(_, request):
        last = request.messages[-1]
        if operation == "typed":
            return '{"name": "Oslo"}' if len(request.messages) > 1 else '{"nme": 1}'
        if operation != "run" or last.role == "tool":
            return "Hello"
        return [ToolCallStep(name, id=str(at)) for at, name in enumerate(["slow", "slow", "plain"])]

    fake = FakeProvider(name="a", default=None if operation in LONE else script, tokens=5)
    async with Registry(env={}, cooldown=0.0) as reg:
        reg.register("a", fake.provider(), limits=FAKE_ROOM)

        async def run():
            async with reg.run(
                "a/m", "hi", tools=[slow, plain], save=save, approve=approve
            ) as running:
                async for _ in running:
                    pass

        calls = {
            "embed": lambda: reg.embed("a/m", ["x"] * 700),
            "rerank": lambda: reg.rerank("a/m", "q", ["x", "y"]),
            "count": lambda: reg.count_tokens("a/m", "hi"),
            "images": lambda: reg.generate_images("a/m", "a boat"),
            "typed": lambda: reg.generate("a/m", "hi", output=City),
            "run": run,
        }

        async def check():
            found = await held(reg)
            if fake.running or entered != left:
                found.append("something still runs")
            await calls[operation]()
            return found

        await calls[operation]()
        await cancelled_everywhere(calls[operation], check, times=times)


LONE = {"embed", "rerank", "count", "images"}
"""Operations that a fake without a script answers by itself."""
