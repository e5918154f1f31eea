"""The options of `aiollm map`, which asks every row of a JSONL file."""

from __future__ import annotations

import argparse

from aiollm.cli.session import add_sampling


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("rows", nargs="+", metavar="FILE", help="a JSONL file of rows; '-' is standard input")
    add("-m", "--model", metavar="SPEC", help="provider/model, an alias, a chain 'a/x,b/y'")
    add("-o", "--into", metavar="FILE", help="the output file; by default standard output")
    add("-s", "--system", metavar="TEXT", help="the system prompt of all rows")
    add_sampling(parser, "each answer")
    add("--resume", action="store_true", help="go on with an output file that exists")
    add("--merge", action="store_true", help="join output files, such as shards', into a new one")
    add("--shard", metavar="K/N", help="ask only share K of N of the rows, such as 2/8")
    add("--output", metavar="FILE", help="a JSON schema that answers must fit")
    add("--prompt-field", default="prompt", metavar="NAME", help="the field that is the prompt")
    add("--image-field", metavar="NAME", help="the field with paths or URLs of images")
    add("--concurrency", type=int, metavar="N", help="rows at a time; by default found by trying")
    add("--limit-usd", type=float, metavar="X", help="end before the run costs more dollars")
    add("--budget", metavar="NAME", help="share --limit-usd with all of a fleet that use this name")
    add("--response-cache", metavar="FILE", help="keep answers here, and reuse them for equal rows")
    add("--report", metavar="FILE", help="write an HTML page about the run")


def map_rows(options: argparse.Namespace) -> int:
    """Ask all rows, or merge files; return the exit code."""
    from aiollm.cli.mapping import map_rows  # no other command needs what it loads

    return map_rows(options)
