"""The pytest plugin: fixtures that start servers and make registries, loaded on first use.

The servers run in a thread, so the fixtures work with any async plugin, or without one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Unpack

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from aiollm.provider import Provider
    from aiollm.registry import Registry
    from aiollm.testing.cassette import Exchange
    from aiollm.testing.fake import FakeProvider
    from aiollm.testing.faults import Pause
    from aiollm.testing.faultserver import FaultScript, FaultServer
    from aiollm.testing.gate import Gate
    from aiollm.testing.loopback import Loopback, LoopbackOptions
    from aiollm.testing.replay import PieceSize, ReplayServer, RequestMatch
    from aiollm.testing.thread import LoopThread


class StartFaultServer(Protocol):
    """Starts a FaultServer that runs until the test ends; the arguments are those of the class."""

    def __call__(
        self,
        *scripts: FaultScript,
        default: FaultScript | None = None,
        paths: Mapping[str, FaultScript] | None = None,
        **options: Unpack[LoopbackOptions],
    ) -> FaultServer:
        """Return the server, which has its port and accepts connections."""


class StartReplayServer(Protocol):
    """Starts a ReplayServer that runs until the test ends; the arguments are those of the class."""

    def __call__(
        self,
        *sources: Exchange | str | Path,
        names: Sequence[str] = (),
        pieces: PieceSize = "recorded",
        match: RequestMatch = "path",
        between: Gate | Pause | None = None,
        **options: Unpack[LoopbackOptions],
    ) -> ReplayServer:
        """Return the server; an unreadable file fails the test at its end."""


class MakeRegistry(Protocol):
    """Makes a Registry with these providers, for an `async with`.

    Unless `settings` (those of `Registry`) change it, it does not read the environment, does not
    retry, and uses the mean in place of jitter.
    """

    def __call__(
        self,
        providers: Mapping[str, FakeProvider | Loopback | Provider | str] | None = None,
        **settings: Any,
    ) -> Registry:
        """Return the registry, not entered yet."""


@pytest.fixture
def aiollm_servers() -> Iterator[LoopThread]:
    """Run servers in a thread until the test ends; an error in a script fails the test."""
    from aiollm.testing.thread import LoopThread

    with LoopThread() as thread:
        yield thread


@pytest.fixture
def fault_server(aiollm_servers: LoopThread) -> StartFaultServer:
    """Return a function that starts a FaultServer, given its scripts."""
    from aiollm.testing.faultserver import FaultServer

    def start(*scripts: FaultScript, **options: Any) -> FaultServer:
        return aiollm_servers.serve(FaultServer(*scripts, **options))

    return start


@pytest.fixture
def replay_server(aiollm_servers: LoopThread) -> StartReplayServer:
    """Return a function that starts a ReplayServer, given exchanges or paths."""
    from aiollm.testing.replay import ReplayServer

    def start(*sources: Exchange | str | Path, **options: Any) -> ReplayServer:
        return aiollm_servers.serve(ReplayServer(*sources, **options))

    return start


@pytest.fixture
def fake_provider() -> type[FakeProvider]:
    """Return the class FakeProvider, which makes a provider from scripts."""
    from aiollm.testing.fake import FakeProvider

    return FakeProvider


@pytest.fixture
def registry() -> MakeRegistry:
    """Return a function that makes a Registry, given providers by name."""
    from aiollm.registry import Registry
    from aiollm.testing.fake import FakeProvider
    from aiollm.testing.loopback import Loopback

    class Steady(Registry):
        """Waits without jitter."""

        _uniform = staticmethod(_mean)

    def make(
        providers: Mapping[str, FakeProvider | Loopback | Provider | str] | None = None,
        **settings: Any,
    ) -> Registry:
        defaults: dict[str, Any] = {"env": {}, "retries": 0}
        made = Steady(**(defaults | settings))
        for name, provider in (providers or {}).items():
            match provider:
                case FakeProvider():
                    made.register(name, provider.provider(name=name, base_url=f"fake://{name}"))
                case Loopback():
                    made.register(name, provider.dsn())
                case _:
                    made.register(name, provider)
        return made

    return make


def _mean(a: float, b: float) -> float:
    return (a + b) / 2
