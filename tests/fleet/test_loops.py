"""A registry in a fleet serves one loop after another, and is usable between them."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from aiollm import FailoverError, Limits, Registry
from aiollm.testing import Answer, FaultServer, chat
from tests.fleet.conftest import until


@pytest.fixture
def server():
    with FaultServer(chat("well")).in_thread() as server:
        yield server


def registry(server, url):
    env = {"LLM_A": f"openai+http://k@127.0.0.1:{server.port}/v1"}
    made = Registry(env=env, fleet=url, retries=0)
    made.limit("a", Limits(max_concurrency=2, rpm=6000))
    return made


LOOPS = """
import asyncio, gc, sys
from aiollm import Budget, Limits, Price, Registry, Usage

prices = {"a/*": Price(1, 10)}
reg = Registry(env={"LLM_A": sys.argv[1]}, fleet=sys.argv[2], retries=0, prices=prices)
reg.limit("a", Limits(max_concurrency=2, rpm=6000))
budget = Budget(100, name="loops")

async def use(model):
    answer = await reg.generate(f"a/{model}", "hi", budget=budget, max_output_tokens=100)
    await budget.reserve(14, patience=10)  # more than was drawn ahead, so each loop has to ask
    print(answer.text, reg.fleet.state)
    budget._ledger.pool._tell(0)  # what nobody on this loop hears the answer to

for model in "mmn":
    asyncio.run(use(model))
for model in "nno":
    loop = asyncio.new_event_loop()
    loop.run_until_complete(use(model))
    gc.collect()  # what was left in the loop before
    print(reg.fleet.state)
    loop.close()
reg.reset_health()
asyncio.run(reg.aclose())
"""


def test_one_loop_may_follow_another_even_where_it_was_closed_with_tasks_in_it(redis, server):
    """A process of its own, for nobody cancels the tasks of such a loop."""
    url = f"openai+http://k@127.0.0.1:{server.port}/v1"
    arguments = [sys.executable, "-c", LOOPS, url, redis.url]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    expected = "well linked\n" * 3 + "well linked\nlinked\n" * 3
    assert (done.returncode, done.stdout) == (0, expected), done.stderr


def test_health_may_be_reset_while_the_loop_does_not_run(redis, server):
    server.behave(Answer(503))
    with asyncio.Runner() as runner:
        reg = registry(server, redis.url)

        async def fail():
            with pytest.raises(FailoverError):
                await reg.generate("a/m", "hi", max_wait=0)
            known = reg._resources._member.health._known
            await until(lambda: any(each.openings for each in known.values()))

        async def closed():
            member = reg._resources._member
            states = await member._link.send("ZCARD", member.open_ones)
            assert states == 0
            await reg.aclose()

        runner.run(fail())
        reg.reset_health()
        runner.run(closed())
