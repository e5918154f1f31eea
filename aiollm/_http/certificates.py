"""Certificates: a TLS context from a provider's files, or an error that names file and cause."""

from __future__ import annotations

import re
import ssl
import time
from datetime import UTC, datetime
from math import inf
from pathlib import Path

from aiollm.dsn import Network
from aiollm.errors import LocalError

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_TO_PEM = "convert it: openssl x509 -inform der -in FILE -out FILE.pem"
_VERSION, _UTC_TIME, _TIME = 0xA0, 0x17, 0x18
"""Tags of DER."""


def load_context(network: Network) -> tuple[ssl.SSLContext, float]:
    """Return a context, and the time in seconds since 1970 when its own certificate expires.

    Reads files: not for the event loop. Raises: LocalError.
    """
    context = _trusting(network)
    expires = _identify(context, network) if network.cert else inf
    context.set_alpn_protocols(["http/1.1"])
    return context, expires


def _trusting(network: Network) -> ssl.SSLContext:
    if not network.verify:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    if not network.ca:
        return ssl.create_default_context()
    if not _CERTIFICATE.search(_read("ca", network.ca)):
        raise _fault(f"ca={network.ca} holds no certificate in PEM form: {_TO_PEM}")
    try:
        context = ssl.create_default_context(cafile=network.ca)
    except ssl.SSLError as error:
        reason = _reason(error)
    else:
        # The same on every Python: 3.13 wants certificates to follow RFC 5280 to the letter, which
        # those of many companies do not, and earlier ones want the chain up to its root.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context
    raise _fault(f"ca={network.ca} holds a certificate that cannot be read: {reason}")


def _identify(context: ssl.SSLContext, network: Network) -> float:
    """Load the client's certificate and key; return when the certificate expires."""
    cert = _read("cert", network.cert)
    found = _CERTIFICATE.search(cert)
    if found is None:
        raise _fault(f"cert={network.cert} holds no certificate in PEM form: {_TO_PEM}")
    name, path = ("key", network.key) if network.key else ("cert", network.cert)
    key = _read(name, path)
    if b"PRIVATE KEY-----" not in key:
        wanted = "put it there" if network.key else "put it into the same file, or set key=FILE"
        raise _fault(f"{name}={path} holds no private key in PEM form: {wanted}")
    if b"ENCRYPTED" in key:
        raise _fault(f"{name}={path}: the key has a passphrase: remove it with openssl pkey")
    try:
        # OpenSSL would ask for a passphrase on the terminal.
        context.load_cert_chain(network.cert, network.key or None, password=lambda: "")
    except ssl.SSLError as error:
        reason = _reason(error)
    else:
        return _checked_validity(found[0], network.cert)
    if "mismatch" in reason:
        raise _fault(f"the key in {name}={path} does not belong to cert={network.cert}")
    raise _fault(f"cert={network.cert} cannot be used: {reason}")


def _read(name: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
    raise _fault(f"{name}={path} cannot be read: {reason}")


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or type(error).__name__).lower().replace("_", " ")


def _fault(reason: str) -> LocalError:
    return LocalError(f"TLS: {reason}", may_retry=False)


def _checked_validity(pem: bytes, path: str) -> float:
    try:
        begins, ends = _validity(ssl.PEM_cert_to_DER_cert(pem.decode("latin-1")))
    except (ValueError, IndexError):
        return inf  # OpenSSL has accepted it: the server judges
    now = time.time()
    if ends <= now:
        raise _fault(f"cert={path} expired on {_day(ends)}: renew it")
    if begins > now:
        raise _fault(f"cert={path} is valid from {_day(begins)}: check this machine's clock")
    return ends


def _day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def _validity(der: bytes) -> tuple[float, float]:
    """Return the first and last second of a certificate. Raises: ValueError, IndexError."""
    signed = _values(_values(_values(der)[0][1])[0][1])
    # Serial number, algorithm, issuer, validity; older certificates have no version before them.
    fields = [content for tag, content in signed if tag != _VERSION]
    begins, ends = (_seconds(tag, content) for tag, content in _values(fields[3]))
    return begins, ends


def _values(data: bytes) -> list[tuple[int, bytes]]:
    """Return the tags and contents of DER values that follow each other."""
    found = []
    at = 0
    while at < len(data):
        tag, size = data[at], data[at + 1]
        at += 2
        if size & 0x80:  # a long length: the number of its bytes
            digits = size & 0x7F
            size = int.from_bytes(data[at : at + digits], "big")
            at += digits
        found.append((tag, data[at : at + size]))
        at += size
    return found


def _seconds(tag: int, content: bytes) -> float:
    forms = {_UTC_TIME: "%y%m%d%H%M%SZ", _TIME: "%Y%m%d%H%M%SZ"}
    text = datetime.strptime(content.decode("ascii"), forms.get(tag, ""))  # noqa: DTZ007
    return text.replace(tzinfo=UTC).timestamp()
