"""Proxies of the environment: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, and whom NO_PROXY leaves out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address, ip_network

from msgspec.structs import replace

from aiollm.errors import ConfigError
from aiollm.provider import Provider

_NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
VARIABLES = (*_NAMES, *map(str.upper, _NAMES))
"""In lower case they come first, as with curl and Python's own urllib."""


def proxied(provider: Provider, env: Mapping[str, str]) -> Provider:
    """Return a provider with the environment's proxy, unless it has its own way.

    An empty variable for its scheme means none, whatever ALL_PROXY says. This machine itself is
    never reached through a proxy. Raises: ConfigError.
    """
    network = provider.network
    scheme = provider.base_url.partition("://")[0]
    if network.proxy or network.socket or scheme.lower() not in ("http", "https"):
        return provider
    variable, proxy = _value((f"{scheme.lower()}_proxy", "all_proxy"), env)
    host, _, port = provider.origin.partition("://")[2].partition(" ")[0].rpartition(":")
    if not proxy or _is_left_out(host, port, _value(("no_proxy",), env)[1]):
        return provider
    try:
        return replace(provider, network=replace(network, proxy=proxy))
    except ConfigError as error:
        reason = error.message
    raise ConfigError(f"{variable}: {reason}")


def _value(names: tuple[str, ...], env: Mapping[str, str]) -> tuple[str, str]:
    """Return the first variable that is set, and its value."""
    for each in (spelled for name in names for spelled in (name, name.upper())):
        # A CGI server puts a request's header `Proxy` into HTTP_PROXY.
        if each in env and not (each == "HTTP_PROXY" and "REQUEST_METHOD" in env):
            return each, env[each].strip()
    return names[0], ""


def _is_left_out(host: str, port: str, listed: str) -> bool:
    if host == "localhost" or host.endswith(".localhost") or _is_loopback(host):
        return True
    # curl takes blanks between the items, too.
    return any(_matches(host, port, each) for each in re.split(r"[,\s]+", listed.lower()))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _matches(host: str, port: str, item: str) -> bool:
    """Compare with an item of NO_PROXY: `*`, a name with all below it, an address or a network."""
    if not item or item == "*":
        return bool(item)
    if "/" in item:
        return _is_in_network(host, item)
    if item.count(":") == 1 or item.startswith("["):
        name, _, wanted = item.rpartition(":")
        if wanted.isdigit():
            if wanted != port:
                return False
            item = name
    item = item.removeprefix("*").strip(".[]")
    bare = host.strip("[]")
    return bare == item or bare.endswith(f".{item}")


def _is_in_network(host: str, item: str) -> bool:
    try:
        return ip_address(host.strip("[]")) in ip_network(item, strict=False)
    except ValueError:
        return False
