"""A registry with a provider in this process, and the lines of an output file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from aiollm import Registry
from aiollm.bulk.record import Record


@pytest.fixture
async def registry() -> AsyncIterator[Registry]:
    async with Registry(env={}) as made:
        yield made


def records(path: Path) -> list[Record]:
    """Return the lines of an output file; all of them are complete."""
    return records_of(path.read_bytes())


def records_of(data: bytes) -> list[Record]:
    """Return the lines of the bytes of an output file."""
    assert data.endswith(b"\n") or not data
    return [msgspec.json.decode(line, type=Record) for line in data.splitlines()]


def answers(path: Path) -> dict[str, str | None]:
    """Return what an output file says of each key: its last line counts."""
    return {each.key: None if each.failure else each.text for each in records(path)}
