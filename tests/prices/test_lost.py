"""What is lost: races, cuts and retries cost something, refusals and what was never sent do not."""

from __future__ import annotations

import pytest

from aiollm import (
    AgentRun,
    ConnectError,
    Cost,
    FailoverError,
    Finish,
    GenerationError,
    Price,
    RateLimitError,
    Registry,
    ServerError,
    StreamInterrupted,
    TextDelta,
    Timeouts,
    Usage,
)
from aiollm.codecs import UsageUpdate
from aiollm.testing import NEVER, FakeProvider, ToolCallStep

ANSWER = ["Hello", Finish("stop", "stop", Usage(1000, 100, certainty="exact"))]
PRICES = {"a/*": Price(2, 10), "b/*": Price(1, 1)}
QUESTION = "x" * 400
"""A message of 400 bytes: about 100 tokens, and 4 for being a message."""


@pytest.fixture
async def registry():
    """Return a function that makes a registry of fake providers."""
    made = []

    def make(**fakes):
        prices = fakes.pop("prices", PRICES)
        settings = fakes.pop("settings", {})
        reg = Registry(env={}, prices=prices, **settings)
        for name, fake in fakes.items():
            reg.register(name, fake.provider(name=name, base_url=f"fake://{name}"))
        made.append(reg)
        return reg

    yield make
    for each in made:
        await each.aclose()


def usd(cost):
    return round((cost.usd or 0) * 1e6, 3), round(cost.lost * 1e6, 3)


