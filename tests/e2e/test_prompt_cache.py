"""Prompt caches of two real llama.cpp servers: a session goes back to the one that has read it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from aiollm import Registry, Request, assistant, local, user

pytestmark = pytest.mark.e2e

OPENING = " ".join(f"Fact {number}: a river has two banks." for number in range(12))
TURNS = 3


async def talked(reg: Registry, **options: Any) -> tuple[list[str], list[tuple[int, int]]]:
    """Return who answered each turn of a conversation, and the tokens read and found."""
    history, who, counts = [], [], []
    for number in range(TURNS):
        history.append(user(f"{'' if number else OPENING} Question {number}: name one."))
        request = Request(history, max_output_tokens=4, temperature=0.0)
        response = await reg.generate("one/smollm2&two/smollm2", request, **options)
        history.append(assistant(response.text))
        who.append(str(response.target))
        counts.append((response.usage.input_tokens, response.usage.cached_tokens))
    return who, counts


async def test_a_session_finds_what_a_real_server_has_read(server: Any, local_model: None) -> None:
    async with local.LocalServer(alias="smollm2") as second:
        env = {"LLM_ONE": server.dsn(tail="?api=chat"), "LLM_TWO": second.dsn}
        async with Registry(env=env, retries=0) as reg:
            who, counts = await talked(reg, session="rivers")
    assert len({*who}) == 1
    for (before, _), (_, found) in pairwise(counts):
        assert found > 0.8 * before
