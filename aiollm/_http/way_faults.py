"""Faults on the way: errors that a provider's own network explains, and what to do about them."""

from __future__ import annotations

import errno

import aiohttp

from aiollm._http.local_faults import local_error
from aiollm._http.translation import cause_of, os_reason, reason_of, refused_identity, untrusted
from aiollm.dsn import Network
from aiollm.errors import ConnectError, DeadlineError, LLMError, LocalError
from aiollm.types import Harm


def fault_on(network: Network, error: BaseException, connect: float | None) -> LLMError | None:
    """Return the error that the settings of `network` explain, None for any other."""
    if network.socket and isinstance(error, aiohttp.ClientConnectorError):
        return _socket_fault(network, error.os_error)
    if local_error(cause_of(error)) is not None:
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
        case None:  # Python itself refuses what is too long
            return LocalError(f"{socket} cannot be opened: {error}", may_retry=False)
        case _:
            return None


def _proxy_fault(network: Network, error: BaseException, connect: float | None) -> LLMError | None:
    proxy = network.proxy_place
    match error:
        case aiohttp.ConnectionTimeoutError():
            reason = f"no connection within {connect} s through the proxy {proxy}"
            return DeadlineError(reason, which="connect", after=connect or 0.0)
        case aiohttp.ClientHttpProxyError(status=status):
            return proxy_refusal(network, status)
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
        case _:
            return None


def _is_proxys(network: Network, error: aiohttp.ClientConnectorError) -> bool:
    place = network.proxy_place.partition("://")[2]
    return place in (error.host, f"{error.host}:{error.port}", f"[{error.host}]:{error.port}")


def proxy_refusal(network: Network, status: int) -> ConnectError:
    """Return the error for what a proxy answered in place of the server."""
    proxy = f"the proxy {network.proxy_place}"
    if status == 407:
        wish = "refuses the login in its URL" if network.proxy_login else "wants a login"
        hint = "write user:password@ before its host"
        return _fault(f"{proxy} {wish} (HTTP 407): {hint}", "long")
    if 400 <= status < 500:
        return _fault(f"{proxy} does not let this host through (HTTP {status})", "long")
    return ConnectError(f"{proxy} cannot reach the host (HTTP {status})")


def _fault(reason: str, harms: Harm) -> ConnectError:
    """Return an error whose target is set aside `long` if only a person can mend it."""
    error = ConnectError(reason)
    error.harms = harms
    return error
