"""Joining output files, as of shards: each key once, with its answer if one of them has it."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import msgspec

from aiollm._bulk.output import Known, decode_line, is_begun, lock
from aiollm.bulk.record import Record
from aiollm.bulk.report import Report
from aiollm.bulk.tally import Tally
from aiollm.errors import ConfigError

_Chosen: TypeAlias = tuple[int, int, bool, int]
"""The line of a key: its file and number, whether it is an answer, and the hash of what it asks."""


class Merged(msgspec.Struct, frozen=True):
    """What a merge wrote: keys with an answer, and with none."""

    answered: int
    failed: int


def merge(paths: Sequence[str], into: str) -> Merged:
    """Write the lines of output files into a new one, a line for each key.

    An answer goes before a failure, and a later line before an earlier one. The new file appears
    when it is complete. Raises: ConfigError for files of different runs, OSError.
    """
    if os.path.lexists(into):
        raise ConfigError(f"the output file {into:.200} exists: use another name")
    chosen = _choose(paths)
    part = f"{into}.{secrets.token_hex(4)}.part"  # no file of the user's, perhaps one to be merged
    try:
        with open(part, "xb") as file:  # noqa: PTH123 - a name with an addition
            for place, path in enumerate(paths):
                for number, line, known in _lines_of(path):
                    if chosen[hash(known.key)][:2] == (place, number):
                        file.write(line.rstrip(b"\n") + b"\n")
            file.flush()
            os.fsync(file.fileno())
        Path(part).rename(into)
    except BaseException:
        with suppress(OSError):
            Path(part).unlink()
        raise
    answered = sum(each[2] for each in chosen.values())
    return Merged(answered, len(chosen) - answered)


def _choose(paths: Sequence[str]) -> dict[int, _Chosen]:
    """Return the line of each key, by the key's hash."""
    chosen: dict[int, _Chosen] = {}
    run: str | None = None
    for place, path in enumerate(paths):
        for number, _, known in _lines_of(path):
            run = known.run if run is None else run
            if known.run != run:
                raise ConfigError(
                    f"line {number} of {path:.200} belongs to another run than {paths[0]:.200}: "
                    "their spec or type of output is not the same"
                )
            key, asked, is_answer = hash(known.key), hash(known.asked), not known.failure
            before = chosen.get(key)
            if before is not None and before[2]:
                if not is_answer:
                    continue
                if before[3] != asked:
                    raise ConfigError(
                        f"line {number} of {path:.200} and line {before[1]} of "
                        f"{paths[before[0]]:.200} answer different requests with one key"
                    )
            chosen[key] = (place, number, is_answer, asked)
    return chosen


def _lines_of(path: str) -> Iterator[tuple[int, bytes, Known]]:
    """Yield the complete lines of a file, which is read twice. Raises: ConfigError, OSError."""
    with open(path, "rb") as file:  # noqa: PTH123 - as it was given
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ConfigError(f"{path:.200} cannot be merged: it is not a file on a disk")
        lock(file.fileno(), path)
        for number, line in enumerate(file, 1):
            known = decode_line(line)
            if known is not None and known.run:
                yield number, line, known
            elif known is not None or not is_begun(line):
                raise ConfigError(f"line {number} of {path:.200} was not written by a bulk run")


def report_of(path: str) -> Report:
    """Return the report of all rows of an output file. Raises: ConfigError, OSError."""
    tally, decoder = Tally(), msgspec.json.Decoder(Record)
    failed: dict[int, Record] = {}
    with open(path, "rb") as file:  # noqa: PTH123 - as it was given
        for line in file:
            try:
                record = decoder.decode(line)
            except (ValueError, RecursionError):  # the half of one, or not as it was written
                continue
            tally.add(record, failed.pop(hash(record.key), None))
            if record.failure is not None:
                kept = msgspec.structs.replace(record.failure, message="")
                failed[hash(record.key)] = Record(record.key, failure=kept, target=record.target)
    return tally.report()
