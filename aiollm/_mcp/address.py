"""Addresses of servers: a command or a URL, written out or named by the environment."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

import msgspec

from aiollm._settings.hidden import HiddenValues
from aiollm.dsn import Secret
from aiollm.errors import ConfigError
from aiollm.types import _shown

VARIABLE = "AIOLLM_MCP_"

_NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")
_ASSIGNED = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_REFERENCE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))")

_AROUND = re.compile(
    r"^(?:mcp[-_]?server|server|mcp)[-_]|[-_](?:mcp|server)(?:[-_]server)?$", re.IGNORECASE
)
"""What says no more of a server than that it is one."""

_RUNNERS = frozenset(
    {"npx", "uvx", "pipx", "uv", "bunx", "deno", "docker", "podman", "node", "python", "env"}
)
"""Commands that run something else, by whose name a server is called."""

_WORDS = frozenset({"run", "exec", "tool", "x"})


class Stdio(msgspec.Struct, frozen=True):
    """A command whose standard streams are spoken over; `env` has the variables written there."""

    command: tuple[str, ...]
    env: HiddenValues

    @property
    def name(self) -> str:
        """What a server is called that has no other name."""
        for word in self.command:
            base = PurePosixPath(word).name
            plain = re.sub(r"[\d.]+$", "", base.partition("@")[0])
            if plain and not word.startswith("-") and plain not in _RUNNERS | _WORDS:
                return _short(plain)
        return _short(self.command[0])

    def __repr__(self) -> str:
        return f"Stdio({self.command[0]!r}, ...)"  # arguments may hold keys


class Http(msgspec.Struct, frozen=True):
    """A URL that streamable HTTP is spoken with; `token` is a bearer token."""

    url: str
    token: Secret | None = None

    @property
    def name(self) -> str:
        """What a server is called that has no other name."""
        host = urlsplit(self.url).hostname or ""
        labels = [each for each in host.split(".") if each not in ("www", "api", "mcp")]
        return _short(labels[0] if labels and not host.replace(".", "").isdigit() else "mcp")

    def __repr__(self) -> str:
        return f"Http({urlsplit(self.url).hostname!r})"  # paths and queries may hold keys


Address: TypeAlias = Stdio | Http


def parse(text: object, env: Mapping[str, str]) -> tuple[Address, str]:
    """Return an address and the name of its server; `text` may be a name of `env`'s.

    Raises: ConfigError, without what the address holds: it may be a key.
    """
    if not isinstance(text, str):
        raise ConfigError(f"an MCP server's address is a str, not of type {type(text).__name__}")
    text = text.strip()
    scheme = text.partition(":")[0].lower()
    if scheme in ("stdio", "http", "https") and ":" in text:
        address = _parsed(text, scheme, env, "the address of an MCP server")
        return address, address.name
    return _named(text, env), _short(text)


def _named(name: str, env: Mapping[str, str]) -> Address:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            "an MCP server is 'stdio:COMMAND ...', 'https://HOST/PATH', or a name whose address "
            f"{VARIABLE}<NAME> holds"
        )
    variable = VARIABLE + name.upper().replace("-", "_")
    text = env.get(variable, "").strip()
    if not text:
        raise ConfigError(f"there is no MCP server {name!r}: set {variable} to its address")
    scheme = text.partition(":")[0].lower()
    if scheme not in ("stdio", "http", "https"):
        raise ConfigError(f"{variable} must be 'stdio:COMMAND ...' or 'https://HOST/PATH'")
    return _parsed(text, scheme, env, variable)


def _parsed(text: str, scheme: str, env: Mapping[str, str], where: str) -> Address:
    return _stdio(text[6:], env, where) if scheme == "stdio" else _http(text, where)


def _stdio(text: str, env: Mapping[str, str], where: str) -> Stdio:
    reason, words = "", []
    try:
        words = shlex.split(text, posix=os.name == "posix")
    except ValueError as error:
        reason = f"{where}: the command cannot be split into words: {error}"
    if reason:
        raise ConfigError(reason)
    own = {}
    while words and (assigned := _ASSIGNED.fullmatch(words[0])):
        own[assigned[1]] = _REFERENCE.sub(lambda m: _value(m, env, where), assigned[2])
        words.pop(0)
    if not words:
        raise ConfigError(f"{where} has no command, as in 'stdio:npx -y @scope/server'")
    if any("\0" in word for word in (*words, *own.values())):
        raise ConfigError(f"{where} holds a NUL character")
    return Stdio(tuple(words), HiddenValues(own))


def _value(found: re.Match[str], env: Mapping[str, str], where: str) -> str:
    name = found[1] or found[2]
    if name not in env:
        raise ConfigError(f"{where} refers to the variable {name}, which is not set")
    return env[name]


def _http(text: str, where: str) -> Http:
    parts = host = None
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts is None or any(char.isspace() or ord(char) < 0x20 for char in text):
        raise ConfigError(f"{where} is not a URL with a host")
    login, at, place = parts.netloc.rpartition("@")
    token = Secret(unquote(login)) if at else None
    return Http(parts._replace(netloc=place, fragment="").geturl(), token)


def checked_name(name: object) -> str:
    """Return a server's name. Raises: ConfigError."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(f"an MCP server's name is {_shown(name)}: expected {_NAME.pattern}")
    return name


def _short(text: str) -> str:
    """Make a name of what a server's package, module or host is called."""
    text = _AROUND.sub("", re.sub(r"\.(?:py|js|mjs|ts)$", "", text))
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_-")[:32] or "mcp"
