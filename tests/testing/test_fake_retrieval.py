"""FakeProvider as a provider that embeds and reranks: made answers, scripts, failures, chains."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
from array import array

import pytest

from aiollm import (
    Embeddings,
    FailoverError,
    OverloadedError,
    Ranked,
    Ranking,
    Registry,
    UnsupportedError,
    Usage,
)
from aiollm.retrieval import EmbedRequest, RerankRequest
from aiollm.testing import NEVER, FakeProvider, Gate
from aiollm.testing.fake_script import PIXEL

TEXTS = ["red panda", "panda, red", "the price of tea"]
SCRIPTED = Embeddings((array("f", [1.0, 0.0]),), Usage(input_tokens=3, certainty="exact"))


@pytest.fixture
async def serve():
    """Return a registry of the given fakes by name."""
    made = []

    def make(**fakes: FakeProvider) -> Registry:
        reg = Registry(env={}, retries=0)
        made.append(reg)
        for name, fake in fakes.items():
            reg.register(name, fake.provider())
        return reg

    yield make
    for reg in made:
        await reg.aclose()


def nearness(one, other) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


async def test_without_a_script_each_input_gets_a_vector_of_length_one(serve):
    fake = FakeProvider()
    found = await serve(fake=fake).embed("fake/m", [*TEXTS, PIXEL])
    assert [len(each) for each in found.vectors] == [8] * 4
    assert all(math.isclose(math.hypot(*each), 1.0, rel_tol=1e-6) for each in found.vectors)
    assert len({each.tobytes() for each in found.vectors}) == 4
    assert fake.embed_requests == (EmbedRequest((*TEXTS, PIXEL)),)
    assert fake.requests == fake.rerank_requests == ()
    assert fake.calls[0].outcome == "finished"


async def test_vectors_are_those_of_any_other_process_and_as_wide_as_was_asked(serve):
    code = (
        "from aiollm.testing.fake_retrieval import embeddings_for; "
        "from aiollm.retrieval import EmbedRequest; "
        "print(list(embeddings_for(EmbedRequest('red panda', 300)).vectors[0]))"
    )
    run = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    found = await serve(fake=FakeProvider()).embed("fake/m", "red panda", dimensions=300)
    assert str(list(found.vectors[0])) == run.stdout.strip()
    assert found.dimensions == 300


async def test_texts_that_share_words_have_vectors_that_are_near(serve):
    found = await serve(fake=FakeProvider()).embed("fake/m", TEXTS, dimensions=64)
    one, same_words, other = found.vectors
    assert nearness(one, same_words) > 0.5 > nearness(one, other)


async def test_without_a_script_documents_are_ranked_by_the_words_that_they_share(serve):
    fake = FakeProvider()
    reg = serve(fake=fake)
    ranking = await reg.rerank("fake/m", "Red panda?", ["a bear", "the red panda", "a panda"])
    assert [*ranking] == [Ranked(1, 1.0), Ranked(2, 0.5), Ranked(0, 0.0)]
    assert len(await reg.rerank("fake/m", "bear", ["a bear", "a panda"], top=1)) == 1
    assert fake.rerank_requests[1] == RerankRequest("bear", ("a bear", "a panda"), top=1)


async def test_scripts_give_results_errors_and_waits(serve):
    gate = Gate()
    ranking = Ranking((Ranked(1, 9.0), Ranked(0, 2.0)))
    scripts = OverloadedError("busy"), [gate, SCRIPTED], ranking, [gate]
    reg = serve(fake=FakeProvider(*scripts))
    with pytest.raises(FailoverError) as raised:
        await reg.embed("fake/m", "text")
    assert isinstance(raised.value.last, OverloadedError)
    reg.reset_health()
    gate.open()
    found = await reg.embed("fake/m", "text")
    assert (found.vectors, found.usage) == (SCRIPTED.vectors, SCRIPTED.usage)
    assert (await reg.rerank("fake/m", "q", ["a", "b"])).ranked == ranking.ranked
    assert (await reg.embed("fake/m", "text")).dimensions == 8  # a script of waits alone


async def test_a_chain_passes_an_overloaded_fake_and_one_that_cannot(serve):
    busy, answers = FakeProvider(OverloadedError("busy")), FakeProvider()
    reg = serve(a=busy, c=answers)
    reg.register("b", FakeProvider().provider(embed=False, rerank=False))
    found = await reg.embed("a/m,b/m,c/m", "text")
    assert str(found.target) == "c/m"
    assert [each.outcome for each in found.attempts] == ["failed", "failed", "success"]
    with pytest.raises(FailoverError) as raised:
        await reg.rerank("b/m", "q", ["a"])
    assert isinstance(raised.value.last, UnsupportedError)


async def test_a_call_that_is_cancelled_is_closed(serve):
    fake = FakeProvider([NEVER])
    task = asyncio.create_task(serve(fake=fake).embed("fake/m", "text"))
    await fake.wait_calls()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert fake.calls[0].outcome == "closed"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("Hello", "cannot yield 'Hello': script it with a function"),
        (Ranking(()), "cannot yield Ranking"),
        (Embeddings(SCRIPTED.vectors * 2), "has 2 vectors, and the request 1 inputs"),
    ],
)
async def test_a_script_for_another_call_fails_the_test(serve, script, reason):
    with pytest.raises(AssertionError, match=reason):
        await serve(fake=FakeProvider(script)).embed("fake/m", "text")


async def test_vectors_are_no_answer_of_a_chat(serve):
    with pytest.raises(AssertionError, match="a chat cannot yield Embeddings"):
        await serve(fake=FakeProvider(SCRIPTED)).generate("fake/m", "text")


async def test_a_fake_of_another_width_is_refused_as_a_real_one_is(serve):
    wide = Embeddings((array("f", [1.0] * 3),))
    reg = serve(fake=FakeProvider(SCRIPTED, wide))
    with pytest.raises(FailoverError) as raised:
        await reg.embed("fake/m", ["one", "two"], batch=1)
    assert "its vectors have" in str(raised.value.last)
    assert [each is None for each in raised.value.vectors].count(False) == 1
