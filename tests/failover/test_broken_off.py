"""Calls that are cancelled before any callback leave nothing, and the next call works."""

from __future__ import annotations

import asyncio
import base64
import itertools
from contextlib import AsyncExitStack, suppress

import msgspec
import pytest

from aiollm import Budget, ClosedError, ImageRequest, Limits, Price, Registry
from aiollm.testing import Answer, Cut, FakeProvider, FaultServer, Stale, chat, sse
from aiollm.testing.fake_script import PIXEL
from tests.broken_off import cancelled_and_repeated, cancelled_everywhere, closed_everywhere, held

pytestmark = pytest.mark.loops

ROOM = "?max_concurrency=2&rpm=1000000"
FAKE_ROOM = Limits(rpm=1_000_000, max_concurrency=2)
OK = chat("Hel", "lo")
VECTOR = {"object": "list", "data": [{"index": 0, "embedding": [1.0, 2.0]}], "model": "m"}
MODELS = {"object": "list", "data": [{"id": "m"}]}


PNG = base64.b64encode(PIXEL.data).decode()


class City(msgspec.Struct):
    name: str


def served(stagger: float = 0.0, **servers: FaultServer) -> Registry:
    env = {f"LLM_{name.upper()}": f"openai+{each.url}/v1{ROOM}" for name, each in servers.items()}
    return Registry(env=env, stagger=stagger, cooldown=0.0)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("spec", ["a/m", "sick/m,a/m", "a/m|b/m", "sick/m|a/m", "a/m&b/m"])
@pytest.mark.parametrize("stagger", [0.0, 0.001])
async def test_a_call_in_a_chain_a_race_or_a_spread(spec, stagger, times):
    async with AsyncExitStack() as stack:
        names = {"a": OK, "b": OK, "sick": chat(error={"message": "x"})}
        servers = {
            name: await stack.enter_async_context(FaultServer(script))
            for name, script in names.items()
        }
        reg = await stack.enter_async_context(served(stagger, **servers))

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


FAULTS = {
    "asked again": Answer(500, {}, {"error": {"message": "x"}}),
    "paced": Answer(429, {"retry-after-ms": "3"}, {"error": {"message": "x"}}),
    "sent again": Stale(OK),
    "restarted": Cut(400),
    "in line": OK,
}


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_call_that_waits_or_begins_anew(fault, times):
    asked = 0

    def script(_):
        nonlocal asked
        asked += 1
        return FAULTS[fault] if asked % 2 else OK

    async with FaultServer(script) as a, FaultServer(OK) as b, served(a=a, b=b) as reg:

        async def call():
            nonlocal asked
            asked = 0
            count = 3 if fault == "in line" else 1
            spec = "a/m,b/m" if fault == "restarted" else "a/m"
            calls = (reg.generate(spec, "hi", on_interrupt="restart") for _ in range(count))
            await asyncio.gather(*calls)

        async def check():
            found = await held(reg)
            reg.reset_health()
            await reg.generate("b/m", "hi")
            return found

        await call()
        await cancelled_everywhere(call, check, times=times, least=10)


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("spec", ["a/m", "a/m|b/m"])
async def test_a_call_whose_registry_is_closed(spec, is_first):
    async with FaultServer(OK) as a, FaultServer(OK) as b:
        made = []

        async def make():
            reg = served(a=a, b=b)
            made.append(reg)
            if not is_first:
                await reg.generate(spec, "hi")
            return lambda: reg.generate(spec, "hi"), reg.aclose

        async def check():
            reg = made.pop()
            found = await held(reg)
            await reg.aclose()
            await a.wait_idle()
            await b.wait_idle()
            return found

        await closed_everywhere(make, check)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("way", ["ready", "watched", "closed", "closed before"])
async def test_each_way_of_reading_a_stream(way, times):
    async with FaultServer(OK) as server, served(a=server) as reg:

        async def ready():
            async with reg.stream("a/m", "hi") as stream:
                await stream.ready(unless=asyncio.Event().wait())
                async for _ in stream.heartbeat(60):
                    pass

        async def watched():
            async with reg.stream("a/m", "hi") as stream:
                await stream.ready()
                async for _ in stream.heartbeat(60):
                    pass

        async def read(stream):
            with suppress(ClosedError):
                await stream.collect()

        async def closed(first=True):
            async with reg.stream("a/m", "hi") as stream:
                if first:
                    await anext(stream)
                reader = asyncio.create_task(read(stream))
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

        ways = {"ready": ready, "watched": watched, "closed": closed}
        ways["closed before"] = lambda: closed(first=False)
        await cancelled_everywhere(ways[way], check, times=times)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("operation", ["embed", "models"])
