"""Makes the handle of a server from what a user gives, and checks it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from aiollm._mcp.address import Http, Stdio, checked_name, parse
from aiollm._mcp.server import COOLDOWN, McpOptions, McpServer
from aiollm._mcp.settings import Settings
from aiollm._settings.hidden import HiddenValues
from aiollm._validation import check_count, check_seconds, is_seconds
from aiollm.dsn import Secret
from aiollm.errors import ConfigError
from aiollm.events import Event
from aiollm.types import _shown

if TYPE_CHECKING:
    from aiollm._resources import Resources

START_SECONDS = 30.0
MAX_RESULT = 8 * 1024 * 1024


def new_server(
    address: object,
    env: Mapping[str, str],
    resources: Resources,
    emit: Callable[[Event], None],
    options: McpOptions,
) -> McpServer:
    """Return a server that is not started. Raises: ConfigError, TypeError."""
    if unknown := options.keys() - McpOptions.__annotations__.keys():
        raise TypeError(f"mcp() got an unexpected keyword argument {min(unknown)!r}")
    given: dict[str, Any] = dict(options)
    found, name = parse(address, env)
    name = checked_name(given.get("name", name))
    cooldown = given.get("cooldown", COOLDOWN)
    check_seconds("cooldown", cooldown)
    settings = Settings(
        name=name,
        address=found,
        env=_texts("env", given.get("env", {})),
        headers=_headers(given),
        cwd=os.fspath(given["cwd"]) if given.get("cwd") is not None else None,
        start_timeout=_seconds("start_timeout", given.get("start_timeout", START_SECONDS)),
        call_timeout=_seconds("call_timeout", given.get("call_timeout"), or_none=True),
        max_message_bytes=given.get("max_message_bytes", MAX_RESULT),
    )
    check_count("max_message_bytes", settings.max_message_bytes)
    _check_fits(found, given)
    return McpServer(settings, resources, emit, cooldown)


def _check_fits(address: Stdio | Http, given: Mapping[str, Any]) -> None:
    wrong = ("env", "cwd") if isinstance(address, Http) else ("headers", "token")
    kind = "a URL" if isinstance(address, Http) else "a command"
    for name in wrong:
        if given.get(name):
            raise ConfigError(f"an MCP server with {kind} has no {name}")


def _seconds(name: str, value: Any, *, or_none: bool = False) -> Any:
    if (value is None and or_none) or is_seconds(value):
        return value
    raise ConfigError(f"{name} is {_shown(value)}: expected seconds above 0")


def _headers(given: Mapping[str, Any]) -> HiddenValues:
    headers = _texts("headers", given.get("headers", {}))
    for value in headers.values():
        Secret(value)  # which refuses what could begin another header
    if (token := given.get("token")) is not None:
        bearer = token if isinstance(token, Secret) else Secret(token)
        headers["authorization"] = f"Bearer {bearer.reveal()}"
    return headers


def _texts(name: str, given: Any) -> HiddenValues:
    if not isinstance(given, Mapping) or not all(
        isinstance(text, str) and "\0" not in text for pair in given.items() for text in pair
    ):
        raise ConfigError(f"{name} must map names to strings without NUL characters")
    return HiddenValues(given)
