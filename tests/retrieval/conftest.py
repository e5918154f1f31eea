"""Servers and registries for the tests of embedding and reranking."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from aiollm import Registry
from aiollm.testing import FaultServer


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Awaitable[FaultServer]]]:
    """Start a FaultServer: one script answers every request, several answer in order."""
    async with AsyncExitStack() as stack:

        async def start(*scripts: Any, **options: Any) -> FaultServer:
            if len(scripts) == 1:
                return await start(default=scripts[0], **options)
            return await stack.enter_async_context(FaultServer(*scripts, **options))

        yield start


@pytest.fixture
async def registry() -> AsyncIterator[Callable[..., Registry]]:
    """Make a registry of DSNs by name; it ends with the test."""
    async with AsyncExitStack() as stack:

        def make(dsns: dict[str, str], **options: Any) -> Registry:
            env = {f"LLM_{name.upper()}": dsn for name, dsn in dsns.items()}
            made = Registry(env=env, **({"retries": 0} | options))
            stack.push_async_callback(made.aclose)
            return made

        yield make
