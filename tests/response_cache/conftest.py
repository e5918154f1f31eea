"""Registries that keep answers in a file of the test."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from aiollm import Registry
from aiollm.testing import FakeProvider


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "answers.db"


@pytest.fixture
def threads() -> Callable[[], list[threading.Thread]]:
    """Return the threads of the test's own caches: one of the test before may be about to end."""
    before = {*threading.enumerate()}

    def begun() -> list[threading.Thread]:
        name = "aiollm response cache"
        return [each for each in threading.enumerate() if each.name == name and each not in before]

    return begun


@pytest.fixture
async def keeping(file: Path) -> AsyncIterator[Callable[..., Registry]]:
    """Make registries with the given fakes, which share one file."""
    async with AsyncExitStack() as stack:

        async def make(*fakes: FakeProvider, query: str = "", **settings: Any) -> Registry:
            address = f"sqlite:{file}{query}"
            reg = Registry(env={}, response_cache=address, cooldown=0, **settings)
            await stack.enter_async_context(reg)
            for fake in fakes:
                reg.register(fake.name, fake.provider())
            return reg

        yield make
