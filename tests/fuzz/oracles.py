"""What must hold for any input: shared by all targets."""

from __future__ import annotations

import json
import math
import pickle
import random
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zlib import crc32

import aiollm
from aiollm._serialization import from_json, to_json
from aiollm.errors import LLMError, ProviderError, classify, http_status
from aiollm.types import Response, Usage

MAX_SHOWN = 3000
"""Characters of an error's text: the longest message of a provider, and what is said around it."""

MEMORY = 400
"""Bytes of memory for each byte of input: Python's smallest values come from two bytes of JSON."""

PACKAGE = str(Path(aiollm.__file__).parent)


def rng_of(data: bytes) -> random.Random:
    """Return randomness that depends on the input alone, so that every finding can be replayed."""
    return random.Random(crc32(data))


def one_in(many: int, data: bytes) -> bool:
    """Choose some inputs for an expensive check."""
    return crc32(data[::-1]) % many == 0


def cuts(data: bytes) -> Iterator[list[bytes]]:
    """Yield the data in pieces: of a small size, at random places, and with empty ones between."""
    rng = rng_of(data)
    size = rng.choice((1, 2, 7)) if len(data) < 400 else rng.choice((7, 31))
    yield [data[at : at + size] for at in range(0, len(data), size)]
    places = sorted(rng.randint(0, len(data)) for _ in range(rng.choice((1, 3, 9))))
    yield [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


def ends(data: bytes, many: int = 2) -> Iterator[bytes]:
    """Yield beginnings of the data: cut at random, and where its last lines end."""
    rng = rng_of(data)
    lines = [at for at, byte in enumerate(data) if byte in b"\r\n}]"][-40:]
    for _ in range(many):
        yield data[: rng.randrange(len(data))] if data else data
    for at in rng.sample(lines, min(many, len(lines))):
        yield data[: at + rng.randint(0, 1)]


def check_error(error: LLMError) -> None:
    """An error has a short text that can be printed, sane hints, and can be pickled."""
    text = str(error)
    assert len(text) <= MAX_SHOWN, f"an error of {len(text)} characters"
    (text + repr(error.args)).encode()
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy)) == (type(error), text)
    classify(error)
    assert 400 <= http_status(error) < 600
    if isinstance(error, ProviderError):
        f"{error.code} {error.request_id}".encode()
        assert len(error.code) <= 200 >= len(error.request_id)
        assert error.retry_after is None or 0 <= error.retry_after < math.inf


def check_usage(usage: Usage) -> None:
    counts = (
        usage.input_tokens,
        usage.output_tokens,
        usage.cached_tokens,
        usage.reasoning_tokens,
        usage.cache_write_tokens,
    )
    assert all(type(count) is int for count in counts), usage


def check_response(response: Response, size: int) -> None:
    """A response can be printed, saved and loaded, and is not much larger than what came."""
    calls = response.tool_calls
    texts = [response.text, response.reasoning, response.refusal or ""]
    texts += [text for call in calls for text in (call.id, call.name, call.arguments)]
    "".join(texts).encode()
    assert sum(map(len, texts)) <= 8 * size + 64 * (len(calls) + 1), "an answer from nowhere"
    ids = [call.id for call in calls if call.name]
    assert len(set(ids)) == len(ids), "two calls have one id"
    for call in calls:
        if call.valid and not call.custom:
            assert isinstance(call.parsed(), dict)
    check_usage(response.usage)
    saved = to_json(response)
    again = to_json(from_json(saved, Response))
    assert again == to_json(from_json(again, Response))
    json.loads(saved)


@contextmanager
def bounded_memory(data: bytes) -> Iterator[None]:
    """For some inputs: the peak of memory is linear in the size of the input."""
    if not one_in(64, data) or tracemalloc.is_tracing():
        yield
        return
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= MEMORY * len(data) + 4_000_000, f"{peak} bytes for {len(data)} of input"


def lines_run(work: Callable[[], Any]) -> int:
    """Count the lines of aiollm that are run: a measure of work that no machine changes."""
    count = 0

    def trace(frame: Any, event: str, arg: Any) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def check_linear(work: Callable[[bytes], Any], head: bytes, part: bytes, tail: bytes) -> None:
    """Work grows with the input, not with its square: twice as many parts cost twice as much."""
    costs = [lines_run(lambda n=n: work(head + n * part + tail)) for n in (64, 128, 256)]
    first, second = costs[1] - costs[0], costs[2] - costs[1]
    assert second <= 2.6 * max(first, 0) + 2000, f"work is not linear: {costs} for {part[:200]!r}"
