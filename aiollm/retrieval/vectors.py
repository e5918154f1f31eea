"""Vectors in contiguous memory, each of which becomes an object when it is accessed."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import overload


class Vectors(Sequence["array[float]"]):  # noqa: PLW1641 - compared by value, as lists are
    """A sequence of vectors of one width, made of one piece of memory for each batch.

    Every full garbage collection would visit an object for each of 100,000 vectors, which holds up
    the event loop for some 20 ms (CPython 3.11). So each access makes a new vector; `pieces` is the
    memory itself, for example for `numpy.concatenate(made.pieces).reshape(-1, made.dimensions)`.
    """

    __slots__ = ("_ends", "dimensions", "pieces")

    def __init__(self, pieces: Iterable[array[float]], dimensions: int) -> None:
        """Take pieces of complete vectors; `dimensions` is how many numbers each vector has."""
        self.pieces: tuple[array[float], ...] = tuple(pieces)
        self.dimensions: int = dimensions
        self._ends = tuple(accumulate(len(piece) // dimensions for piece in self.pieces))

    @classmethod
    def joined(cls, parts: Sequence[Vectors]) -> Vectors:
        """Return the vectors of several, which must have one width, in order."""
        return cls((piece for part in parts for piece in part.pieces), parts[0].dimensions)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, place: int) -> array[float]: ...

    @overload
    def __getitem__(self, place: slice) -> tuple[array[float], ...]: ...

    def __getitem__(self, place: int | slice) -> array[float] | tuple[array[float], ...]:
        if isinstance(place, slice):
            return tuple(self[each] for each in range(*place.indices(len(self))))
        at = range(len(self))[place]
        piece = bisect_right(self._ends, at)
        start = (at - (self._ends[piece - 1] if piece else 0)) * self.dimensions
        return self.pieces[piece][start : start + self.dimensions]

    def __iter__(self) -> Iterator[array[float]]:
        for piece in self.pieces:
            for start in range(0, len(piece), self.dimensions):
                yield piece[start : start + self.dimensions]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Vectors | tuple | list):
            return NotImplemented
        return len(self) == len(other) and all(map(_alike, self, other))

    def __repr__(self) -> str:
        return f"<{len(self)} vectors of {self.dimensions} numbers>"


def _alike(one: array[float], other: object) -> bool:
    return one == other
