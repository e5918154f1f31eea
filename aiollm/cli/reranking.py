"""`aiollm rerank`: the texts of a file by how well they answer a query."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from aiollm.cli.codes import OK
from aiollm.cli.safe_text import one_line
from aiollm.cli.session import run, spec_of
from aiollm.cli.terminal import complain, print_json, write
from aiollm.cli.texts import Text, read_texts
from aiollm.registry import Registry
from aiollm.retrieval import Ranking


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
        _show(ranking, texts, as_json=options.json)
        return OK

    return run(work)


def _show(ranking: Ranking, texts: Sequence[Text], *, as_json: bool) -> None:
    """Print texts with their scores, and with their keys: those of lines, to find them again."""
    best = [(each.score, *texts[each.index]) for each in ranking]
    if as_json:
        ranked = [{"key": key, "score": score, "text": text} for score, key, text in best]
        print_json({"target": str(ranking.target), "ranked": ranked})
    else:
        rows = (f"{score:.4f}\t{one_line(key)}\t{one_line(text)}\n" for score, key, text in best)
        write("".join(rows))
