"""Registries with a scripted MCP server; its tests need the official SDK."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aiollm import McpServer, Registry
from aiollm._mcp import connection, sdk
from tests.programs import python

SCRIPT = Path(__file__).with_name("fake_server.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if item.path.is_relative_to(Path(__file__).parent)]
    if importlib.util.find_spec("mcp") is None:
        skip = pytest.mark.skip(reason="needs the official SDK: pip install 'aiollm-client[mcp]'")
        for item in here:
            if not item.path.name.startswith("test_pure"):
                item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def loaded() -> None:
    """Load the SDK once, so that no test's time is that of its import."""
    if importlib.util.find_spec("mcp") is not None:
        sdk._loaded.append(sdk._load())


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait long for the end of a server: a busy machine is slow to begin and to end a process."""
    monkeypatch.setattr(connection, "LEAVE", 20.0)


@pytest.fixture
def served(registry) -> Iterator[Callable[..., McpServer]]:
    """Return a function that makes a scripted server, started in a mode, with its registry's."""

    def make(mode: str = "ok", reg: Registry | None = None, **options: Any) -> McpServer:
        address = f"stdio:{python('-S', SCRIPT, mode)}"
        return (reg or registry()).mcp(address, **{"name": "fake", **options})

    return make
