"""Faults of this process and its machine: told from a server's by what the system reports."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from contextlib import suppress
from pathlib import Path

from aiollm.errors import LocalError

_FORBIDDEN = "this machine forbids the connection: check its firewall and sandbox"

_REASONS = {
    errno.EMFILE: "too many open files in this process: raise `ulimit -n` or lower max_concurrency",
    errno.ENFILE: "too many open files on this machine: raise fs.file-max or lower max_concurrency",
    errno.ENOMEM: "no memory left for a connection: lower max_concurrency",
    errno.ENOBUFS: "no buffer left for a connection: lower max_concurrency",
    errno.EADDRNOTAVAIL: "no local port is free (lower max_concurrency), or this machine has no "
    "address of that kind",
    errno.ENETDOWN: "this machine's network is down",
    errno.ENETUNREACH: "this machine has no network: it knows no route to anywhere",
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
}
"""What errors of the system mean, and what to do about them."""

_OF_ONE_FAMILY = frozenset({errno.ENETUNREACH, errno.EAFNOSUPPORT})
"""What a machine says of IPv6 addresses where it has IPv4 alone: of a server, that says nothing."""

_SOMEWHERE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))
"""Addresses of documentation: nobody has them, so a route to them is the default route."""

_NO_CIPHER = frozenset({"NO_CIPHERS_AVAILABLE", "NO_PROTOCOLS_AVAILABLE"})
"""Reasons of OpenSSL before it sends anything: its own settings allow nothing."""


def local_error(error: BaseException, *, in_lookup: bool = False) -> LocalError | None:
    """Return the fault of this process behind an error of a connection, None for a server's.

    `in_lookup`: the error is that of a name lookup.
    """
    match error:
        case MemoryError():
            return _because_of(errno.ENOMEM)
        case RuntimeError() if "thread" in str(error):  # the name lookup wanted one
            return LocalError("no thread can be started: raise `ulimit -u` or the limit of tasks")
        case socket.gaierror():  # its numbers are not errnos
            return _because_of(_of_lookup(error.errno))
        case ssl.SSLError():  # nor are its
            if getattr(error, "reason", None) not in _NO_CIPHER:
                return None
            reason = "this process's OpenSSL settings allow no cipher: check OPENSSL_CONF"
            return LocalError(reason, may_retry=False)
        case OSError():
            number = _of_connection(error)
            return _because_of(_of_lookup(error.errno) if in_lookup and not number else number)
        case _:
            return None


def _because_of(number: int) -> LocalError | None:
    reason = _REASONS.get(number)
    return None if reason is None else LocalError(reason, may_retry=reason is not _FORBIDDEN)


def _of_lookup(number: int | None) -> int:
    """Return the errno behind a failed name lookup, 0 where the name is what failed.

    Without a free descriptor glibc reads neither its settings nor the answer: the name is unknown
    in the first lookup of a process, and later ones say EBUSY.
    """
    if number == socket.EAI_MEMORY:
        return errno.ENOMEM
    state = _state()
    return 0 if state == errno.ENETUNREACH and number != socket.EAI_AGAIN else state


def _of_connection(error: OSError) -> int:
    """Return the errno of this machine that kept a connection from all addresses of a host."""
    numbers = numbers_of(error)
    own = (numbers & _REASONS.keys()) - _OF_ONE_FAMILY
    if numbers - own - _OF_ONE_FAMILY:
        return 0  # an address that answered, or that nobody answers at
    return min(own, default=0) or (_state() if errno.ENETUNREACH in numbers else 0)


def numbers_of(error: OSError) -> set[int]:
    """Return the errno of an error, or those that the error of several addresses names."""
    return {error.errno} if error.errno else set(map(int, re.findall(_NUMBER, str(error))))


_NUMBER = r"\[Errno (\d{1,5})\]"


def _state() -> int:
    """Return the errno of what keeps this machine from all connections, 0 where nothing does.

    A datagram socket is given an address, for which the system looks up a route; nothing is sent.
    """
    for family, address in _SOMEWHERE:
        try:
            probe = socket.socket(family, socket.SOCK_DGRAM)
        except OSError as error:
            if error.errno in _OF_ONE_FAMILY:
                continue
            return error.errno or 0
        with probe, suppress(OSError):
            probe.setblocking(False)
            probe.connect((address, 9))
            return 0
    return errno.ENETUNREACH


def trusts_anyone(context: ssl.SSLContext) -> bool:
    """Say whether a context of the system's settings has any certificate to check others by.

    Without one every server looks like an impostor. Reads files: not for the event loop.
    """
    if context.cert_store_stats()["x509_ca"]:
        return True
    # OpenSSL reads this folder when it needs it; what is in it cannot be told before.
    folder: str | None = ssl.get_default_verify_paths().capath
    with suppress(OSError):
        return folder is not None and any(Path(folder).iterdir())
    return True
