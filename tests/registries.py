"""Servers with scripts and registries, which end with the test, for many folders of tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from aiollm import Registry
from aiollm.testing import FaultServer


@asynccontextmanager
async def servers() -> AsyncIterator[Callable[..., Any]]:
    """Start FaultServers: scripts by path, one for every request, or several in order."""
    async with AsyncExitStack() as stack:

        async def start(*scripts: Any, **options: Any) -> FaultServer:
            match scripts:
                case (Mapping() as paths,):
                    server = FaultServer(paths=paths, **options)
                case (each,):
                    server = FaultServer(default=each, **options)
                case _:
                    server = FaultServer(*scripts, **options)
            return await stack.enter_async_context(server)

        yield start


@asynccontextmanager
async def registries(
    kind: type[Registry] = Registry, **settings: Any
) -> AsyncIterator[Callable[..., Registry]]:
    """Make registries of DSNs by name."""
    async with AsyncExitStack() as stack:

        def make(dsns: Mapping[str, str] | None = None, **options: Any) -> Registry:
            env = {f"LLM_{name.upper()}": dsn for name, dsn in (dsns or {}).items()}
            made = kind(**({"env": env, "retries": 0} | settings | options))
            stack.push_async_callback(made.aclose)
            return made

        yield make
