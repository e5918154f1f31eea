"""Servers and registries for the tests of images."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.registries import registries, servers


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Any]]:
    """Start a FaultServer: scripts by path, one for every request, or several in order."""
    async with servers() as start:
        yield start


@pytest.fixture
async def registry() -> AsyncIterator[Callable[..., Any]]:
    """Make a registry of DSNs by name; it ends with the test."""
    async with registries() as make:
        yield make
