"""`aiollm map`: ask every row of a JSONL file, with progress, and go on where a run was stopped."""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import stat
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from aiollm._bulk.keys import parse_shard
from aiollm._bulk.lines import LineFormat, read_rows
from aiollm._bulk.merge import merge, report_of
from aiollm._bulk.run import MapRun
from aiollm.cli.codes import FAILED, OK, STOPPED
from aiollm.cli.progress import RowProgress
from aiollm.cli.session import run, sampling_of, spec_of
from aiollm.cli.terminal import complain, describe
from aiollm.errors import ConfigError, StoppedError
from aiollm.registry import Registry

MOST_SHOWN = 10
"""Errors of rows that are shown while a run goes on; the output file has all of them."""


def map_rows(options: argparse.Namespace) -> int:
    """Ask all rows, or merge files; return the exit code."""
    if options.merge:
        return _merge(options)
    if len(options.rows) > 1:
        raise ConfigError("give one file of rows; with --merge, the output files to join")
    settings = _settings(options)
    with _opened(options.rows[0]) as fd:
        registry: dict[str, Any] = {} if options.limit_usd is None else {"prices": True}
        if options.response_cache:
            registry["response_cache"] = f"sqlite:{options.response_cache}"
        return run(partial(_work, options, settings, fd), **registry)


def _merge(options: argparse.Namespace) -> int:
    if not options.into:
        raise ConfigError("--merge needs a new file: -o all.jsonl")
    try:
        merged = merge(options.rows, options.into)
    except OSError as error:
        complain(describe(error))
        return FAILED
    complain(f"{merged.answered} answered, {merged.failed} failed: {options.into}")
    if options.report:
        _write_report(options)
    return OK if not merged.failed else FAILED


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of the run. Raises: ConfigError."""
    settings: dict[str, Any] = {
        "into": options.into or sys.stdout.fileno(),
        "resume": options.resume,
        "shard": options.shard,
        "system": options.system,
        **sampling_of(options),
        "concurrency": options.concurrency,
    }
    if options.report and not options.into:
        raise ConfigError("--report reads the output file: say which, with -o")
    if options.report and not os.path.isdir(os.path.dirname(options.report) or "."):  # noqa: PTH112, PTH120
        raise ConfigError(f"the report {options.report:.200} cannot be written: no such folder")
    if options.output:
        settings["output"] = _schema(options.output)
    if options.limit_usd is not None:
        from aiollm.prices import Budget  # for who wants to limit it

        settings["budget"] = Budget(options.limit_usd, name=options.budget or "")
    elif options.budget:
        raise ConfigError("--budget names a sum: say how much it is, with --limit-usd")
    if options.response_cache:
        settings["response_cache"] = "use"
    return {name: value for name, value in settings.items() if value is not None}


def _schema(path: str) -> dict[str, Any]:
    try:
        schema = msgspec.json.decode(Path(path).read_bytes())
    except OSError as error:
        reason = f"{error.strerror} (answers go into the file that -o or --into names)"
    except (ValueError, RecursionError) as error:
        reason = f"{error}"
    else:
        if isinstance(schema, dict):
            return schema
        reason = "it is not an object"
    raise ConfigError(f"the JSON schema {path:.200} cannot be used: {reason}")


@contextmanager
def _opened(path: str) -> Generator[int]:
    """Open the rows; yield the number of the file. Raises: ConfigError."""
    if path == "-":
        yield sys.stdin.fileno()
        return
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except OSError as error:
        reason = f"the rows {path:.200} cannot be read: {error.strerror}"
    else:
        try:
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                raise ConfigError(f"the rows {path:.200} cannot be read: it is a folder")
            yield fd
        finally:
            os.close(fd)
        return
    raise ConfigError(reason)


async def _work(
    options: argparse.Namespace, settings: dict[str, Any], fd: int, registry: Registry
) -> int:
    spec = await spec_of(options.model, registry)
    form = LineFormat(
        options.prompt_field,
        options.image_field,
        os.path.dirname(options.rows[0]),  # noqa: PTH120
    )
    total = await asyncio.to_thread(count_lines, options.rows[0])
    shards = parse_shard(options.shard).count if options.shard else 1
    code, stopped = OK, False
    try:
        async with registry.map(spec, read_rows(fd, form), **settings) as rows:
            with RowProgress(rows, registry, total, shards) as progress:
                code, stopped = await _ask(rows, progress)
    except asyncio.CancelledError:
        complain(f"stopped; {_advice(options)}")
        raise
    if stopped:
        complain(_advice(options))
    if options.report:
        await asyncio.to_thread(_write_report, options)
    return code


async def _ask(rows: MapRun[Any], progress: RowProgress) -> tuple[int, bool]:
    """Take all rows; return the exit code, and whether some are left."""
    code, shown = OK, 0
    try:
        async for row in rows:
            progress.add(row)
            if row.error is None:
                continue
            code, shown = FAILED, shown + 1
            if shown <= MOST_SHOWN:
                more = "; further errors are not shown" if shown == MOST_SHOWN else ""
                progress.say(f"{row.key}: {describe(row.error)}{more}")
    except StoppedError as error:
        progress.say(str(error))
        return STOPPED, True
    progress.is_complete = True
    return code, False


def _advice(options: argparse.Namespace) -> str:
    if not options.into:
        return "with -o FILE, a run can go on where it was stopped"
    arguments = [each for each in sys.argv[1:] if each != "--resume"]
    return f"to go on: {shlex.join(['aiollm', *arguments, '--resume'])}"


def count_lines(path: str) -> int | None:
    """Return how many lines a file has, None where that cannot be told before it is read."""
    with suppress(OSError):
        if path != "-" and stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
            with open(path, "rb") as file:  # noqa: PTH123
                bites = iter(partial(file.read, 1 << 20), b"")
                return sum(bite.count(b"\n") for bite in bites)
    return None


def _write_report(options: argparse.Namespace) -> None:
    from aiollm.bulk.page import page  # for who wants one

    Path(options.report).write_text(page(report_of(options.into)), encoding="utf-8")
