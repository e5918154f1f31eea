"""The seconds of a call are one end, over all batches and all models of a spec, in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from aiollm import (
    DeadlineError,
    FailoverError,
    Limits,
    LLMError,
    Registry,
    ServerError,
    Timeouts,
)
from aiollm.retrieval import Embeddings, Ranking
from aiollm.testing import NEVER, FakeProvider, Pause
from aiollm.testing.fake_retrieval import embeddings_for, ranking_for
from tests.virtual_time import VirtualLoop

SECONDS = 6.0


def slow(target, request):
    """The first model fails after six seconds; the others answer after as many."""
    if target.model == "first":
        return [Pause(SECONDS), ServerError("down")]
    answer = embeddings_for if hasattr(request, "inputs") else ranking_for
    return [Pause(SECONDS), answer(request)]


async def embed(reg, total, batch=None):
    limits = Timeouts(total=total)
    spec = "fake/first,fake/second,fake/third"
    return await reg.embed(spec, ["a", "b", "c"], batch=batch, mixed=True, timeouts=limits)


async def rerank(reg, total, batch=None):
    spec = "fake/first,fake/second,fake/third"
    return await reg.rerank(spec, "a", ["a", "b"], timeouts=Timeouts(total=total))


def outcome(call, total, batch=None, script=slow):
    """Return what a call in virtual time gives or raises, and when."""
    loop = VirtualLoop()

    async def scenario():
        async with Registry(env={}, retries=0) as reg:
            reg.register("fake", FakeProvider(default=script).provider())
            began = loop.time()
            try:
                found = await call(reg, total, batch)
            except LLMError as error:
                found = error
            return found, loop.time() - began

    try:
        return loop.run_until_complete(scenario())
    finally:
        loop.close()


def deadline(error):
    return error.last if isinstance(error, FailoverError) else error


@pytest.mark.parametrize(
    ("call", "batch"), [(embed, None), (embed, 1), (rerank, None)], ids=["one", "many", "rerank"]
)
def test_the_seconds_of_a_call_are_not_given_to_each_model_anew(call, batch):
    error, seconds = outcome(call, 10.0, batch)
    late = deadline(error)
    assert isinstance(late, DeadlineError)
    assert (late.which, late.after) == ("total", 10.0)
    assert seconds == pytest.approx(10, abs=0.1)


@pytest.mark.parametrize(
    ("call", "kind"), [(embed, Embeddings), (rerank, Ranking)], ids=["embed", "rerank"]
)
def test_a_call_that_ends_within_its_seconds_moves_on_to_the_next_model(call, kind):
    found, seconds = outcome(call, 13.0)
    assert isinstance(found, kind)
    assert found.target.model == "second"
    assert seconds == pytest.approx(12, abs=0.1)


def test_batches_one_after_another_share_the_seconds(monkeypatch):
    """What had arrived before the end is on the error."""
    monkeypatch.setattr("aiollm._retrieval.embed.AT_ONCE", 1)
    error, _ = outcome(embed, 2.5 * SECONDS, batch=1)
    assert isinstance(deadline(error), DeadlineError)
    assert [each is not None for each in error.vectors] == [True, False, False]


@pytest.mark.parametrize("spec", ["fake/m", "fake/m,fake/n"])
def test_what_had_arrived_in_time_is_on_the_error_and_nothing_is_held(spec):
    def script(target, request):
        return [NEVER] if "3" in request.inputs else embeddings_for(request)

    async def cut(reg, total, _):
        reg.limit("fake", Limits(max_concurrency=9))
        limits = Timeouts(total=total)
        try:
            await reg.embed(spec, list("0123"), batch=1, mixed=True, timeouts=limits)
        finally:
            assert [each.held for each in reg.limits()] == [0]

    error, seconds = outcome(cut, 10.0, script=script)
    assert isinstance(deadline(error), DeadlineError)
    assert [each is not None for each in error.vectors] == [True, True, True, False]
    assert seconds == pytest.approx(10, abs=0.1)


def test_a_caller_s_own_deadline_is_not_taken_for_the_call_s():
    async def cut(reg, total, batch):
        async with asyncio.timeout(1):
            return await embed(reg, total, batch)

    with pytest.raises(TimeoutError):
        outcome(cut, 10.0)
