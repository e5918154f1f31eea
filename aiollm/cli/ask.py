"""`aiollm ask`: ask one question and stream the answer to the terminal."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections.abc import Sequence
from functools import partial
from typing import TextIO

import msgspec

from aiollm._streams.stream import Stream
from aiollm.cli import tools
from aiollm.cli.codes import OK
from aiollm.cli.session import add_images, add_sampling, image_from, run, sampling_of, spec_of
from aiollm.cli.terminal import complain, print_json, show
from aiollm.errors import ConfigError
from aiollm.registry import Registry
from aiollm.types import Request, user


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    configure_request(parser)
    tools.configure(parser)
    add_sampling(parser, "the answer")
    add = parser.add_argument
    add("--json", action="store_true", help="print the response as JSON at the end")
    add("-v", "--verbose", action="store_true", help="show which target answered, and its usage")


def configure_request(parser: argparse.ArgumentParser) -> None:
    """Declare the options that make a request, and whom it goes to."""
    add = parser.add_argument
    add("prompt", nargs="*", help="the question; '-' or none reads standard input")
    add("-m", "--model", metavar="SPEC", help="provider/model, an alias, a chain 'a/x,b/y'")
    add("-s", "--system", default="", metavar="TEXT", help="the system prompt")
    add_images(parser, "an image to send")


def request_of(options: argparse.Namespace) -> Request:
    """Return the request of the options, with what standard input brings. Raises: ConfigError."""
    text, images = _prompt(options.prompt), map(image_from, options.image)
    return Request((user(text, *images),), system=options.system)


def ask(options: argparse.Namespace) -> int:
    """Ask, and return the exit code."""
    # Read standard input before the loop runs: a thread that reads it would outlive Ctrl-C.
    request = msgspec.structs.replace(request_of(options), **sampling_of(options))
    return run(partial(_answer, options, request))


async def _answer(options: argparse.Namespace, request: Request, registry: Registry) -> int:
    spec = await spec_of(options.model, registry)
    if options.mcp or options.tools:
        return await _run(spec, options, request, registry)
    async with registry.stream(spec, request) as stream:
        try:
            if options.json:
                response = await stream.collect()
                print_json({"text": response.text} | msgspec.to_builtins(response, enc_hook=str))
            else:
                await show(stream)
        finally:
            if options.verbose:
                complain(_account(stream))
    return OK


async def _run(spec: str, options: argparse.Namespace, request: Request, registry: Registry) -> int:
    given = await tools.open_tools(options, registry)
    async with registry.run(spec, request, tools=given) as run:
        try:
            if options.json:
                response = await run.collect()
                print_json({"text": response.text} | msgspec.to_builtins(response, enc_hook=str))
            else:
                await show(run, tools.described)
        finally:
            if options.verbose:
                usage, turns = run.usage, "1 turn" if run.turns == 1 else f"{run.turns} turns"
                complain(f"{turns}, {usage.input_tokens} tokens in, {usage.output_tokens} out")
    return OK


def _prompt(words: Sequence[str]) -> str:
    """Join the words and the text piped to standard input, in this order."""
    asked = " ".join(words)
    parts = [asked] if asked not in ("", "-") else []
    if not parts or _is_piped(sys.stdin):
        parts.append(_standard_input().strip())
    text = "\n\n".join(filter(None, parts))
    if not text:
        raise ConfigError("the prompt is missing, for example: aiollm ask 'Why is the sky blue?'")
    return text


def _standard_input() -> str:
    if sys.stdin.isatty():
        end = "Ctrl-Z and Enter" if os.name == "nt" else "Ctrl-D"
        complain(f"type the question, then {end} at the start of a line")
    data = sys.stdin.buffer.read()
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        place = error.start
    complain(f"standard input is not UTF-8 (byte {place}): what cannot be read is sent as \ufffd")
    return data.decode(errors="replace")


def _is_piped(stream: TextIO) -> bool:
    try:
        mode = os.fstat(stream.fileno()).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def _account(stream: Stream) -> str:
    lines = [
        f"{attempt.target}: {attempt.outcome}" + (f" ({attempt.error})" if attempt.error else "")
        for attempt in stream.attempts
    ]
    usage, total, cost = stream.partial.usage, stream.partial.timings.total, stream.partial.cost
    if usage.certainty != "missing":
        shares = {"cached": usage.cached_tokens, "written to the cache": usage.cache_write_tokens}
        told = ", ".join(f"{count} {what}" for what, count in shares.items() if count)
        given = f"{usage.input_tokens} tokens in" + (f" ({told})" if told else "")
        paid = "" if cost.usd is None else f", ${cost.usd:.6g} {cost.source}"
        lines.append(f"{given}, {usage.output_tokens} out, {total:.1f} s{paid}")
    return "\n".join([*lines, *stream.partial.warnings]) or "nothing was tried"
