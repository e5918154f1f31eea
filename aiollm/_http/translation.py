"""Errors of aiohttp and the system become ours here; no header or URL gets into them."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import ssl
from collections.abc import Callable
from typing import Any, TypeAlias

import aiohttp
from aiohttp import http_exceptions

from aiollm._http.local_faults import local_error, numbers_of
from aiollm.errors import (
    ConfigError,
    ConnectError,
    DeadlineError,
    LLMError,
    LocalError,
    ProtocolError,
    StreamInterrupted,
    TransportError,
)

_BROKEN = "the connection broke off in the middle of the body"
_NO_ANSWER = "the server closed the connection without an answer"

FOREIGN = (
    aiohttp.ClientError,
    http_exceptions.HttpProcessingError,
    OSError,
    asyncio.IncompleteReadError,
    ValueError,
    RuntimeError,
    MemoryError,
)
"""What aiohttp raises; the errors of its parser are not all ClientErrors."""


def translate(
    error: BaseException, *, in_body: bool = False, connect: float | None = None
) -> LLMError:
    """Return the LLMError for an error of aiohttp or the socket, without any header or URL."""
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        message = f"no connection within {connect} s"
        return DeadlineError(message, which="connect", after=connect or 0.0)
    if (fault := fault_of(error)) is not None:
        return _cut_by(fault) if in_body else fault
    if not in_body and (alert := refused_identity(error)):
        return _wants_identity(alert)
    for kinds, make in _IN_BODY if in_body else ():
        if isinstance(error, kinds):
            return make(error)
    for kinds, make in _TABLE:
        if isinstance(error, kinds):
            return make(error)
    return TransportError(f"the connection failed: {type(error).__name__}")


def fault_of(error: BaseException) -> LocalError | None:
    """Return the fault of this process behind an error of aiohttp, None for a server's."""
    in_lookup = isinstance(error, aiohttp.ClientConnectorDNSError)
    return local_error(cause_of(error), in_lookup=in_lookup)


def cause_of(error: BaseException) -> BaseException:
    """Return the error of the system or of TLS that aiohttp wraps, else the error itself."""
    if isinstance(error.__cause__, ssl.SSLError):
        return error.__cause__  # the numbers of TLS would be read as those of the system
    return getattr(error, "_os_error", error)


def reason_of(error: BaseException) -> str:
    """Return OpenSSL's name for what is wrong, "" for an error that is not of TLS."""
    cause = cause_of(error)
    return (cause.reason or "") if isinstance(cause, ssl.SSLError) else ""


_CERTIFICATE_ALERT = re.compile(
    r"ALERT_(\w*CERTIFICATE\w*|UNKNOWN_CA|ACCESS_DENIED|DECRYPT_ERROR|NO_CERTIFICATE)$"
)


def refused_identity(error: BaseException) -> str:
    """Return why the server refused this side's certificate, or the want of one, else ""."""
    found = _CERTIFICATE_ALERT.search(reason_of(error))
    return found[1].lower().replace("_", " ") if found else ""


def _cut_by(fault: LocalError) -> StreamInterrupted:
    error = StreamInterrupted(f"{_BROKEN}: {fault.message}")
    error.harms = fault.harms
    return error


_TRUST = "trust a private authority with ?ca=FILE in the DSN, or SSL_CERT_FILE for all providers"


def untrusted(error: aiohttp.ClientConnectorCertificateError, hint: str = _TRUST) -> ConnectError:
    """Return the error for a server's certificate that is refused."""
    why = getattr(error.certificate_error, "verify_message", "") or "it is not trusted"
    ours = ConnectError(
        f"TLS failed: the certificate of {error.host} was refused: {why.rstrip('.')} ({hint})"
    )
    ours.harms = "long"  # the next try would meet the same certificate
    return ours


_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"})
"""Reasons of OpenSSL, of any version, where what came is no TLS at all."""


def _wants_identity(alert: str) -> ConnectError:
    ours = ConnectError(
        f"TLS failed: the server wants a client certificate ({alert}): set ?cert=FILE in the DSN"
    )
    ours.harms = "long"  # a person mends the DSN
    return ours


def _tls_failed(error: aiohttp.ClientConnectorSSLError) -> ConnectError:
    reason = reason_of(error) or type(error.os_error).__name__
    if reason not in _NO_TLS:
        hint = ""
        if reason.endswith("ALERT_HANDSHAKE_FAILURE"):  # before TLS 1.3 that is all a server says
            hint = " (if it wants a client certificate, set ?cert=FILE in the DSN)"
        said = reason.lower().replace("_", " ")
        return ConnectError(f"TLS with {error.host} failed: {said}{hint}")
    ours = ConnectError(
        f"TLS failed: {error.host} answers on port {error.port} without TLS, as a server of plain "
        "HTTP does: for that, write +http after the DSN's scheme, as in openai+http://"
    )
    ours.harms = "long"  # a person mends the DSN
    return ours


