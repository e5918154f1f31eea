"""Budgets: an error before what would exceed them, and not a cent kept that was not spent."""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aiollm import (
    Budget,
    BudgetError,
    ConfigError,
    DeadlineError,
    DocumentPart,
    Finish,
    GenerationError,
    ImageRequest,
    Limits,
    Message,
    OpaquePart,
    Price,
    ProviderData,
    ReasoningPart,
    Registry,
    Request,
    Response,
    ServerError,
    StreamInterrupted,
    Timeouts,
    Usage,
    http_status,
    user,
)
from aiollm.prices.ledger import Ledger
from aiollm.testing import NEVER, FakeProvider, FaultServer, Gate, ToolCallStep, chat
from tests.failover.test_fork import in_a_child

PRICES = {"fake/*": Price(10, 100), "free/*": Price(0, 0)}
QUESTION = Request((user("hi"),), max_output_tokens=100)
MOST = (18 * 10 + 100 * 100) / 1e6
"""Dollars that it costs at most: a token for each byte and 16 for a message, and the output."""


def answer(made=80):
    return ["Hello", Finish("stop", "stop", Usage(10, made, certainty="exact"))]


COST = (10 * 10 + 80 * 100) / 1e6


@pytest.fixture
async def world():
    """A registry with a fake provider that answers always."""
    fake = FakeProvider(default=answer())
    async with Registry(env={}, prices=PRICES) as reg:
        reg.register("fake", fake.provider())
        yield reg, fake


async def crowd(reg, budget, count=200, **options):
    calls = (reg.generate("fake/m", QUESTION, budget=budget, **options) for _ in range(count))
    return await asyncio.gather(*calls, return_exceptions=True)


def is_settled(budget):
    return budget.reserved == 0.0


async def test_a_call_within_the_budget_books_what_it_cost(world):
    reg, _ = world
    budget = Budget(1)
    response = await reg.generate("fake/m", QUESTION, budget=budget)
    assert budget.spent == pytest.approx(COST)
    assert response.cost.usd == pytest.approx(COST)
    assert is_settled(budget)
    assert budget.left == pytest.approx(1 - COST)


@pytest.mark.parametrize("sums", [COST * 100, COST * 20 + 0.001, 0.2])
async def test_200_calls_side_by_side_never_exceed_it_and_use_nine_tenths_of_it(sums):
    """Each waits for the sums that others have reserved and do not use."""
    budget = Budget(sums)
    most = 0.0

    def look(target, request):
        nonlocal most
        most = max(most, budget.spent + budget.reserved)
        return answer()

    fake = FakeProvider(default=look)
    async with Registry(env={}, prices=PRICES) as reg:
        reg.register("fake", fake.provider())
        answers = await crowd(reg, budget)
    refused = [each for each in answers if isinstance(each, BudgetError)]
    answered = [each for each in answers if not isinstance(each, Exception)]
    assert len(refused) + len(answered) == 200
    assert refused
    assert answered
    assert len(fake.calls) == len(answered)
    assert max(most, budget.spent) <= sums
    assert budget.spent == pytest.approx(sum(each.cost.usd for each in answered))
    assert budget.spent >= min(0.9 * sums, sums - MOST)
    assert is_settled(budget)


async def test_a_crowd_over_http_does_not_exceed_it():
    async with FaultServer(default=chat("Hello", usage=(10, 80))) as server:
        env = {"LLM_FAKE": f"openai+http://k@127.0.0.1:{server.port}/v1?api=chat"}
        budget = Budget(COST * 50)
        async with Registry(env=env, prices=PRICES) as reg:
            answers = await crowd(reg, budget)
    answered = sum(not isinstance(each, Exception) for each in answers)
    assert 45 <= answered == len(server.requests) <= 50
    assert budget.spent <= COST * 50
    assert is_settled(budget)


@pytest.mark.parametrize("request_", ["hi", QUESTION, Request((user("x" * 10_000),))])
async def test_what_may_exceed_it_is_an_error_before_any_byte(world, request_):
    reg, fake = world
    with pytest.raises(BudgetError, match="may cost"):
        await reg.generate("fake/m", request_, budget=Budget(MOST * 0.99))
    assert not fake.calls


