"""The options of `aiollm embed` and `aiollm rerank`, which search by meaning."""

from __future__ import annotations

import argparse


def configure_embed(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `embed`."""
    add = parser.add_argument
    _configure_texts(parser)
    add("-o", "--into", metavar="FILE", help="vectors.npy, for numpy, or vectors.jsonl; "
        "by default standard output, as JSONL")  # fmt: skip
    add("-f", "--force", action="store_true", help="replace a file that exists")
    add("--resume", action="store_true", help="go on where a run into this file was stopped")
    add("--dimensions", type=int, metavar="N", help="the width of the vectors, such as 256")
    add("--kind", choices=("query", "document"), help="what the vectors are for")
    add("--truncate", action="store_true", help="cut texts that are too long; else they fail")
    add("--batch", type=int, metavar="N", help="the most texts in a request")


def configure_rerank(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `rerank`."""
    add = parser.add_argument
    add("query", help="what to look for")
    _configure_texts(parser)
    add("--top", type=int, metavar="N", help="show only the best N")
    add("--truncate", action="store_true", help="cut texts that are too long; else they fail")
    add("--json", action="store_true", help="print JSON")


def _configure_texts(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("file", metavar="FILE", help="JSONL: texts, or objects with a 'text' and perhaps a 'key'; "
        "'-' is standard input")  # fmt: skip
    add("-m", "--model", metavar="SPEC", required=True, help="provider/model, or a chain "
        "of one model's servers 'a/x,b/x'")  # fmt: skip
    add("--lines", action="store_true", help="each line is plain text, not JSON")


def embed(options: argparse.Namespace) -> int:
    """Make the vectors; return the exit code."""
    from aiollm.cli.embedding import embed  # no other command needs what it loads

    return embed(options)


def rerank(options: argparse.Namespace) -> int:
    """Rank the texts; return the exit code."""
    from aiollm.cli.reranking import rerank  # as above

    return rerank(options)