async def test_a_single_request_cancelled_anywhere_leaves_nothing(operation, times):
    answers = {"/v1/embeddings": VECTOR, "/v1/models": MODELS}
    headers = {"content-type": "application/json"}
    paths = {path: Answer(200, headers, body) for path, body in answers.items()}
    async with FaultServer(paths=paths) as server, served(a=server) as reg:

        async def call():
            await (reg.models("a") if operation == "models" else reg.embed("a/m", ["x"]))

        await cancelled_and_repeated(call, reg, times=times, least=4)


@pytest.mark.parametrize("times", [1, 2])
async def test_a_stream_of_images(times):
    kind = "image_generation."
    draft = {"type": f"{kind}partial_image", "b64_json": PNG, "partial_image_index": 0}
    whole = {"type": f"{kind}completed", "b64_json": PNG}
    script = sse((draft["type"], draft), (whole["type"], whole))
    asked = ImageRequest("a boat", extra={"*": {"stream": True, "partial_images": 1}})
    async with FaultServer(script) as server, served(a=server) as reg:

        async def call():
            async with reg.stream_images("a/m", asked) as stream:
                assert len([each async for each in stream]) == 2

        await cancelled_and_repeated(call, reg, times=times, least=10)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("is_async", [True, False])
async def test_a_call_whose_token_a_callable_gives(is_async, times):
    numbers = itertools.count()

    def plain():
        return f"token-{next(numbers)}"

    async def token():
        await asyncio.sleep(0)
        return plain()

    async with FaultServer(OK) as server, Registry(env={}, cooldown=0.0) as reg:
        dsn = f"openai+{server.url}/v1{ROOM}"
        reg.register("a", dsn, token=token if is_async else plain)

        async def call():
            if (tokens := reg._resources._tokens) is not None:
                tokens._kept.clear()
            await reg.generate("a/m", "hi")

        await cancelled_and_repeated(call, reg, times=times, least=10)


OTHERS = {
    "embed": lambda reg, _: reg.embed("a/m", ["x"] * 700),
    "rerank": lambda reg, _: reg.rerank("a/m", "q", ["x", "y"]),
    "count": lambda reg, _: reg.count_tokens("a/m", "hi"),
    "images": lambda reg, _: reg.generate_images("a/m", "a boat"),
    "session": lambda reg, _: reg.generate("a/m", "hi", session="s"),
    "budget": lambda reg, budget: reg.generate("a/m", "hi", budget=budget, max_output_tokens=9),
}


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("operation", OTHERS)
async def test_every_other_operation_cancelled_anywhere_leaves_nothing(operation, times):
    fake = FakeProvider(name="a", tokens=5)
    budget = Budget(usd=1000)
    async with Registry(env={}, cooldown=0.0, prices={"a/*": Price(10, 100)}) as reg:
        reg.register("a", fake.provider(), limits=FAKE_ROOM)

        async def call():
            await OTHERS[operation](reg, budget)

        def is_busy():
            return fake.running or budget.reserved

        await cancelled_and_repeated(call, reg, is_busy=is_busy, times=times)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("is_streamed", [True, False])
async def test_a_typed_answer_cancelled_anywhere_leaves_nothing(is_streamed, times):
    def script(_, request):
        is_well = is_streamed or len(request.messages) > 1
        return '{"name": "Oslo"}' if is_well else '{"nme": 1}'

    fake = FakeProvider(name="a", default=script)
    async with Registry(env={}, cooldown=0.0) as reg:
        reg.register("a", fake.provider(), limits=FAKE_ROOM)

        async def call():
            if not is_streamed:
                await reg.generate("a/m", "hi", output=City)
                return
            async with reg.stream("a/m", "hi", output=City) as stream:
                async for _ in stream:
                    pass

        await cancelled_and_repeated(call, reg, times=times)