@pytest.mark.parametrize(
    "error",
    [
        ServerError("no", status=500),
        RateLimitError("slow down", status=429, retry_after=0.0),
        ConnectError("nobody is there"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_was_refused_or_never_sent_costs_nothing(registry, error):
    reg = registry(a=FakeProvider(error), b=FakeProvider(ANSWER))
    response = await reg.generate("a/m,b/m", QUESTION, retries=0)
    assert usd(response.cost) == (1100, 0)
    assert [attempt.usd for attempt in response.attempts] == [0.0, pytest.approx(1100e-6)]


async def test_the_loser_of_a_race_costs_its_input(registry):
    reg = registry(a=FakeProvider([NEVER]), b=FakeProvider(ANSWER))
    response = await reg.generate("a/m|b/m", QUESTION, stagger=0.01)
    assert usd(response.cost) == (1100, 104 * 2)
    assert response.cost.total == pytest.approx(1308e-6)


async def test_a_cut_answer_costs_what_had_been_counted(registry):
    counted = UsageUpdate(Usage(500, 1, cached_tokens=0, certainty="partial"))
    cut = FakeProvider([[counted, TextDelta("y" * 40)], StreamInterrupted("cut")])
    reg = registry(a=cut, b=FakeProvider(ANSWER))
    response = await reg.generate("a/m,b/m", QUESTION, on_interrupt="restart")
    # Of the output, what had arrived is more than what had been counted.
    assert usd(response.cost) == (1100, 500 * 2 + 10 * 10)


async def test_a_cut_answer_without_counts_costs_what_is_estimated(registry):
    cut = FakeProvider(["y" * 40, StreamInterrupted("cut")])
    reg = registry(a=cut, b=FakeProvider(ANSWER))
    response = await reg.generate("a/m,b/m", QUESTION, on_interrupt="restart")
    assert usd(response.cost) == (1100, 104 * 2 + 10 * 10)


async def test_an_unusable_output_was_made_and_costs_something(registry):
    reg = registry(a=FakeProvider(GenerationError("no call fits")), b=FakeProvider(ANSWER))
    response = await reg.generate("a/m,b/m", QUESTION, retries=0)
    assert usd(response.cost) == (1100, 104 * 2)


async def test_the_partial_answer_of_an_error_costs_what_has_been_counted(registry):
    counted = UsageUpdate(Usage(500, 7, certainty="partial"))
    reg = registry(a=FakeProvider([[counted, TextDelta("Hel")], StreamInterrupted("cut")]))
    with pytest.raises(StreamInterrupted) as failure:
        await reg.generate("a/m", QUESTION)
    assert failure.value.partial.cost == Cost(1070e-6, "listed")


@pytest.mark.parametrize("prices", [False, {"b/*": Price(1, 1)}])
async def test_what_was_lost_where_no_price_is_known_is_not_0(registry, prices):
    cut = FakeProvider(["Hel", StreamInterrupted("cut")])
    reg = registry(a=cut, b=FakeProvider(ANSWER), prices=prices)
    response = await reg.generate("a/m,b/m", QUESTION, on_interrupt="restart")
    assert response.cost.lost is None
    assert response.cost.total is None


async def test_a_stream_that_is_left_has_cost_its_input(registry):
    reg = registry(a=FakeProvider(["Hel", NEVER]))
    async with reg.stream("a/m", QUESTION) as stream:
        await anext(stream)
        assert stream.partial.cost == Cost()
        assert stream.attempts[0].usd is None
    assert round(stream.attempts[0].usd * 1e6) == 104 * 2 + 10


async def test_a_timeout_before_any_output_costs_the_input(registry):
    reg = registry(a=FakeProvider([NEVER]), b=FakeProvider(ANSWER))
    timeouts = Timeouts(first_output=0.01)
    response = await reg.generate("a/m,b/m", QUESTION, timeouts=timeouts, retries=0)
    assert usd(response.cost) == (1100, 104 * 2)


async def test_the_attempts_of_a_failed_call_say_what_they_cost(registry):
    reg = registry(a=FakeProvider(GenerationError("no"), ServerError("no", status=500)))
    with pytest.raises(FailoverError) as failure:
        await reg.generate("a/m", QUESTION, retries=0)
    assert [attempt.usd for attempt in failure.value.attempts] == [pytest.approx(208e-6)]


async def test_a_run_costs_all_of_its_turns(registry):
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    turn = [
        ToolCallStep("add", '{"a": 1, "b": 2}'),
        Finish("tool_calls", "", Usage(500, 10, certainty="exact")),
    ]
    reg = registry(a=FakeProvider(turn, ANSWER))
    run: AgentRun = reg.run("a/m", "1 + 2?", tools=[add])
    await run.collect()
    assert usd(run.cost) == (500 * 2 + 100 + 3000, 0)
    assert run.usage.input_tokens == 1500


async def test_a_run_that_fails_has_cost_the_turns_that_were_answered(registry):
    call = [ToolCallStep("add"), Finish("tool_calls", "", Usage(500, 10, certainty="exact"))]
    fake = FakeProvider(call, call, StreamInterrupted("cut before any output"))

    def add() -> int:
        return 3

    run = registry(a=fake, settings={"retries": 0}).run("a/m", QUESTION, tools=[add])
    with pytest.raises(FailoverError):
        await run.collect()
    answered = 2 * (500 * 2 + 10 * 10)
    assert run.cost.usd == pytest.approx(answered / 1e6)
    assert run.cost.lost is not None
    assert run.cost.lost > 0  # the input of the turn that was cut


async def test_images_cost_their_own_price(registry):
    reg = registry(a=FakeProvider(), prices={"a/*": Price(2, 10, image=0.04)})
    result = await reg.generate_images("a/m", "a duck")
    assert usd(result.cost) == (40_000, 0)


def test_costs_can_be_added():
    costs = [Cost(1.0, "billed", 0.5), Cost(2.0, "listed", 0.0)]
    assert costs[0] + costs[1] == Cost(3.0, "listed", 0.5)
    assert costs[0] + Cost() == Cost(None, "unknown", 0.5)
    assert (costs[0] + Cost(1.0, "listed", None)).lost is None


async def test_an_error_after_output_costs_what_had_arrived(registry):
    reg = registry(
        a=FakeProvider(["y" * 40, ServerError("no", status=500)]), b=FakeProvider(ANSWER)
    )
    response = await reg.generate("a/m,b/m", QUESTION, on_interrupt="restart")
    assert usd(response.cost) == (1100, 104 * 2 + 10 * 10)
