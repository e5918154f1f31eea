"""`aiollm tokens`: count the input tokens of a question."""

from __future__ import annotations

import argparse

from aiollm.cli.ask import configure_request, request_of
from aiollm.cli.codes import OK
from aiollm.cli.safe_text import one_line
from aiollm.cli.session import run, spec_of
from aiollm.cli.terminal import complain, print_json, write
from aiollm.registry import Registry


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    configure_request(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def tokens(options: argparse.Namespace) -> int:
    """Print the count, and return the exit code."""
    # Read standard input before the loop runs: a thread that reads it would outlive Ctrl-C.
    request = request_of(options)

    async def work(registry: Registry) -> int:
        spec = await spec_of(options.model, registry)
        count = await registry.count_tokens(spec, request)
        if options.json:
            known = {"tokens": count.tokens, "certainty": count.certainty}
            print_json(known | {"target": str(count.target)})
            return OK
        if count.certainty == "estimated":
            complain(f"{one_line(count.target)} cannot count: this is an estimate")
        write(f"{count.tokens}\n")
        return OK

    return run(work)
