"""Budgets with a name: the processes of a fleet spend one sum together, and not more."""

from __future__ import annotations

import asyncio
import gc
import os
import weakref
from contextlib import AsyncExitStack

import pytest

from aiollm import Budget, BudgetError, Finish, Price, Registry, Request, Usage, user
from aiollm.testing import NEVER, FakeProvider, Gate
from tests.fleet.conftest import until

PRICES = {"fake/*": Price(10, 100)}
QUESTION = Request((user("hi"),), max_output_tokens=100)
MOST = (18 * 10 + 100 * 100) / 1e6
"""Dollars that it costs at most: a token for each byte and 16 for a message, and the output."""

COST = (10 * 10 + 80 * 100) / 1e6

ANSWER = ["Hello", Finish("stop", "stop", Usage(10, 80, certainty="exact"))]


@pytest.fixture
async def processes(redis):
    """Make registries of one fleet; each stands for a process, with a fake provider of its own."""
    async with AsyncExitStack() as stack:
        url = redis.url

        async def make(count, *, answer=ANSWER, fleet=url, **settings):
            made = []
            for _ in range(count):
                fake = FakeProvider(default=answer)
                options = {"env": {}, "prices": PRICES, "fleet": fleet} | settings
                reg = await stack.enter_async_context(Registry(**options))
                reg.register("fake", fake.provider())
                await reg.preload()
                made.append((reg, fake))
            return made

        yield make


async def crowd(made, budgets, count):
    calls = [
        reg.generate("fake/m", QUESTION, budget=budget)
        for (reg, _), budget in zip(made, budgets, strict=True)
        for _ in range(count)
    ]
    return await asyncio.gather(*calls, return_exceptions=True)


@pytest.mark.parametrize("calls", [3, 50])
async def test_a_crowd_in_four_processes_spends_a_budget_and_not_more(processes, calls):
    sums = COST * calls * 2
    made = await processes(4)
    budgets = [Budget(sums, name="evaluation") for _ in made]
    ended = await crowd(made, budgets, calls)
    answers = [each for each in ended if not isinstance(each, BaseException)]
    refused = [each for each in ended if isinstance(each, BudgetError)]
    assert len(answers) + len(refused) == calls * 4
    assert sum(len(fake.requests) for _, fake in made) == len(answers)
    spent = sum(each.cost.usd for each in answers)
    assert min(0.9 * sums, sums - MOST) <= spent <= sums
    await until(lambda: all(each.spent == pytest.approx(spent) for each in budgets))
    assert all(each.left == pytest.approx(sums - spent) for each in budgets)
    assert all(each.reserved == 0 for each in budgets)


async def test_what_one_process_has_drawn_ahead_goes_to_another_that_needs_it(processes):
    made = await processes(2)
    budgets = [Budget(MOST * 3, name="b") for _ in made]
    (one, _), (two, _) = made
    await one.generate("fake/m", QUESTION, budget=budgets[0])
    held = await budgets[1].reserve(budgets[1].usd - COST - 1e-6)
    assert held.usd == pytest.approx(MOST * 3 - COST, abs=2e-6)
    held.release()
    await two.generate("fake/m", QUESTION, budget=budgets[1])


async def test_calls_wait_for_what_other_processes_have_reserved(processes):
    gate = Gate()
    (one, _), (two, fake) = await processes(2, answer=["Hello", gate, ANSWER[-1]])
    first, second = Budget(MOST * 1.9, name="b"), Budget(MOST * 1.9, name="b")
    holder = asyncio.create_task(one.generate("fake/m", QUESTION, budget=first))
    await gate.reached(1)
    waiter = asyncio.create_task(two.generate("fake/m", QUESTION, budget=second))
    await until(lambda: second._ledger.waiting)
    assert not fake.requests
    gate.open()
    await asyncio.gather(holder, waiter)
    assert second.spent == pytest.approx(2 * COST)


async def test_a_call_that_others_left_no_money_for_is_refused_at_once(processes):
    (one, _), (two, fake) = await processes(2, patience=3600)
    first, second = Budget(MOST, name="b"), Budget(MOST, name="b")
    await one.generate("fake/m", QUESTION, budget=first)
    with pytest.raises(BudgetError, match=r"of \$0\.01018, \$0\.0081 are spent") as refused:
        await two.generate("fake/m", QUESTION, budget=second)
    assert "raise the budget" in str(refused.value)
    assert not fake.requests


async def test_budgets_of_other_names_and_without_one_are_apart(processes):
    made = await processes(3)
    budgets = [Budget(MOST, name="a"), Budget(MOST, name="b"), Budget(MOST)]
    assert not any(isinstance(each, BaseException) for each in await crowd(made, budgets, 1))
    assert [each.spent for each in budgets] == [pytest.approx(COST)] * 3


async def test_a_named_budget_without_a_fleet_is_the_process_s_own(processes):
    ((reg, _),) = await processes(1, fleet="")
    budget = Budget(MOST, name="b")
    await reg.generate("fake/m", QUESTION, budget=budget)
    assert (budget.spent, budget._ledger.pool) == (pytest.approx(COST), None)


