"""How much work a turn of a long run is, in bytecode instructions: with a budget, it does not grow.

The whole turn is counted: the hook, the checks, the call with its chain, a tool, and the encoding.
"""

from __future__ import annotations

import asyncio
import importlib.util
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from aiollm import Compacted, Registry, Tool, TrimTo
from aiollm._http import streaming
from aiollm.provider import Operation, Provider
from aiollm.providers.openai.chat_codec import ChatCodec
from aiollm.testing import chat

HERE = Path(__file__).parent
spec = importlib.util.spec_from_file_location("test_work", HERE / "test_work.py")
streams = importlib.util.module_from_spec(spec)
spec.loader.exec_module(streams)

TURNS = 200
CALL = {
    "index": 0,
    "id": "call_0",
    "type": "function",
    "function": {"name": "look", "arguments": "{}"},
}


class Turns:
    """A model in memory, which notes the instructions so far at each request."""

    def __init__(self, turns: int) -> None:
        self.turns = turns
        self.counts: list[int] = []
        self.counter: Any = None

    def adapter(self, provider, _, target, request, timeouts):
        self.counts.append(self.counter.count)
        last = len(self.counts) >= self.turns
        said, finish = ("The end.", "stop") if last else ({"tool_calls": [CALL]}, "tool_calls")
        memory = streams.Memory(chat(said, finish=finish, usage=None).body)
        return streaming.stream(provider, memory, target, request, timeouts)


async def turns_of(compact: Any, turns: int = TURNS) -> tuple[list[int], int]:
    """Return the instructions of each turn of a run, and how often it was shortened."""
    model = Turns(turns)

    async def look() -> str:
        return "seen " * 40

    row = Provider(
        "mem", "openai", "http://mem.invalid/v1", ChatCodec(),
        operations={"chat": Operation(adapter=model.adapter)},
    )  # fmt: skip
    compacted = 0
    async with Registry(env={}) as reg:
        reg.register("mem", row)
        tools = [Tool("look", function=look)]
        run = reg.run("mem/m", "The task.", tools=tools, compact=compact, max_turns=turns)
        with streams.Counter() as model.counter:
            async for event in run:
                compacted += isinstance(event, Compacted)
    assert run.turns == turns
    return [after - before for before, after in pairwise(model.counts)], compacted


@pytest.mark.timeout(120)
def test_a_turn_costs_the_same_however_long_the_run_has_been():
    """A history within a budget grows and is cut in turns, so means of many are compared."""
    turns, compacted = asyncio.run(turns_of(TrimTo(2000)))
    early, late = mean(turns[40:100]), mean(turns[-60:])
    assert compacted > 5
    assert late <= 1.1 * early


@pytest.mark.timeout(120)
def test_looking_at_a_turn_costs_little_beside_it():
    """A hook that keeps everything: what it is told of the next turn measures new messages only."""
    plain, _ = asyncio.run(turns_of(None, 60))
    watched, _ = asyncio.run(turns_of(lambda turn: None, 60))
    assert mean(watched[-20:]) <= 1.06 * mean(plain[-20:])
