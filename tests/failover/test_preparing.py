"""What this process does before it asks, such as fitting images, is not the target's doing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from msgspec.structs import replace

from aiollm import (
    Budget,
    DeadlineError,
    FailoverError,
    ImageRequest,
    Limits,
    Price,
    Registry,
    Request,
    ServerError,
    Timeouts,
    user,
)
from aiollm.media import MediaPool
from aiollm.media.limits import FittedImage
from aiollm.testing import FakeProvider, Gate, Pause, chat
from aiollm.testing.fake_script import PIXEL
from tests.failover.test_virtual_crowd import VirtualLoop, in_virtual_time

KINDS: dict[str, Callable[..., Awaitable[Any]]] = {
    "chat": lambda reg, **options: reg.generate("fake/m", user("what?", PIXEL), **options),
    "images": lambda reg, **options: reg.generate_images(
        "fake/m", ImageRequest("draw", images=(PIXEL,)), **options
    ),
    "embed": lambda reg, **options: reg.embed("fake/m", [PIXEL], **options),
}


class SlowPool(MediaPool):
    """Takes so many seconds for an image, or waits for a gate."""

    def __init__(self, waits: float | Gate) -> None:
        super().__init__(0)
        self.waits = waits

    async def fit(self, *_: Any) -> FittedImage:
        if isinstance(self.waits, Gate):
            await self.waits.passes()
        else:
            await asyncio.sleep(self.waits)
        return FittedImage(PIXEL.data, "image/png", 2, 2)


def registry(fake: FakeProvider, waits: float | Gate) -> Registry:
    """Return a registry that has to change each image for the fake provider, slowly."""
    reg = Registry(env={}, retries=0, prices={"*": Price(1, 1)})
    reg._resources.bind_loop()
    reg._resources._pool = SlowPool(waits)
    row = fake.provider(facts={"min_image_dimension": 2, "max_images_per_request": 1})
    reg.register("fake", row, limits=Limits(max_concurrency=1, rpm=600, tpm=20_000))
    return reg


def later(loop: VirtualLoop, reg: Registry) -> Registry:
    """Put a registry on the clock of a loop."""
    reg._health.clock = reg._gate.now = loop.time
    return reg


@pytest.mark.parametrize("kind", KINDS)
def test_no_deadline_of_an_attempt_passes_while_images_are_fitted(kind):
    async def scenario(loop: VirtualLoop) -> None:
        limits = Timeouts(first_output=10, idle=10, stall=10)
        async with later(loop, registry(FakeProvider(), 1000.0)) as reg:
            await KINDS[kind](reg, timeouts=limits)
            assert [(each.failed, each.succeeded) for each in reg.health()] == [(0, 1)]

    in_virtual_time(scenario)


def test_they_begin_when_the_images_are_ready():
    async def scenario(loop: VirtualLoop) -> None:
        fake = FakeProvider([Pause(15.0), "late"])
        async with later(loop, registry(fake, 1000.0)) as reg:
            with pytest.raises(FailoverError) as caught:
                await KINDS["chat"](reg, timeouts=Timeouts(first_output=10))
        assert isinstance(caught.value.last, DeadlineError)
        assert caught.value.last.which == "first_output"
        assert loop.now == pytest.approx(2010.0, abs=1.0)

    in_virtual_time(scenario)


def test_a_failure_after_it_sets_the_target_aside_for_no_longer_and_an_answer_was_no_later():
    """Else a blip costs a crowd with images as long as its images have waited for a process."""

    async def scenario(loop: VirtualLoop) -> None:
        fake = FakeProvider([Pause(2.0), "slow"], ServerError("down", status=503))
        async with later(loop, registry(fake, 1000.0)) as reg:
            await KINDS["chat"](reg)
            (health,) = reg.health()
            assert health.first_output == pytest.approx(2.0, abs=0.1)
            with pytest.raises(FailoverError):
                await KINDS["chat"](reg)
            (health,) = reg.health()
            assert 0.4 < health.reopens_in <= 1.0

    in_virtual_time(scenario)


def test_the_deadline_of_the_call_ends_the_fitting_and_sends_nothing():
    async def scenario(loop: VirtualLoop) -> None:
        fake = FakeProvider()
        async with later(loop, registry(fake, 1000.0)) as reg:
            with pytest.raises(DeadlineError) as caught:
                await KINDS["chat"](reg, timeouts=Timeouts(total=10))
            assert caught.value.which == "total"
            assert [each.failed for each in reg.health()] == [0]
        assert fake.calls == []

    in_virtual_time(scenario)


def test_what_was_left_out_is_no_sign_of_a_server_that_still_thinks():
    async def scenario(loop: VirtualLoop) -> None:
        fake = FakeProvider([Pause(30.0), "thought"])
        async with later(loop, registry(fake, 0.0)) as reg:
            asked = user("what?", PIXEL, PIXEL)
            limits = Timeouts(first_output=60, idle=10)
            response = await reg.generate("fake/m", asked, timeouts=limits)
        assert response.text == "thought"
        assert len(response.warnings) == 1

    in_virtual_time(scenario)


@pytest.mark.parametrize("kind", KINDS)
async def test_who_leaves_while_images_are_fitted_gets_everything_back(kind):
    fake, gate, budget = FakeProvider(), Gate(), Budget(usd=100)
    async with registry(fake, gate) as reg:
        call = asyncio.ensure_future(KINDS[kind](reg, budget=budget))
        await gate.reached()
        assert reg.limits()[0].used["requests"] > 0
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        (limits,) = reg.limits()
        assert (limits.held, limits.used) == (0, {"requests": 0.0, "tokens": 0.0})
        assert (budget.spent, budget.reserved) == (0, 0)
    assert fake.calls == []


async def test_limits_are_learnt_though_images_were_left_out(serve):
    plain = chat("ok")
    announced = {"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "59"}
    server = await serve(replace(plain, headers={**plain.headers, **announced}))
    async with Registry(env={"LLM_BOX": server.dsn("openai", max_images=1)}) as reg:
        response = await reg.generate("box/m", user("what?", PIXEL, PIXEL))
        assert len(response.warnings) == 1
        assert reg.limits()[0].learnt == {"requests": 60}


@pytest.mark.parametrize(
    ("facts", "options"),
    [({"max_images_per_request": 5}, {}), ({"images": False}, {"on_unsupported": "drop"})],
)
async def test_images_that_a_target_is_not_sent_take_nothing_of_its_limits(facts, options):
    asked = Request([user("see", PIXEL) for _ in range(50)], max_output_tokens=50)
    async with Registry(env={}, retries=0) as reg:
        reg.register("fake", FakeProvider().provider(facts=facts), limits=Limits(tpm=20_000))
        await reg.generate("fake/m", asked, **options)
        assert reg.limits()[0].used["tokens"] < 6_000


@pytest.mark.parametrize("spec", ["box/m", "box/m|fake/m"])
async def test_who_leaves_before_there_is_a_connection_gets_everything_back(spec):
    """The caller, or a race that another target wins, while TLS is not agreed on yet."""
    begun, gate, budget = asyncio.Event(), Gate(), Budget(usd=100)

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begun.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    env = {"LLM_BOX": f"openai://key@127.0.0.1:{port}/v1?rpm=600&tpm=20000"}
    async with server, Registry(env=env, prices={"*": Price(1, 1)}, stagger=0) as reg:
        reg.register("fake", FakeProvider([gate, "won"]).provider())
        call = asyncio.ensure_future(reg.generate(spec, "hi", budget=budget))
        await begun.wait()
        if spec == "box/m":
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert (budget.spent, budget.reserved) == (0, 0)
        else:
            gate.open()
            assert (await call).cost.lost == 0
        (limits,) = [each for each in reg.limits() if each.target.provider == "box"]
        assert limits.used == {"requests": 0.0, "tokens": 0.0}


async def test_who_leaves_before_there_is_a_token_gets_everything_back():
    gate, budget = Gate(), Budget(usd=100)

    async def token() -> str:
        await gate.passes()
        return "key"

    async with Registry(env={}, prices={"*": Price(1, 1)}) as reg:
        limits = Limits(rpm=600, tpm=20_000)
        reg.register("box", "openai+http://127.0.0.1:9/v1", token=token, limits=limits)
        call = asyncio.ensure_future(reg.generate("box/m", "hi", budget=budget))
        await gate.reached()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert reg.limits()[0].used == {"requests": 0.0, "tokens": 0.0}
        assert (budget.spent, budget.reserved) == (0, 0)
