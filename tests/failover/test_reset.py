"""Resetting health, and loading a model: the calls that wait look again at once."""

from __future__ import annotations

import asyncio

import pytest

from aiollm import FailoverError, RateLimitError, Registry
from aiollm._failover.gate import Gate as CallGate
from aiollm._failover.health import Health
from aiollm.codecs import codec_of
from aiollm.errors import ConnectError, ServerError
from aiollm.events import CallQueued
from aiollm.provider import Provider
from aiollm.testing import Answer, Gate, chat
from aiollm.types import Target

OK = chat("Hel", "lo")
WELL = {"cooldown": 100, "max_wait": 1000, "patience": 1000, "retries": 2}


async def waiting(reg: Registry, spec: str) -> asyncio.Task:
    """Start a call; return once it waits in line."""
    queued = asyncio.Event()
    stop = reg.on_event(lambda event: queued.set() if type(event) is CallQueued else None)
    call = asyncio.create_task(reg.generate(spec, "hi"))
    await queued.wait()
    stop()
    return call


def status(code: int, **headers: str) -> Answer:
    return Answer(code, {"content-type": "application/json", **headers}, b"{}")


@pytest.mark.parametrize("which", ["a/m", None])
async def test_a_call_that_waits_for_a_failed_target_goes_once_its_health_is_reset(
    serve, registry, which
):
    reg = registry({"a": await serve(status(503, **{"retry-after": "500"}), OK)}, **WELL)
    call = await waiting(reg, "a/m")
    reg.reset_health(which)
    assert (await call).text == "Hello"


async def test_a_call_that_a_429_keeps_back_goes_once_its_target_is_reset(serve, registry):
    reg = registry({"a": await serve(status(429, **{"retry-after": "500"}), OK)}, **WELL)
    call = await waiting(reg, "a/m")
    reg.reset_health("a/m")
    assert (await call).text == "Hello"
    (limits,) = reg.limits()
    assert (limits.pace, limits.blocked_for) == (None, 0.0)


async def test_what_a_429_announced_is_forgotten_with_it(serve, registry):
    empty = {
        "x-ratelimit-limit-requests": "1",
        "x-ratelimit-remaining-requests": "0",
        "retry-after": "500",
    }
    reg = registry({"a": await serve(status(429, **empty), OK)}, **WELL)
    call = await waiting(reg, "a/m")
    assert reg.limits()[0].learnt == {"requests": 1.0}
    reg.reset_health("a/m")
    assert (await call).text == "Hello"


async def test_the_429_of_another_target_stays(serve, registry):
    server = await serve(status(429, **{"retry-after": "500"}))
    reg = registry({"a": server}, retries=0)
    for model in ("m", "n"):
        with pytest.raises(FailoverError) as caught:
            await reg.generate(f"a/{model}", "hi")
        assert isinstance(caught.value.last, RateLimitError)
    reg.reset_health("a/m")
    assert [each.blocked_for > 0 for each in reg.limits()] == [False, True]


def test_resetting_one_target_frees_its_own_host_alone():
    gate = CallGate(Health())
    lines = [
        gate.line(Target(name, "m"), Provider(name, "openai", f"http://{name}", codec_of("openai")))
        for name in ("a", "b")
    ]
    for line in lines:
        gate.health.admit(line.target, line.origin).failure(ConnectError("x"))
    gate.reset(Target("a", "m"), "http://a:80")
    assert gate.health.ready_in(Target("a", "other"), "http://a:80") == 0
    assert gate.health.ready_in(Target("b", "other"), "http://b:80") > 0


async def test_a_probe_given_back_frees_the_host_for_calls_with_another_key(serve, registry):
    """The host's breaker is shared by all keys, and so is the right to probe it."""
    server = await serve(OK)
    reg = registry({"a": server}, **WELL)
    for name in "ab":
        reg.register(name, f"openai+http://{name}@127.0.0.1:{server.port}/v1")
    await reg.preload("a/m,b/m")
    reg._resources.bind_loop()
    line = reg._gate.line(Target("a", "m"), reg.provider("a"))
    reg._health.base = 1e-9
    reg._health.admit(line.target, line.origin).failure(ConnectError("x"))
    probe = reg._gate._admit(line, 0, None, reg._gate.now())
    assert probe.permit.is_probe
    call = await waiting(reg, "b/m")
    probe.abandoned(was_sent=False)
    assert (await call).text == "Hello"


@pytest.fixture
def swap(registry):
    """Make a registry with one llama-swap server."""

    def make(server, **options):
        reg = registry({}, **options)
        reg.register("s", f"llama-swap://127.0.0.1:{server.port}")
        return reg

    return make


async def test_a_loaded_model_lets_the_calls_that_wait_for_it_through(serve, swap):
    """It is the probe: the call waits for its verdict, and goes with it."""
    gate = Gate()
    loaded = chat("x", gate)
    server = await serve(loaded, OK, OK, OK)
    reg = swap(server, **WELL)
    await reg.preload("s/m")
    reg._resources.bind_loop()
    line = reg._gate.line(Target("s", "m"), reg.provider("s"))
    reg._health.base = 1e-9
    reg._health.admit(line.target, line.origin).failure(ServerError("x", status=500))
    load = asyncio.create_task(reg.load_models("s/m"))
    await gate.reached()
    call = await waiting(reg, "s/m")
    assert not call.done()
    gate.open()
    await load
    assert (await call).text == "Hello"


async def test_a_load_that_is_cancelled_hands_the_probe_on(serve, swap):
    gate = Gate()
    server = await serve(chat("x", gate), OK, OK, OK)
    reg = swap(server, **WELL)
    await reg.preload("s/m")
    reg._resources.bind_loop()
    line = reg._gate.line(Target("s", "m"), reg.provider("s"))
    reg._health.base = 1e-9
    reg._health.admit(line.target, line.origin).failure(ServerError("x", status=500))
    load = asyncio.create_task(reg.load_models("s/m"))
    await gate.reached()
    call = await waiting(reg, "s/m")
    load.cancel()
    with pytest.raises(asyncio.CancelledError):
        await load
    assert (await call).text == "Hello"
