"""`aiollm embed`: vectors of the texts in a file, with progress."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence

from aiollm.cli.progress import Progress, time_text
from aiollm.cli.session import FAILED, OK, run, spec_of
from aiollm.cli.terminal import complain, describe
from aiollm.cli.texts import Text, read_texts
from aiollm.cli.vector_files import Output
from aiollm.errors import ConfigError, LLMError
from aiollm.events import CallEnded, CallStarted, Event
from aiollm.registry import Registry
from aiollm.retrieval import Embeddings, EmbedRequest


def embed(options: argparse.Namespace) -> int:
    """Make the vectors; return the exit code."""
    output = Output(options.into, replace=options.force)
    # Read standard input before the loop runs: a thread that reads it would outlive Ctrl-C.
    texts = read_texts(options.file, lines=options.lines)

    async def work(registry: Registry) -> int:
        return await _embed(options, texts, output, registry)

    return run(work)


async def _embed(
    options: argparse.Namespace, texts: Sequence[Text], output: Output, registry: Registry
) -> int:
    try:
        found = await _found(options, [each.text for each in texts], registry)
    except ConfigError:
        raise
    except LLMError as error:
        arrived = sum(each is not None for each in error.vectors)
        complain(describe(error))
        complain(f"{arrived} of {len(texts)} vectors had come; nothing is written to {output}")
        return FAILED
    for warning in found.warnings:
        complain(warning)
    await asyncio.to_thread(output.save, [each.key for each in texts], found.vectors)
    if options.into:
        by = f"{len(texts)} vectors of {found.width} numbers by {found.target}"
        complain(f"{output}: {by}")
    return OK


async def _found(
    options: argparse.Namespace, texts: Sequence[str], registry: Registry
) -> Embeddings:
    spec = await spec_of(options.model, registry, embeddings=True)
    with VectorProgress(registry, len(texts)):
        return await registry.embed(
            spec,
            texts,
            dimensions=options.dimensions,
            kind=options.kind,
            truncate=options.truncate,
            batch=options.batch,
        )


class VectorProgress(Progress):
    """Counts the texts of batches that have come."""

    def __init__(self, registry: Registry, total: int) -> None:
        super().__init__()
        self._total = total
        self._done = 0
        self._sizes: dict[int, int] = {}
        registry.on_event(self._note)

    def _note(self, event: Event) -> None:
        match event:
            case CallStarted(call=call, request=EmbedRequest(inputs=inputs)):
                self._sizes[call] = len(inputs)
            case CallEnded(call=call, outcome=outcome):
                size = self._sizes.pop(call, 0)
                self._done += size if outcome == "success" else 0
            case _:
                pass

    def _line(self, *, is_over: bool = False) -> str:
        rate, _ = self._rates((self._done, 0), is_over=is_over)
        parts = [f"{self._done} of {self._total} done", f"{rate:.3g} texts/s"]
        if is_over:
            parts.append(f"in {time_text(self._seconds)}")
        elif rate > 0:
            parts.append(f"{time_text((self._total - self._done) / rate)} left")
        return ", ".join(parts)
