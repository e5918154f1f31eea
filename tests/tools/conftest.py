"""Registries over fakes, and servers, for the tests of tools and agent runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from aiollm import Registry
from aiollm.testing import FakeProvider, FaultServer


@pytest.fixture
async def over() -> AsyncIterator[Callable[..., Registry]]:
    """Make a registry whose providers are the given fakes; it ends with the test."""
    async with AsyncExitStack() as stack:

        def make(*fakes: FakeProvider, facts: Any = None, **options: Any) -> Registry:
            made = Registry(env={}, **({"retries": 0} | options))
            for fake in fakes:
                made.register(fake.name, fake.provider(facts=facts or {}))
            stack.push_async_callback(made.aclose)
            return made

        yield make


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Any]]:
    """Start a FaultServer of the given script and a registry that knows it as `a`."""
    async with AsyncExitStack() as stack:

        async def start(*script: Any, **options: Any) -> tuple[FaultServer, Registry]:
            server = await stack.enter_async_context(FaultServer(*script))
            env = {"LLM_A": f"openai+{server.url}/v1"}
            registry = Registry(env=env, **({"retries": 0} | options))
            return server, await stack.enter_async_context(registry)

        yield start
