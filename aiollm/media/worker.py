"""A worker process: fits the images sent to its standard input, a socket, until it closes."""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
import warnings
from contextlib import suppress

import msgspec

from aiollm.errors import UnsupportedError
from aiollm.media.ipc import Channel, ResultHead
from aiollm.media.limits import ImageLimits

_NICENESS = 5
"""A lower priority than the service, so that a busy machine delays images and not the loop."""
_IDLE = 5.0
"""Seconds without work after which a worker frees the memory it kept."""
_PULSE = 1000
"""Milliseconds between checks that the parent is still alive."""


def main() -> None:
    """Serve until the socket closes. Arguments: the parent's process id, bytes of memory."""
    parent, memory = int(sys.argv[1]), int(sys.argv[2])
    channel = Channel(socket.socket(fileno=0))
    threading.Thread(target=_watch, args=(channel.socket.fileno(), parent), daemon=True).start()
    warnings.simplefilter("ignore")
    _confine(memory)
    serve(channel)


def serve(channel: Channel) -> None:
    """Answer frame after frame; an unreadable image fails only its own answer."""
    from aiollm.media.transform import transform

    channel.send(b"ready")
    while True:
        if not channel.wait(_IDLE):
            _trim()
        try:
            head, data = channel.receive()
        except EOFError:
            return
        try:
            made = transform(data, msgspec.json.decode(head, type=ImageLimits))
        except UnsupportedError as refusal:
            answer, data = ResultHead(refusal=refusal.message), b""
        else:
            answer, data = ResultHead(made.mime, made.width, made.height), made.data
        channel.send(msgspec.json.encode(answer), data)
        del data


def _trim() -> None:
    """Return the memory that glibc keeps between images to the system."""
    import ctypes

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _confine(memory: int) -> None:
    """Limit address space, and prevent core files, which would contain the image."""
    import resource

    os.nice(_NICENESS)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _watch(descriptor: int, parent: int) -> None:
    """End this process at once when the parent is gone, even in the middle of an image."""
    poll = select.poll()
    poll.register(descriptor, select.POLLHUP)
    while os.getppid() == parent and not poll.poll(_PULSE):
        pass
    os._exit(0)
