"""Files of vectors: numpy's format 1.0, or lines of JSON; written whole or not at all."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import msgspec

from aiollm.errors import ConfigError
from aiollm.retrieval import Vector

Pieces: TypeAlias = Iterator[bytes]
Format: TypeAlias = Callable[[Sequence[str], Sequence[Vector]], Pieces]

_ALIGNED = 64
"""The size of an array's header is a multiple of this, so that its numbers can be mapped."""


def as_npy(keys: Sequence[str], vectors: Sequence[Vector]) -> Pieces:
    """Yield an array of 32-bit numbers, a row for each vector, as numpy's documentation has it."""
    del keys  # an array has rows alone
    shape = f"({len(vectors)}, {len(vectors[0])})"
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    padding = -(10 + len(header) + 1) % _ALIGNED
    header += b" " * padding + b"\n"
    yield b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    yield from map(little_endian, vectors)


def as_jsonl(keys: Sequence[str], vectors: Sequence[Vector]) -> Pieces:
    """Yield a line for each vector; nine digits give back each 32-bit number."""
    for key, vector in zip(keys, vectors, strict=True):
        numbers = ",".join([f"{number:.9g}" for number in vector])
        yield b'{"key":%s,"vector":[%s]}\n' % (msgspec.json.encode(key), numbers.encode())


def little_endian(vector: Vector) -> bytes:
    """Return the bytes of a vector, the lowest of each number first."""
    if sys.byteorder == "big":
        vector = vector[:]
        vector.byteswap()
    return vector.tobytes()


_FORMATS: dict[str, Format] = {".npy": as_npy, ".jsonl": as_jsonl}


class Output:
    """Where vectors go. Raises: ConfigError before anything is paid for."""

    def __init__(self, path: str | None, *, replace: bool) -> None:
        self._path = None if path is None else Path(path)
        self._format: Format = as_jsonl
        if self._path is not None:
            self._format = _format_of(self._path)
            _check_place(self._path, replace=replace)

    @property
    def kept(self) -> Path | None:
        """Where vectors are kept until all have come; None for standard output."""
        return self._path and self._path.with_name(f"{self._path.name}.part")

    def __str__(self) -> str:
        return "standard output" if self._path is None else str(self._path)

    def save(self, keys: Sequence[str], vectors: Sequence[Vector]) -> None:
        """Write all vectors. Raises: OSError."""
        pieces = self._format(keys, vectors)
        if self._path is None:
            sys.stdout.buffer.writelines(pieces)
            sys.stdout.flush()
            return
        part = self._path.with_name(f"{self._path.name}.{secrets.token_hex(4)}.part")
        try:
            with part.open("xb") as file:
                file.writelines(pieces)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self._path)
        finally:
            with suppress(FileNotFoundError):
                part.unlink()


def _format_of(path: Path) -> Format:
    found = _FORMATS.get(path.suffix)
    if found is None:
        raise ConfigError(f"{path.name!r:.200} must end in {' or '.join(_FORMATS)}")
    return found


def _check_place(path: Path, *, replace: bool) -> None:
    if path.is_dir():
        raise ConfigError(f"{str(path)!r} is a folder: -o names a file")
    if not path.parent.is_dir():
        raise ConfigError(f"the folder {str(path.parent)!r} does not exist")
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"the folder {str(path.parent)!r} cannot be written to")
    if path.exists() and not replace:
        raise ConfigError(f"{str(path)!r} exists: give another file with -o, or --force")