async def test_a_cancelled_crowd_holds_nothing(processes):
    made = await processes(2, answer=[NEVER])
    budgets = [Budget(MOST * 8.5, name="b") for _ in made]
    crowds = asyncio.ensure_future(crowd(made, budgets, 100))
    await until(lambda: sum(len(fake.requests) for _, fake in made) == 8)
    crowds.cancel()
    await asyncio.wait([crowds])
    assert all(each._ledger.waiting == each._ledger.needed == 0 for each in budgets)
    await until(lambda: all(each.reserved == 0 for each in budgets))


async def test_while_redis_is_away_calls_spend_what_was_drawn_and_wait_for_more(
    own_redis, processes
):
    server = own_redis()
    ((reg, fake),) = await processes(1, fleet=server.url, patience=0.2)
    budget = Budget(MOST * 100, name="b")
    await reg.generate("fake/m", QUESTION, budget=budget)
    drawn = budget._ledger.total
    server.kill()
    ended = await asyncio.gather(
        *(reg.generate("fake/m", QUESTION, budget=budget) for _ in range(100)),
        return_exceptions=True,
    )
    failed = [each for each in ended if isinstance(each, BaseException)]
    assert failed
    assert all(isinstance(each, BudgetError) for each in failed)
    assert "their Redis did not answer" in str(failed[0])
    assert len(fake.requests) - 1 == 100 - len(failed) > 0
    assert budget._ledger.used <= drawn


async def test_calls_go_on_when_redis_is_back_and_what_was_spent_is_not_forgotten(
    own_redis, processes
):
    server = own_redis()
    (one, _), (two, _) = await processes(2, fleet=server.url, patience=60)
    first, second = Budget(MOST * 4, name="b"), Budget(MOST * 4, name="b")
    for _ in range(2):
        await one.generate("fake/m", QUESTION, budget=first)
    server.kill()
    server.start()  # empty
    await asyncio.gather(*(two.generate("fake/m", QUESTION, budget=second) for _ in range(2)))
    await until(lambda: second.spent == pytest.approx(4 * COST))


@pytest.mark.parametrize("command", ["FLUSHALL", "DEL"])
async def test_a_key_that_vanished_is_told_again(redis, processes, command):
    url = redis.url
    (one, _), (two, _) = await processes(2, fleet=url)
    first, second = Budget(MOST * 2, name="b"), Budget(MOST * 2, name="b")
    await one.generate("fake/m", QUESTION, budget=first)
    await redis.ask(command, *([first._ledger.pool.key] if command == "DEL" else []))
    ended = await crowd([(one, None), (two, None)], [first, second], 4)
    spent = COST + sum(each.cost.usd for each in ended if not isinstance(each, BaseException))
    assert spent <= MOST * 2


async def test_the_name_of_a_budget_is_not_stored(redis, processes):
    ((reg, _),) = await processes(1)
    await reg.generate("fake/m", QUESTION, budget=Budget(1, name="Mrs Miller"))
    keys = await redis.ask("KEYS", "*")
    assert any(each.endswith("}m") for each in keys)
    assert "Miller" not in str(keys)


async def test_a_budget_that_nobody_has_any_more_gives_back_what_was_drawn(redis, processes):
    (one, _), (two, _) = await processes(2)
    await one.generate("fake/m", QUESTION, budget=Budget(1, name="b"))
    key = next(iter(one._resources._member.money._budgets)).key
    gc.collect()
    await until(lambda: not one._resources._member.money._budgets)
    second = Budget(1, name="b")
    await two.generate("fake/m", QUESTION, budget=second)
    held = int(await redis.ask("HGET", key, "held")) / 1e6
    await until(lambda: second._ledger.pool._sent == second._ledger.pool._done)
    assert held == pytest.approx(COST + second._ledger.total / 1e12, abs=1e-5)


async def test_a_closed_registry_gives_back_what_it_drew_and_another_goes_on(processes, redis):
    (one, _), (two, _) = await processes(2)
    budget, other = Budget(MOST * 3, name="b"), Budget(MOST * 3, name="b")
    await one.generate("fake/m", QUESTION, budget=budget)
    await one.aclose()
    await two.generate("fake/m", QUESTION, budget=budget)
    await two.generate("fake/m", QUESTION, budget=other)
    await until(lambda: other.spent == pytest.approx(3 * COST))


async def test_a_forked_process_begins_with_nothing_of_its_parent_s(processes):
    ((reg, _),) = await processes(1)
    budget = Budget(1, name="b")
    await reg.generate("fake/m", QUESTION, budget=budget)
    pool = budget._ledger.pool
    pool.give_back()
    await until(lambda: pool._sent == pool._done)
    pool.pid = os.getpid() + 1  # as a child sees it
    reg._resources._member.money.forked()
    await reg.generate("fake/m", QUESTION, budget=budget)
    assert budget._ledger.pool is not pool
    assert budget._ledger.spent / 1e12 == pytest.approx(COST)
    await until(lambda: budget.spent == pytest.approx(2 * COST))


async def test_a_budget_keeps_no_registry_alive_that_was_closed(redis):
    budget = Budget(1, name="b")
    async with Registry(env={}, prices=PRICES, fleet=redis.url) as reg:
        reg.register("fake", FakeProvider(default=ANSWER).provider())
        await reg.generate("fake/m", QUESTION, budget=budget)
        member = weakref.ref(reg._resources._member)
    del reg
    gc.collect()
    assert member() is None
