"""Servers and registries for the tests of streams, failover and health."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from aiollm import Registry
from tests.registries import servers


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Any]]:
    """Start a FaultServer: scripts by path, one for every request, or several in order."""
    async with servers() as start:
        yield start


@pytest.fixture
async def registry() -> AsyncIterator[Callable[..., Registry]]:
    """Make a registry whose providers are the given servers; it ends with the test."""
    # In the first test of a run, importing aiohttp would use up deadlines of 0.1 s.
    async with Registry(env={"LLM_A": "openai+http://127.0.0.1:1/v1"}) as loaded:
        await loaded.preload("a/m")
    async with AsyncExitStack() as stack:

        def make(servers: dict[str, Any], **options: Any) -> Registry:
            env = {
                f"LLM_{name.upper()}": f"openai+{getattr(server, 'url', server)}/v1"
                for name, server in servers.items()
            }
            made = Registry(env=env, **({"retries": 0} | options))
            stack.push_async_callback(made.aclose)
            return made

        yield make
