"""The official SDK: the only module that imports it, in a thread, when a server is first needed."""

from __future__ import annotations

import asyncio
import importlib
from contextlib import suppress
from typing import Any

import msgspec

from aiollm.errors import ConfigError


class Sdk(msgspec.Struct, frozen=True):
    """What is used of the SDK, and of the libraries that it brings."""

    Client: Any
    Error: Any
    Closed: Any
    ValidationError: Any
    SessionMessage: Any
    Request: Any
    Notification: Any
    Response: Any
    ErrorResponse: Any
    ErrorData: Any
    message: Any
    """The adapter that reads a JSON-RPC message."""
    http_transport: Any
    httpx: Any
    about: Any
    """Who the client is."""
    modern: tuple[str, ...]
    """Versions of the protocol in which changes are subscribed to."""


_loaded: list[Sdk] = []
"""The SDK once it is loaded: modules are the process's, not a registry's."""


async def load() -> Sdk:
    """Return the SDK. Raises: ConfigError where it is not installed."""
    if not _loaded:
        _loaded.append(await asyncio.to_thread(_load))  # importing it takes about a second
    return _loaded[0]


def _load() -> Sdk:
    reason = ""
    try:
        return _imported()
    except (ImportError, AttributeError) as error:
        reason = f"MCP servers need the official SDK: pip install 'aiollm-client[mcp]' ({error})"
    raise ConfigError(reason)


def _imported() -> Sdk:
    import anyio
    import httpx2
    import mcp_types
    from mcp import Client, MCPError
    from mcp.client.streamable_http import streamable_http_client
    from mcp.shared.message import SessionMessage
    from mcp_types.version import MODERN_PROTOCOL_VERSIONS
    from pydantic import ValidationError

    with suppress(ImportError):  # else the first connection imports it, on the event loop
        importlib.import_module("anyio._backends._asyncio")
    # The package imports what is above this module: only its name is known here.
    version = importlib.import_module("aiollm").__version__
    return Sdk(
        Client=Client,
        Error=MCPError,
        Closed=anyio.ClosedResourceError,
        ValidationError=ValidationError,
        SessionMessage=SessionMessage,
        Request=mcp_types.JSONRPCRequest,
        Notification=mcp_types.JSONRPCNotification,
        Response=mcp_types.JSONRPCResponse,
        ErrorResponse=mcp_types.JSONRPCError,
        ErrorData=mcp_types.ErrorData,
        message=mcp_types.jsonrpc_message_adapter,
        http_transport=streamable_http_client,
        httpx=httpx2,
        about=mcp_types.Implementation(name="aiollm", version=version),
        modern=tuple(MODERN_PROTOCOL_VERSIONS),
    )
