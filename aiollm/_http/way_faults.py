"""Faults on the way: errors that a provider's own network explains, and what to do about them."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable

import aiohttp

from aiollm._http.translation import (
    fault_of,
    is_tls,
    os_reason,
    reason_of,
    refused_identity,
    untrusted,
)
from aiollm.dsn import Network
from aiollm.errors import ConnectError, DeadlineError, LLMError, LocalError
from aiollm.types import Harm


def fault_on(network: Network, error: BaseException, connect: float | None) -> LLMError | None:
    """Return the error that the settings of `network` explain, None for any other."""
    if network.socket and isinstance(error, aiohttp.ClientConnectorError):
        return _socket_fault(network, error.os_error)
    if fault_of(error) is not None:
        return None
    if network.proxy and (fault := _proxy_fault(network, error, connect)) is not None:
        return fault
    if isinstance(error, aiohttp.ClientConnectorCertificateError) and network.ca:
        return untrusted(error, f"authorities are those of ca={network.ca}")
    if network.cert and (alert := refused_identity(error)):
        return _fault(f"TLS failed: the server refused cert={network.cert}: {alert}", "long")
    return None


def _socket_fault(network: Network, error: OSError) -> LLMError | None:
    socket = f"the socket {network.socket}"
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return ConnectError(f"{socket} does not exist: is the server running?")
        case errno.ECONNREFUSED:
            return ConnectError(f"nobody listens at {socket}: is the server running?")
        case errno.EACCES | errno.EPERM:
            reason = (
                f"this process may not open {socket}: check the permissions of file and folders"
            )
            return LocalError(reason, may_retry=False)
        case _:
            return None


def _proxy_fault(network: Network, error: BaseException, connect: float | None) -> LLMError | None:
    proxy = network.proxy_place
    match error:
        case aiohttp.ConnectionTimeoutError():
            reason = f"no connection within {connect} s through the proxy {proxy}"
            return DeadlineError(reason, which="connect", after=connect or 0.0)
        case aiohttp.ClientHttpProxyError(status=status):
            return proxy_refusal(network, status, _logins(error))
        case aiohttp.ClientResponseError(request_info=asked) if (
            asked.method == "CONNECT" or asked.url.scheme == "http"  # not from within a tunnel
        ):
            return _no_http(proxy, error)
        case aiohttp.ClientConnectorDNSError():  # the proxy looks up all other names
            return ConnectError(f"the host name of the proxy {proxy} is unknown")
        case aiohttp.ClientConnectorCertificateError() if _is_proxys(network, error):
            ours = untrusted(error, f"that of the proxy {proxy}: trust it with ?ca=FILE")
            return _fault(ours.message, "long")
        case aiohttp.ClientConnectorSSLError() if _is_proxys(network, error):
            reason = reason_of(error).lower().replace("_", " ")
            return ConnectError(
                f"TLS with the proxy {proxy} failed: {reason}: is it an http:// one?"
            )
        case aiohttp.ClientProxyConnectionError(os_error=cause):
            return ConnectError(f"the proxy {proxy} cannot be reached: {os_reason(cause)}")
        case aiohttp.ServerDisconnectedError():
            return ConnectError(f"the connection through the proxy {proxy} was closed unanswered")
        case aiohttp.ClientConnectorError(os_error=cause) if not reason_of(error):
            return ConnectError(f"no connection through the proxy {proxy}: {os_reason(cause)}")
        case _:
            return None


def _is_proxys(network: Network, error: aiohttp.ClientConnectorError) -> bool:
    place = network.proxy_place.partition("://")[2]
    return place in (error.host, f"{error.host}:{error.port}", f"[{error.host}]:{error.port}")


def _no_http(proxy: str, error: aiohttp.ClientResponseError) -> ConnectError:
    if is_tls(error):
        return _fault(f"the proxy {proxy} speaks TLS: write https:// before its host", "long")
    return ConnectError(f"the proxy {proxy} does not answer in HTTP")


def _logins(error: aiohttp.ClientHttpProxyError) -> Iterable[str]:
    return error.headers.getall("Proxy-Authenticate", ()) if error.headers else ()


_LOGIN = re.compile(r"(?:^|,)\s*(Basic|Digest|Negotiate|Kerberos|NTLM)\b", re.IGNORECASE)


def _hint(logins: Iterable[str]) -> str:
    """Say how to log in, from the values of a proxy's `Proxy-Authenticate`."""
    taken = dict.fromkeys(_LOGIN.findall(",".join(logins)))
    if not taken or "basic" in map(str.lower, taken):
        return "write user:password@ before its host"
    return (
        f"it takes {' or '.join(taken)} alone, of which none is supported: run a proxy on this "
        "machine that logs in there, and name that one"
    )


def proxy_refusal(network: Network, status: int, logins: Iterable[str]) -> ConnectError:
    """Return the error for what a proxy answered in place of the server.

    `logins`: the values of its `Proxy-Authenticate`.
    """
    proxy = f"the proxy {network.proxy_place}"
    if status in (401, 407):  # 401: tinyproxy's answer to a wrong password (1.11)
        wish = "refuses the login in its URL" if network.proxy_login else "wants a login"
        return _fault(f"{proxy} {wish} (HTTP {status}): {_hint(logins)}", "long")
    if 300 <= status < 400 or status == 511:
        return ConnectError(f"{proxy} wants a login to the network on a web page (HTTP {status})")
    if status in (408, 425, 429):
        return ConnectError(f"{proxy} is busy (HTTP {status})")
    if 400 <= status < 500:
        return _fault(f"{proxy} does not let this host through (HTTP {status})", "long")
    return ConnectError(f"{proxy} cannot reach the host (HTTP {status})")


def _fault(reason: str, harms: Harm) -> ConnectError:
    """Return an error whose target is set aside `long` if only a person can mend it."""
    error = ConnectError(reason)
    error.harms = harms
    return error
