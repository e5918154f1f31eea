"""A real llama.cpp server embeds and ranks: order, widths, refusals, and leaving early."""

from __future__ import annotations

import asyncio
import json
import math
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from string import ascii_lowercase

import pytest

from aiollm import (
    ConfigError,
    ContextLengthError,
    FailoverError,
    Registry,
    Timeouts,
    UnsupportedError,
    local,
)
from aiollm.local import LocalServer
from aiollm.retrieval import Vector

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("local_model")]

WIDTH = 576
TEXTS = [f"item {number}" for number in range(40)]
TOO_LONG = "word " * 700
"""More tokens than the server below takes in one input."""


@pytest.fixture
async def reg() -> AsyncIterator[Registry]:
    """A registry with a server that embeds, and another that ranks."""
    async with Registry(env={}, retries=0) as registry:
        await local.start(registry, embeddings=True, context=2048, parallel=4)
        yield registry


def nearness(one: Vector, other: Vector) -> float:
    dot = sum(a * b for a, b in zip(one, other, strict=True))
    return dot / (math.hypot(*one) * math.hypot(*other))


async def test_batches_come_in_order_and_are_those_of_single_inputs(reg: Registry) -> None:
    found = await reg.embed("local/smollm2", TEXTS, batch=8)
    assert len(found.attempts) == 5
    assert {len(each) for each in found.vectors} == {WIDTH}
    assert found.usage.certainty == "exact"
    assert found.usage.input_tokens >= 3 * len(TEXTS)
    for place in (0, 21, 39):
        alone = await reg.embed("local/smollm2", TEXTS[place])
        similar = [nearness(alone.vectors[0], each) for each in found.vectors]
        assert similar.index(max(similar)) == place
        assert similar[place] > 0.999


@pytest.mark.timeout(900)
async def test_five_thousand_inputs_in_large_batches_come_in_order() -> None:
    """Replies of 3 MB, whose vectors are taken out one by one; it takes a core some 50 s."""
    words = [one + other for one in ascii_lowercase for other in ascii_lowercase]
    inputs = [words[n % len(words)] for n in range(5000)]
    async with Registry(env={}, retries=0) as reg:
        await local.start(reg, embeddings=True, context=2048, parallel=8)
        patient = Timeouts(first_output=800, idle=800, stall=800)
        found = await reg.embed("local/smollm2", inputs, batch=1000, timeouts=patient)
        alone = [(await reg.embed("local/smollm2", word)).vectors[0] for word in words[:3]]
    assert (len(found.attempts), len(found.vectors), found.dimensions) == (5, 5000, WIDTH)
    assert found.usage.input_tokens >= 5000
    vectors = [*found.vectors]
    for place, vector in enumerate(vectors[len(words) :], len(words)):
        assert nearness(vector, vectors[place % len(words)]) > 0.99
    for place, vector in enumerate(alone):
        similar = [nearness(vector, each) for each in vectors[: len(words)]]
        assert similar.index(max(similar)) == place


async def test_an_input_that_is_too_long_is_named_so_and_harms_nothing(reg: Registry) -> None:
    with pytest.raises(FailoverError) as raised:
        await reg.embed("local/smollm2", ["short", TOO_LONG], batch=1)
    assert isinstance(raised.value.last, ContextLengthError)
    (health,) = reg.health()
    assert (health.state, health.failures) == ("healthy", 0)
    assert (await reg.embed("local/smollm2", "short")).dimensions == WIDTH


async def test_what_it_cannot_do_is_refused_and_not_left_out_of_account(reg: Registry) -> None:
    for options in ({"dimensions": 64}, {"truncate": True}):
        with pytest.raises(FailoverError) as raised:
            await reg.embed("local/smollm2", "hi", **options)
        assert isinstance(raised.value.last, UnsupportedError)
    with pytest.raises(FailoverError) as raised:
        await reg.rerank("local/smollm2", "sky", ["blue"])
    assert "does not support reranking" in str(raised.value.last)
    (health,) = reg.health()
    assert (health.state, health.failures) == ("healthy", 0)


async def test_a_call_that_is_left_early_leaves_the_server_well(reg: Registry) -> None:
    embedding = asyncio.create_task(reg.embed("local/smollm2", TEXTS * 10))
    async with asyncio.timeout(20):
        while not sum(each.held for each in reg.limits()):
            await asyncio.sleep(0)
    embedding.cancel()
    await asyncio.wait([embedding])
    assert embedding.cancelled()
    assert (await reg.embed("local/smollm2", "hi")).dimensions == WIDTH
    response = await reg.generate("local/smollm2", "Say hello.", max_output_tokens=8)
    assert response.text


async def test_a_server_that_pools_ranks_answers_with_a_score_for_each_document() -> None:
    async with Registry(env={}, retries=0) as registry:
        await local.start(registry, embeddings=True, pooling="rank", context=1024)
        documents = ["The sky is blue.", "Tea is dear.", "A panda eats bamboo."]
        ranking = await registry.rerank("local/smollm2", "Who eats bamboo?", documents)
        # The model is no reranker: that its scores mean something is not to be expected.
        assert sorted(each.index for each in ranking) == [0, 1, 2]
        scores = [each.score for each in ranking]
        assert scores == sorted(scores, reverse=True)
        assert len(await registry.rerank("local/smollm2", "panda", documents, top=2)) == 2


async def test_a_chat_server_says_that_it_does_not_embed() -> None:
    async with Registry(env={}, retries=0) as registry:
        await local.start(registry, context=512)
        with pytest.raises(FailoverError) as raised:
            await registry.embed("local/smollm2", "hi")
    assert "does not support embeddings" in str(raised.value.last)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"embeddings": 1}, "embeddings is 1"),
        ({"embeddings": True, "pooling": "max"}, "pooling is 'max': expected one of mean, cls"),
        ({"pooling": "mean"}, "pass embeddings=True"),
    ],
)
def test_wrong_settings_are_named(options: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        LocalServer(**options)  # type: ignore[arg-type]


def test_the_command_starts_the_local_model_to_embed(tmp_path: Path) -> None:
    (tmp_path / "texts").write_text('"a"\n{"text": "b", "key": "k"}\n')
    run = subprocess.run(
        [sys.executable, "-m", "aiollm", "embed", "texts", "-m", "local/smollm2"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert [(each["key"], len(each["vector"])) for each in lines] == [("1", WIDTH), ("k", WIDTH)]
    assert "2 of 2 done" in run.stderr