async def test_a_request_without_a_limit_is_taken_for_the_longest_answer(world):
    reg, fake = world
    with pytest.raises(BudgetError):
        await reg.generate("fake/m", "hi", budget=Budget(12.8))
    await reg.generate("fake/m", "hi", budget=Budget(12.81))
    reg.register("fake", fake.provider(facts={"max_output_tokens": 100}))
    await reg.generate("fake/m", "hi", budget=Budget(0.02))


@pytest.mark.parametrize(
    "part",
    [
        ReasoningPart("z" * 1000),
        ReasoningPart("", ProviderData("fake", {"signature": "z" * 1000})),
        OpaquePart(ProviderData("fake", {"data": "z" * 1000})),
        DocumentPart(url="https://example.com/long.pdf"),
    ],
    ids=lambda part: type(part).__name__,
)
async def test_what_is_rarely_sent_is_reserved_for_too(world, part):
    reg, fake = world
    role = "user" if isinstance(part, DocumentPart) else "assistant"
    request = Request((user("hi"), Message(role, (part,))), max_output_tokens=100)
    with pytest.raises(BudgetError):
        await reg.generate("fake/m", request, budget=Budget(MOST + 990 * 10 / 1e6))
    assert not fake.calls


async def test_a_spent_budget_is_an_error_before_any_byte_but_for_what_is_free(world):
    reg, fake = world
    reg.register("free", FakeProvider(default=answer()).provider(name="free"))
    budget = Budget(COST)
    budget_of_one = Budget(MOST)
    await reg.generate("fake/m", QUESTION, budget=budget_of_one)
    for spent in (Budget(0), budget_of_one, budget):
        with pytest.raises(BudgetError):
            await reg.generate("fake/m", QUESTION, budget=spent)
    await reg.generate("free/m", "hi", budget=Budget(0))
    assert len(fake.calls) == 1


async def test_a_price_that_is_not_known_is_refused_under_a_budget(world):
    reg, _ = world
    other = FakeProvider()
    reg.register("other", other.provider(name="other"))
    for spec in ("other/m", "fake/m,other/m"):
        with pytest.raises(BudgetError, match="price is not known"):
            await reg.generate(spec, QUESTION, budget=Budget(1))
    assert not other.calls
    async with Registry(env={}) as bare:
        bare.register("fake", other.provider())
        with pytest.raises(BudgetError, match="price is not known"):
            await bare.generate("fake/m", QUESTION, budget=Budget(1))


@pytest.mark.parametrize("usd", [-1, -0.001, math.nan, math.inf, "5", None, True, 10**400])
def test_a_sum_that_is_none_is_a_config_error(usd):
    with pytest.raises(ConfigError, match=r"Budget\.usd"):
        Budget(usd)


async def test_what_is_no_budget_is_a_config_error(world):
    reg, _ = world
    with pytest.raises(ConfigError, match="budget is 5"):
        reg.stream("fake/m", "hi", budget=5)


async def test_a_refused_attempt_gives_its_reservation_back_exactly(world):
    reg, fake = world
    budget = Budget(MOST)
    fake.push(ServerError("no", status=500))
    with pytest.raises(Exception, match="failed"):
        await reg.generate("fake/m", QUESTION, budget=budget, retries=0)
    assert (budget.spent, budget.reserved, budget.left) == (0.0, 0.0, MOST)


async def test_a_call_cancelled_in_line_gives_its_reservation_back_exactly():
    gate = Gate()
    fake = FakeProvider(default=[gate, *answer()])
    budget = Budget(1)
    async with Registry(env={}, prices=PRICES) as reg:
        reg.register("fake", fake.provider(), limits=Limits(max_concurrency=1))
        first = asyncio.create_task(reg.generate("fake/m", QUESTION, budget=budget))
        await fake.wait_calls()
        waiting = [
            asyncio.create_task(reg.generate("fake/m", QUESTION, budget=budget)) for _ in range(50)
        ]
        await asyncio.sleep(0)
        assert budget.reserved == pytest.approx(51 * MOST)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert budget.reserved == pytest.approx(MOST)
        gate.open()
        await first
    assert budget.spent == pytest.approx(COST)
    assert is_settled(budget)


