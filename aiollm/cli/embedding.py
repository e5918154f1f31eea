"""`aiollm embed`: vectors of the texts in a file, with progress."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from functools import partial

from aiollm.cli.codes import FAILED, OK
from aiollm.cli.kept_vectors import KeptVectors, Made
from aiollm.cli.progress import Progress, figure, time_text
from aiollm.cli.session import run, spec_of
from aiollm.cli.terminal import complain, describe
from aiollm.cli.texts import Text, read_texts
from aiollm.cli.vector_files import Output
from aiollm.errors import ConfigError, LLMError
from aiollm.events import CallEnded, CallStarted, Event
from aiollm.registry import Registry
from aiollm.retrieval import Embeddings, EmbedRequest

AT_ONCE = 8192
"""Texts whose vectors are kept together. A stop may lose as many, and between two such parts fewer
batches are under way."""


def embed(options: argparse.Namespace) -> int:
    """Make the vectors; return the exit code."""
    output = Output(options.into, replace=options.force)
    # Read standard input before the loop runs: a thread that reads it would outlive Ctrl-C.
    texts = read_texts(options.file, lines=options.lines)

    if output.kept is None:
        return run(partial(_print, options, texts, output))
    with KeptVectors(output.kept, resume=options.resume, replace=options.force) as kept:
        return run(partial(_write, options, texts, output, kept))


async def _print(
    options: argparse.Namespace, texts: Sequence[Text], output: Output, registry: Registry
) -> int:
    """Print all vectors when the last has come."""
    spec = await spec_of(options.model, registry, embeddings=True)
    try:
        with VectorProgress(registry, len(texts)):
            found = await _found(options, spec, [each.text for each in texts], registry)
    except ConfigError:
        raise
    except LLMError as error:
        arrived = sum(each is not None for each in error.vectors)
        complain(describe(error))
        complain(f"{arrived} of {len(texts)} vectors had come; with -o they would have been kept")
        return FAILED
    _warn(found, set())
    await asyncio.to_thread(output.save, [each.key for each in texts], found.vectors)
    return OK


async def _write(
    options: argparse.Namespace,
    texts: Sequence[Text],
    output: Output,
    kept: KeptVectors,
    registry: Registry,
) -> int:
    """Keep vectors as they come, and write all when the last has."""
    spec = await spec_of(options.model, registry, embeddings=True)
    model = registry.parse(spec).targets[0].model
    kept.expect(Made(model, options.dimensions, options.kind, options.truncate))
    plain = [each.text for each in texts]
    try:
        await _fill(options, spec, plain, kept, registry)
    except ConfigError:
        raise
    except (LLMError, asyncio.CancelledError) as error:
        if stopped := isinstance(error, LLMError):
            complain(describe(error))
        complain(_left(kept, plain, output))
        if stopped:
            return FAILED
        raise
    keys = [each.key for each in texts]
    await asyncio.to_thread(lambda: output.save(keys, kept.vectors(plain)))
    complain(f"{output}: {len(texts)} vectors of {kept.width} numbers by {model}")
    kept.clear()
    return OK


async def _fill(
    options: argparse.Namespace,
    spec: str,
    texts: Sequence[str],
    kept: KeptVectors,
    registry: Registry,
) -> None:
    """Make the vectors that are missing, and keep them."""
    missing = kept.missing(texts)
    if len(kept):
        complain(f"{len(kept)} vectors are kept in {kept}, {len(missing)} texts are left")
    said: set[str] = set()
    with VectorProgress(registry, len(missing)):
        for at in range(0, len(missing), AT_ONCE):
            some = missing[at : at + AT_ONCE]
            try:
                found = await _found(options, spec, some, registry)
            except LLMError as error:
                await asyncio.to_thread(kept.add, some, error.vectors)
                raise
            await asyncio.to_thread(kept.add, some, found.vectors)
            _warn(found, said)


def _warn(found: Embeddings, said: set[str]) -> None:
    """Print what was not said yet."""
    for warning in found.warnings:
        if warning not in said:
            complain(warning)
    said.update(found.warnings)


def _left(kept: KeptVectors, texts: Sequence[str], output: Output) -> str:
    left = f"{len(kept.missing(texts))} texts are left; nothing is written to {output}"
    advice = f"the same command with --resume goes on from {kept}, which has {len(kept)} vectors"
    return f"{left}; {advice}" if len(kept) else left


async def _found(
    options: argparse.Namespace, spec: str, texts: Sequence[str], registry: Registry
) -> Embeddings:
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
        parts = [f"{self._done} of {self._total} done", f"{figure(rate)} texts/s"]
        if is_over:
            parts.append(f"in {time_text(self._seconds)}")
        elif rate > 0:
            parts.append(f"{time_text((self._total - self._done) / rate)} left")
        return ", ".join(parts)
