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
    """Serve until the socket closes. Arguments: the parent's process id, and a budget."""
    parent, memory, max_pixels = map(int, sys.argv[1:4])
    channel = Channel(socket.socket(fileno=0))
    threading.Thread(target=_watch, args=(channel.socket.fileno(), parent), daemon=True).start()
    warnings.simplefilter("ignore")
    with suppress(OSError):
        os.chdir("/")  # the folder of the service may be deleted, or have to be unmounted
    _confine(memory)
    serve(channel, max_pixels)


def serve(channel: Channel, max_pixels: int) -> None:
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
            made = transform(data, msgspec.json.decode(head, type=ImageLimits), max_pixels)
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

    # Some systems do not limit address space, and some sandboxes refuse these calls.
    with suppress(OSError, ValueError):
        os.nice(_NICENESS)
    with suppress(OSError, ValueError):
        own = [each for each in resource.getrlimit(resource.RLIMIT_AS) if each > 0]
        most = min([memory, *own])  # RLIM_INFINITY is -1
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _watch(descriptor: int, parent: int) -> None:
    """End this process at once when the parent is gone, even in the middle of an image."""
    poll = select.poll()
    poll.register(descriptor, select.POLLHUP)
    while os.getppid() == parent and not poll.poll(_PULSE):
        pass
    os._exit(0)
