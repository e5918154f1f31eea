"""Proxies of the environment: HTTP_PROXY and HTTPS_PROXY, and whom NO_PROXY leaves out."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address, ip_network

from msgspec.structs import replace

from aiollm.errors import ConfigError
from aiollm.provider import Provider

VARIABLES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
"""In lower case they come first, as with curl and Python's own urllib."""


def proxied(provider: Provider, env: Mapping[str, str]) -> Provider:
    """Return a provider with the environment's proxy, unless it has its own way.

    This machine itself is never reached through a proxy. Raises: ConfigError.
    """
    network = provider.network
    scheme = provider.base_url.partition("://")[0]
    if network.proxy or network.socket or scheme.lower() not in ("http", "https"):
        return provider
    variable, proxy = _value(f"{scheme.lower()}_proxy", env)
    host, _, port = provider.origin.partition("://")[2].partition(" ")[0].rpartition(":")
    if not proxy or _is_left_out(host, port, _value("no_proxy", env)[1]):
        return provider
    try:
        return replace(provider, network=replace(network, proxy=proxy))
    except ConfigError as error:
        reason = error.message
    raise ConfigError(f"{variable}: {reason}")


def _value(name: str, env: Mapping[str, str]) -> tuple[str, str]:
    """Return the variable that is set, and its value."""
    upper = name.upper()
    # A CGI server puts a request's header `Proxy` into HTTP_PROXY.
    names = (name,) if upper == "HTTP_PROXY" and "REQUEST_METHOD" in env else (name, upper)
    found = next((each for each in names if each in env), name)
    return found, env.get(found, "").strip()


def _is_left_out(host: str, port: str, listed: str) -> bool:
    if host == "localhost" or host.endswith(".localhost") or _is_loopback(host):
        return True
    return any(_matches(host, port, each.strip().lower()) for each in listed.split(","))


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
    item = item.removeprefix("*").removeprefix(".").strip("[]")
    bare = host.strip("[]")
    return bare == item or bare.endswith(f".{item}")


def _is_in_network(host: str, item: str) -> bool:
    try:
        return ip_address(host.strip("[]")) in ip_network(item, strict=False)
    except ValueError:
        return False