def _unknown_name(error: aiohttp.ClientConnectorDNSError) -> ConnectError:
    if error.os_error.errno == socket.EAI_AGAIN:
        return ConnectError("the host name cannot be looked up at the moment")
    return ConnectError("the host name is unknown")


def os_reason(error: OSError) -> str:
    """Return the words of the system; of a host with several addresses, those of each."""
    # asyncio's own text would be "Connect call failed ('127.0.0.1', 80)".
    if error.strerror and "call failed" not in error.strerror:
        return error.strerror
    numbers = sorted(numbers_of(error)) or _NUMBERS.get(type(error), ())
    return "; ".join(map(os.strerror, numbers)) or type(error).__name__


_NUMBERS: dict[type[OSError], tuple[int, ...]] = {
    ConnectionResetError: (errno.ECONNRESET,),
    BrokenPipeError: (errno.EPIPE,),
    ConnectionAbortedError: (errno.ECONNABORTED,),
}
"""Errors that asyncio raises without their number."""


def _failure(error: OSError) -> str:
    alert = reason_of(error)
    return f"TLS: {alert.lower().replace('_', ' ')}" if alert else os_reason(error)


_TLS_RECORD = re.compile(r"\\x1[56]\\x03")
"""How aiohttp quotes the beginning of an alert or a handshake."""


def is_tls(error: Exception) -> bool:
    """Return whether what is not valid HTTP is TLS."""
    return _TLS_RECORD.search(getattr(error, "message", "")) is not None


def _invalid(error: Exception) -> LLMError:
    if not is_tls(error):
        return ProtocolError(f"the answer is not valid HTTP: {_why_invalid(error)}")
    ours = ConnectError(
        "the server speaks TLS, but the base URL is one of plain HTTP: remove +http after the "
        "DSN's scheme, or write +https"
    )
    ours.harms = "long"  # a person mends the DSN
    return ours


def _why_invalid(error: Exception) -> str:
    """Say what is wrong with an answer's head, without the bytes that aiohttp quotes."""
    message: str = getattr(error, "message", "")
    if found := _TOO_LONG.search(message):
        return f"a header has more than {found[1]} bytes"
    return message.strip().partition("\n")[0].partition(":")[0][:80] or type(error).__name__


_TOO_LONG = re.compile(r"Got more than (\d{1,9}) bytes")

_Rows: TypeAlias = tuple[
    tuple[type[BaseException] | tuple[type[BaseException], ...], Callable[[Any], LLMError]], ...
]

_IN_BODY: _Rows = (
    (aiohttp.ClientPayloadError, lambda _: StreamInterrupted(_BROKEN)),
    (aiohttp.ClientConnectionError, lambda _: StreamInterrupted(_BROKEN)),
    (OSError, lambda error: StreamInterrupted(f"{_BROKEN}: {os_reason(error)}")),
)
_TABLE: _Rows = (
    (
        aiohttp.ServerTimeoutError,
        lambda _: DeadlineError("the connection went silent", which="idle"),
    ),
    (aiohttp.InvalidURL, lambda _: ConfigError("the base URL is not valid")),
    (aiohttp.ClientConnectorCertificateError, untrusted),
    (aiohttp.ClientSSLError, _tls_failed),
    (aiohttp.ClientConnectorDNSError, _unknown_name),
    (
        aiohttp.ClientConnectorError,
        lambda error: ConnectError(f"no connection: {os_reason(error.os_error)}"),
    ),
    (aiohttp.ClientPayloadError, lambda _: StreamInterrupted(_BROKEN)),
    (aiohttp.ServerDisconnectedError, lambda _: TransportError(_NO_ANSWER)),
    (
        (aiohttp.ClientResponseError, http_exceptions.HttpProcessingError),
        _invalid,
    ),
    (OSError, lambda error: TransportError(f"the connection failed: {_failure(error)}")),
    (
        aiohttp.ClientError,
        lambda error: TransportError(f"the request failed: {type(error).__name__}"),
    ),
    (ValueError, lambda error: ConfigError(f"the request cannot be sent: {type(error).__name__}")),
)
"""The first match wins, so a subclass comes before its base."""
