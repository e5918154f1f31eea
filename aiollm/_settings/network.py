"""Checks of what a provider is given: hosts, headers, a query, a proxy, paths of files."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

from aiollm._settings.percent import unquoted
from aiollm.errors import ConfigError

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
"""The name of a header, as RFC 9110 has it."""

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"(?!.{{254}}){_LABEL}(?:\.{_LABEL})*\.?")
"""A host name within DNS's limits, which a key in place of the host usually exceeds."""

PROTOCOL_HEADERS = frozenset(
    {
        "accept",
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers that a setting must not replace: HTTP and the wires depend on them."""


def check_headers(headers: Mapping[str, object]) -> None:
    """Check names and values. Raises: ConfigError, which never shows a value."""
    for name, value in headers.items():
        if not _NAME.fullmatch(name):
            raise ConfigError("the name of a header holds a character that HTTP does not allow")
        if not isinstance(value, str) or not (value.isascii() and value.isprintable()):
            raise ConfigError(
                f"header {name!r}: expected a str without control or non-ASCII characters"
            )


def check_settings(headers: Mapping[str, object], query: Mapping[str, object]) -> None:
    """Check what is added to every request. Raises: ConfigError, which never shows a value."""
    for what, added in (("headers", headers), ("query", query)):
        plain: object = added
        if not isinstance(plain, Mapping) or not all(isinstance(name, str) for name in plain):
            raise ConfigError(f"{what} must map names to texts")
    check_headers(headers)
    for name in headers:
        if name.lower() in PROTOCOL_HEADERS:
            raise ConfigError(f"header {name!r} is part of the protocol: it cannot be set")
    for name, value in query.items():
        if not (name and isinstance(value, str)):
            raise ConfigError("a query maps names to texts")


def with_query(url: str, query: Mapping[str, str]) -> str:
    """Return `url` with more parameters. Raises: ConfigError for one that the wire sets itself."""
    path, _, own = url.partition("?")
    items = own.split("&") if own else []
    taken = {unquoted(item.partition("=")[0]) for item in items}
    for name, value in query.items():
        if name in taken:
            raise ConfigError(f"query {name!r} is part of the protocol: it cannot be set")
        from urllib.parse import quote  # few providers need it

        items.append(f"{quote(name, safe='')}={quote(value, safe='')}")
    return f"{path}?{'&'.join(items)}"


def checked_path(name: str, value: object) -> str:
    if not isinstance(value, str | os.PathLike):
        raise ConfigError(f"{name}: expected the path of a file, not {type(value).__name__}")
    path = os.fspath(value)
    if not isinstance(path, str) or not path.isprintable():
        raise ConfigError(f"{name}: the path holds a control character")
    return path


def checked_proxy(text: object) -> str:
    """Return a proxy's URL in one spelling. Raises: ConfigError, which never shows it."""
    url, reason = _spelled(text)
    del text  # tools show the variables of the frames that an error passes
    if reason:
        raise ConfigError(f"proxy: {reason}")
    return url


def _spelled(text: object) -> tuple[str, str]:
    """Return a proxy's URL, or "" and what is wrong with it."""
    if not isinstance(text, str):
        return "", f"expected a URL, not {type(text).__name__}"
    scheme, separator, rest = text.partition("://")
    if not separator:  # as curl and most programs take it
        scheme, rest = "http", text
    if scheme.lower() not in ("http", "https"):
        return "", "only proxies that speak http:// or https:// are supported"
    login, at, place = rest.rpartition("@")
    place = place.partition("/")[0].lower()
    found = re.fullmatch(r"(?:\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::([0-9]{1,5}))?", place)
    if not found or (found[1] and not 0 < int(found[1]) < 65536):
        return "", "expected a URL like http://user:password@host:3128"
    if any(ord(char) < 0x20 or ord(char) == 0x7F for char in unquoted(login)):
        return "", "its user or password holds a control character"
    return f"{scheme.lower()}://{login}{at}{place}", ""


def unknown_option(name: str, known: Sequence[str], *, is_shown: bool) -> ConfigError:
    """Return the error for an option that does not exist."""
    from difflib import get_close_matches  # most programs never need it

    close = get_close_matches(name, known, 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    shown = f" {name!r}" if is_shown else ""
    return ConfigError(f"unknown option{shown}{hint} (known: {', '.join(known)})")


def is_host(host: str) -> bool:
    """Return whether this is a name in lower case, or an IPv6 address in brackets."""
    if not host.startswith("["):
        return bool(_HOST.fullmatch(host))
    from ipaddress import AddressValueError, IPv6Address  # few hosts are addresses

    try:
        IPv6Address(unquoted(host[1:-1]))
    except AddressValueError:
        return False
    return True


def check_scheme(scheme: str, proxy: str, *, sets_tls: bool, has_socket: bool) -> None:
    """Check that settings of the network fit the scheme of a base URL. Raises: ConfigError."""
    if sets_tls and scheme != "https" and not proxy.startswith("https://"):
        raise ConfigError("ca, cert and verify are settings of https, but the base URL is http")
    if has_socket and scheme != "http":
        raise ConfigError("a unix socket speaks plain http: write +unix after the DSN's scheme")
