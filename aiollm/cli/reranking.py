"""`aiollm rerank`: the texts of a file by how well they answer a query."""

from __future__ import annotations

import argparse

from aiollm.cli.safe_text import one_line
from aiollm.cli.session import OK, run, spec_of
from aiollm.cli.terminal import complain, print_json, write
from aiollm.cli.texts import read_texts
from aiollm.registry import Registry


def rerank(options: argparse.Namespace) -> int:
    """Print the texts, best first; return the exit code."""
    texts = read_texts(options.file, lines=options.lines)

    async def work(registry: Registry) -> int:
        spec = await spec_of(options.model, registry)
        documents = [each.text for each in texts]
        ranking = await registry.rerank(
            spec, options.query, documents, top=options.top, truncate=options.truncate
        )
        for warning in ranking.warnings:
            complain(warning)
        best = [(each.score, *texts[each.index]) for each in ranking]
        if options.json:
            ranked = [{"key": key, "score": score, "text": text} for score, key, text in best]
            print_json({"target": str(ranking.target), "ranked": ranked})
            return OK
        # Keys are those of lines, so that a line can be found again.
        rows = (f"{score:.4f}\t{one_line(key)}\t{one_line(text)}\n" for score, key, text in best)
        write("".join(rows))
        return OK

    return run(work)