async def test_a_stream_that_is_left_keeps_only_what_it_has_cost(world):
    reg, fake = world
    fake.push(["Hel", NEVER])
    budget = Budget(1)
    async with reg.stream("fake/m", QUESTION, budget=budget) as stream:
        await anext(stream)
        assert budget.reserved == pytest.approx(MOST)
    assert is_settled(budget)
    # 18 bytes are 5 tokens about; 3 characters of an answer are one.
    assert budget.spent == pytest.approx((5 * 10 + 100) / 1e6)
    assert budget.spent == pytest.approx(stream.attempts[0].usd)


async def test_an_answer_without_counts_costs_the_most_it_may_have(world):
    reg, fake = world
    fake.push("Hello")
    budget = Budget(1)
    response = await reg.generate("fake/m", QUESTION, budget=budget)
    assert response.cost.usd is None
    assert budget.spent == pytest.approx(MOST)


async def test_a_race_reserves_for_all_who_run(world):
    _, fake = world
    slow = FakeProvider([NEVER])
    budget = Budget(1)
    prices = {"fake/*": Price(10, 100), "slow/*": Price(10, 100)}
    async with Registry(env={}, prices=prices) as both:
        both.register("fake", fake.provider())
        both.register("slow", slow.provider(name="slow"))
        with pytest.raises(BudgetError):
            await both.generate("slow/m|fake/m", QUESTION, budget=Budget(1.5 * MOST), stagger=0)
        assert not slow.calls
        await both.generate("slow/m|fake/m", QUESTION, budget=budget, stagger=0.01)
    assert budget.spent == pytest.approx(COST + 5 * 10 / 1e6)
    assert is_settled(budget)


def unusable(tokens):
    """Return an error that comes after so many tokens of input were counted."""
    error = GenerationError("no call fits")
    usage = Usage(tokens, 0, certainty="partial")
    error.partial = Response(Message("assistant", ()), usage=usage)
    return error


async def test_a_race_that_all_lost_leaves_no_more_than_it_left(world):
    reg, fake = world
    most = 1016 * 10 + 16 * 100  # a thousand bytes, and the least output
    fake.push(unusable(1016), unusable(1016))
    budget = Budget(2 * most / 1e6)
    request = Request((user("z" * 1000),), max_output_tokens=1)
    with pytest.raises(BudgetError):
        await reg.generate("fake/m|fake/n,fake/o", request, budget=budget, stagger=0, retries=0)
    assert len(fake.calls) == 2
    assert budget.spent == pytest.approx(2 * 1016 * 10 / 1e6)
    assert is_settled(budget)


async def test_what_is_not_needed_is_given_back_with_the_last_event(world):
    """Not when the caller has read it."""
    reg, _ = world
    budget = Budget(1)
    async with reg.stream("fake/m", QUESTION, budget=budget) as stream:
        while type(await anext(stream)) is not Finish:
            assert budget.reserved
        assert is_settled(budget)
        assert budget.spent == pytest.approx(COST)


async def test_two_calls_that_begin_again_do_not_wait_for_each_other(world):
    reg, fake = world
    gate = Gate()
    cut = ["y" * 40, gate, StreamInterrupted("cut")]
    fake.push(cut, cut)
    budget = Budget(2 * MOST + 0.0005)
    options = {"budget": budget, "on_interrupt": "restart"}
    calls = [asyncio.create_task(reg.generate("fake/m", QUESTION, **options)) for _ in range(2)]
    await fake.wait_calls(2)
    gate.open()
    assert [each.text for each in await asyncio.gather(*calls)] == ["Hello", "Hello"]
    assert budget.spent <= budget.usd
    assert is_settled(budget)


async def test_a_wait_for_the_budget_is_part_of_the_patience(world):
    reg, fake = world
    gate = Gate()
    fake.push([gate, *answer()])
    budget = Budget(MOST * 1.9)
    first = asyncio.create_task(reg.generate("fake/m", QUESTION, budget=budget))
    await fake.wait_calls()
    stream = reg.stream("fake/m", QUESTION, budget=budget, patience=50)
    second = asyncio.create_task(stream.collect())
    while not budget._ledger.waiting:
        await asyncio.sleep(0)
    began = asyncio.get_running_loop().time()
    while asyncio.get_running_loop().time() == began:  # uvloop counts whole milliseconds
        await asyncio.sleep(0)
    gate.open()
    await asyncio.gather(first, second)
    assert stream._source._candidates.room < 50


