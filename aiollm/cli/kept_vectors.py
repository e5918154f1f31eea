"""Vectors kept beside the output of `aiollm embed` until it is complete, each with its text's hash.

A line of JSON says what made them; after it each record is a hash and 32-bit numbers. Records are
only appended, so a process may die at any byte.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Annotated, Self, overload

import msgspec

from aiollm._bulk.output import lock
from aiollm._wire.vectors import as_vector
from aiollm.cli.vector_files import little_endian
from aiollm.errors import ConfigError, UnsupportedError
from aiollm.retrieval import Vector

_HASH = 16
_MAX_HEAD = 64 * 1024
_BEGIN = b'{"made":'
"""What every head begins with, also one that was cut."""
_MAX_WIDTH = 1 << 20


class Made(msgspec.Struct, frozen=True):
    """What makes vectors; those that anything else makes cannot be compared with them."""

    model: str
    dimensions: int | None = None
    kind: str | None = None
    truncate: bool = False


class _Head(msgspec.Struct, frozen=True):
    made: Made
    width: Annotated[int, msgspec.Meta(ge=1, le=_MAX_WIDTH)]


class KeptVectors:
    """The vectors of a run so far; a context manager that closes their file.

    The file is there only while it has vectors. Raises: ConfigError, OSError.
    """

    def __init__(self, path: Path, *, resume: bool, replace: bool) -> None:
        """Open the file; without `resume` it must not exist, unless `replace` begins it anew."""
        self._path = path
        self._made: Made | None = None
        self._places: dict[bytes, int] = {}
        self._width = self._start = 0
        # A thread that writes goes on after the task that waits for it was cancelled.
        self._writing = threading.Lock()
        self._view: mmap.mmap | None = None
        if path.is_symlink():
            # Who may write to the folder could have another of the user's files overwritten.
            raise ConfigError(f"{path} is a symbolic link: remove it")
        self._file = open(path, "a+b", opener=_open)  # noqa: SIM115 - closed by `__exit__`
        try:
            lock(self._file.fileno(), str(path))
            if replace and not resume:
                self._file.truncate(0)
            self._read(resume=resume)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._writing:
            if self._view is not None:
                self._view.close()  # it has a descriptor of its own, which holds the lock, too
            self._file.close()
            if not self._places:
                self._path.unlink(missing_ok=True)

    def __len__(self) -> int:
        return len(self._places)

    def __str__(self) -> str:
        return str(self._path)

    @property
    def width(self) -> int:
        """How many numbers each vector has, 0 while there is none."""
        return self._width

    def expect(self, made: Made) -> None:
        """Say what makes the vectors to come. Raises: ConfigError if the kept differ."""
        if self._made is not None and self._made != made:
            raise ConfigError(
                f"{self._path} has vectors of {_described(self._made)}, which do not mix with "
                f"those of {_described(made)}: --force starts over"
            )
        self._made = made

    def missing(self, texts: Sequence[str]) -> list[str]:
        """Return the texts that have no vector yet, each once."""
        return [each for each in dict.fromkeys(texts) if _hash(each) not in self._places]

    def add(self, texts: Sequence[str], vectors: Sequence[Vector | None]) -> None:
        """Append vectors, None where none has come. Raises: UnsupportedError, OSError."""
        pairs = zip(texts, vectors, strict=True) if vectors else ()
        new = {_hash(text): vector for text, vector in pairs if vector is not None}
        with self._writing:
            if not new or self._file.closed:
                return
            self._check_width(len(next(iter(new.values()))))
            parts = [part for key, each in new.items() for part in (key, little_endian(each))]
            self._file.write(b"".join(parts))
            self._file.flush()
            self._places.update(zip(new, range(len(self), len(self) + len(new)), strict=True))

    def clear(self) -> None:
        """Forget all vectors: the output is complete."""
        self._places.clear()

    def vectors(self, texts: Sequence[str]) -> Sequence[Vector]:
        """Return the vectors of texts, all of which must be there; each is read when it is used."""
        view = self._view = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        return _Vectors(
            view, self._start, self._width, [self._places[_hash(each)] for each in texts]
        )

    def _read(self, *, resume: bool) -> None:
        self._file.seek(0)
        line = self._file.readline(_MAX_HEAD)
        if line and not resume:
            raise ConfigError(
                f"{self._path} has vectors of a run that was stopped: --resume continues it, "
                "--force starts over"
            )
        ours = line.startswith(_BEGIN) or _BEGIN.startswith(line)
        if ours and not line.endswith(b"\n") and len(line) < _MAX_HEAD:
            self._file.truncate(0)  # its process was killed before it had a vector
            return
        try:
            head = msgspec.json.decode(line, type=_Head)
        except (msgspec.MsgspecError, RecursionError):
            raise ConfigError(f"{self._path} is not a file of kept vectors") from None
        self._made, self._width, self._start = head.made, head.width, len(line)
        size = _HASH + 4 * self._width
        while len(record := self._file.read(size)) == size:
            self._places[record[:_HASH]] = len(self._places)
        self._file.truncate(self._start + size * len(self._places))

    def _check_width(self, width: int) -> None:
        made = self._made
        assert made is not None
        if not self._width:
            head = msgspec.json.encode(_Head(made, width)) + b"\n"
            self._file.write(head)
            self._width, self._start = width, len(head)
        if width != self._width:
            raise UnsupportedError(
                f"the vectors have {width} numbers, those in {self._path} {self._width}: "
                f"{made.model} is another model now"
            )


class _Vectors(Sequence[Vector]):
    """Vectors in a file, by their places."""

    def __init__(self, view: mmap.mmap, start: int, width: int, places: Sequence[int]) -> None:
        self._view, self._places = view, places
        self._start, self._size = start, 4 * width

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, place: int) -> Vector: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Vector]: ...

    def __getitem__(self, place: int | slice) -> Vector | Sequence[Vector]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        at = self._start + self._places[place] * (_HASH + self._size) + _HASH
        return as_vector(self._view[at : at + self._size])


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=_HASH).digest()


def _described(made: Made) -> str:
    settings: Mapping[str, object] = msgspec.structs.asdict(made)
    return ", ".join(f"{name} {value}" for name, value in settings.items() if value)
