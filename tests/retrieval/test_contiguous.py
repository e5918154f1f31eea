"""Vectors one behind another: the same as a tuple of them, without an object for each."""

from __future__ import annotations

import gc
from array import array

from hypothesis import given
from hypothesis import strategies as st

from aiollm.retrieval import Vectors


@st.composite
def vectors(draw: st.DrawFn) -> tuple[Vectors, tuple[array[float], ...]]:
    """Return vectors in some pieces, and as a tuple."""
    width = draw(st.integers(1, 4))
    counts = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    numbers = iter(range(1000))
    pieces = [array("f", [next(numbers) for _ in range(n * width)]) for n in counts]
    plain = tuple(p[at : at + width] for p in pieces for at in range(0, len(p), width))
    return Vectors.joined([Vectors((piece,), width) for piece in pieces]), plain


@given(vectors(), st.data())
def test_they_are_a_sequence_like_a_tuple_of_vectors(pair, data) -> None:
    found, plain = pair
    assert len(found) == len(plain)
    assert [*found] == [*plain]
    assert found == plain
    assert plain == found
    assert found != plain[:-1]
    place = data.draw(st.integers(-len(plain), len(plain) - 1))
    assert found[place] == plain[place]
    cut = data.draw(st.slices(len(plain)))
    assert found[cut] == plain[cut]
    assert plain[place] in found


def test_many_vectors_are_few_objects_for_the_collector() -> None:
    found = Vectors((array("f", bytes(4 * 3 * 10_000)),), 3)
    assert len(found) == 10_000
    assert len(gc.get_referents(found)) < 10