async def test_a_retry_that_the_budget_cannot_pay_is_an_error(world):
    reg, fake = world
    fake.push(["y" * 240, StreamInterrupted("cut")])
    budget = Budget(MOST * 1.2)
    stream = reg.stream("fake/m,fake/n", QUESTION, budget=budget, on_interrupt="restart")
    with pytest.raises(BudgetError) as refusal:
        await stream.collect()
    assert refusal.value.partial.text == "y" * 240
    assert len(fake.calls) == 1
    assert budget.spent == pytest.approx((5 * 10 + 60 * 100) / 1e6)
    assert is_settled(budget)


async def test_a_call_waits_for_those_under_way_and_no_longer_than_its_patience(world):
    reg, fake = world
    gate = Gate()
    fake.push([gate, *answer()])
    budget = Budget(MOST * 1.9)
    first = asyncio.create_task(reg.generate("fake/m", QUESTION, budget=budget))
    await fake.wait_calls()
    with pytest.raises(BudgetError, match="were still reserved when"):
        await reg.generate("fake/m", QUESTION, budget=budget, patience=0.01)
    with pytest.raises(DeadlineError):
        timeouts = Timeouts(total=0.01)
        await reg.generate("fake/m", QUESTION, budget=budget, timeouts=timeouts)
    second = asyncio.create_task(reg.generate("fake/m", QUESTION, budget=budget))
    await asyncio.sleep(0)
    gate.open()
    assert [each.text for each in await asyncio.gather(first, second)] == ["Hello", "Hello"]
    assert len(fake.calls) == 2
    assert is_settled(budget)


async def test_a_call_that_cannot_fit_any_more_learns_so_at_once(world):
    reg, fake = world
    gate = Gate()
    fake.push([gate, *answer(made=100)])
    budget = Budget(MOST * 1.9)
    first = asyncio.create_task(reg.generate("fake/m", QUESTION, budget=budget))
    await fake.wait_calls()
    second = asyncio.create_task(reg.generate("fake/m", QUESTION, budget=budget, patience=1e6))
    await asyncio.sleep(0)
    gate.open()
    await first
    with pytest.raises(BudgetError):
        await second
    assert len(fake.calls) == 1


async def test_a_run_and_images_keep_within_it(world):
    reg, fake = world

    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    usage = Usage(10, 80, certainty="exact")
    fake.push([ToolCallStep("add", '{"a": 1, "b": 2}'), Finish("tool_calls", "", usage)], answer())
    budget = Budget(0.05)
    await reg.run("fake/m", QUESTION, tools=[add], budget=budget).collect()
    assert budget.spent == pytest.approx(2 * COST)
    async with Registry(env={}, prices={"fake/*": Price(0, 0, image=0.04)}) as painter:
        painter.register("fake", FakeProvider().provider())
        budget = Budget(0.1)
        await painter.generate_images("fake/m", ImageRequest("a duck", count=2), budget=budget)
        assert budget.spent == pytest.approx(0.08)
        with pytest.raises(BudgetError):
            await painter.generate_images("fake/m", "a duck", budget=budget)


async def test_calls_of_a_session_keep_within_it(world):
    reg, fake = world
    budget = Budget(2.5 * COST)
    for _ in range(2):
        response = await reg.generate("fake/m", QUESTION, budget=budget, session="chat-42")
    assert response.attempts[0].preferred
    assert response.cost.usd == pytest.approx(COST)
    with pytest.raises(BudgetError):
        await reg.generate("fake/m", QUESTION, budget=budget, session="chat-42")
    assert len(fake.calls) == 2
    assert is_settled(budget)


async def test_costs_of_ones_own_can_be_reserved():
    budget = Budget(1)
    reservation = await budget.reserve(0.6)
    with pytest.raises(BudgetError):
        await budget.reserve(0.6, patience=0)
    reservation.spend(0.1)
    reservation.release()
    reservation.release()
    assert (budget.spent, budget.reserved) == (0.1, 0.0)
    await budget.reserve(0.9)
    assert budget.left == 0.0


def test_a_spent_budget_is_payment_required():
    assert http_status(BudgetError("spent")) == 402
    assert not BudgetError.moves_on


@settings(max_examples=50)
@given(st.lists(st.floats(1e-9, 1.0), min_size=1, max_size=50))
def test_what_is_given_back_is_given_back_exactly(amounts):
    ledger = Ledger(10**14)
    parts = [round(each * 10**12) for each in amounts]
    for each in parts:
        assert ledger.try_reserve(each)
    for each in parts:
        ledger.give_back(each)
    assert (ledger.reserved, ledger.spent) == (0, 0)


class Line(RuleBasedStateMachine):
    """Reserve, settle, give up and cancel in any order: the sum holds, and nobody is forgotten."""

    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.ledger = Ledger(100)
        self.held = []
        self.waiting = []

    def turn(self):
        async def once():
            await asyncio.sleep(0)
            await asyncio.sleep(0)

        self.loop.run_until_complete(once())
        for amount, task in [*self.waiting]:
            if task.done():
                self.waiting.remove((amount, task))
                if task.result():
                    self.held.append(amount)

    @rule(amount=st.integers(0, 60))
    def reserve(self, amount):
        task = self.loop.create_task(self.ledger.reserve(amount, math.inf))
        self.waiting.append((amount, task))
        self.turn()

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def settle(self, data):
        amount = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.ledger.spend(data.draw(st.integers(0, amount)), amount)
        self.turn()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), settles=st.booleans())
    def cancel(self, data, settles):
        amount, task = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        if settles and self.held:  # the grant and the cancellation in the same breath
            self.ledger.give_back(self.held.pop(0))
        task.cancel()
        self.turn()
        assert task.cancelled() or amount == 0

    @invariant()
    def the_sum_holds(self):
        ledger = self.ledger
        assert ledger.reserved == sum(self.held)
        assert ledger.spent + ledger.reserved <= ledger.total

    @invariant()
    def nobody_waits_who_could_go(self):
        if self.waiting:
            first = self.waiting[0][0]
            assert self.ledger.reserved
            assert self.ledger.spent + self.ledger.reserved + first > self.ledger.total

    def teardown(self):
        for _, task in self.waiting:
            task.cancel()
        try:
            self.turn_all()
        finally:
            self.loop.close()

    def turn_all(self):
        tasks = [task for _, task in self.waiting]
        if tasks:
            self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))


TestLine = Line.TestCase
TestLine.settings = settings(max_examples=60, deadline=None, stateful_step_count=30)


def in_a_thread(work):
    """Run an async function on a loop in another thread, while the test's own loop runs."""
    return asyncio.to_thread(asyncio.run, work())


async def test_a_budget_in_use_on_one_loop_is_not_used_on_another():
    """Nobody would be woken there, and sums of two threads would not add up."""
    budget = Budget(1.0)

    async def work():
        held = await budget.reserve(0.4)
        held.release()

    first = await budget.reserve(0.6)
    with pytest.raises(ConfigError, match="in use on another event loop: make one Budget per loop"):
        await in_a_thread(work)
    assert (budget.reserved, budget.spent) == (0.6, 0.0)
    first.spend(0.5)
    first.release()
    await in_a_thread(work)
    assert (budget.reserved, budget.spent) == (0.0, 0.5)
    (await budget.reserve(0.5)).release()


def test_a_loop_that_does_not_run_keeps_a_budget_from_no_other():
    budget = Budget(1.0)
    with asyncio.Runner() as runner:
        held = runner.run(budget.reserve(0.6))
        asyncio.run(budget.reserve(0.4)).release()
        held.spend(0.5)
        held.release()
    assert (budget.reserved, budget.spent) == (0.0, 0.5)


def test_a_forked_process_does_not_wait_for_calls_of_its_parent():
    budget = Budget(1.0)

    async def child():
        held = await budget.reserve(0.7, patience=0)
        held.spend(0.2)
        held.release()
        assert (budget.reserved, budget.spent) == (0.0, pytest.approx(0.5))

    async def parent():
        first, second = await budget.reserve(0.6), await budget.reserve(0.1)
        first.spend(0.3)
        first.release()
        assert in_a_child(child) == 0
        second.release()
        assert (budget.reserved, budget.spent) == (0.0, 0.3)

    asyncio.run(parent())
