"""Framing for decoders that read many frames at once: runs of events, blocks of lines."""

from __future__ import annotations

from typing import Any, TypeAlias

from aiollm._wire.framing import NDJSON, NamedSSE

_LONG = 2048
"""Bytes that neither the start nor the end of an answer has: what is longer is mostly text."""

NamedData: TypeAlias = tuple[bytes, Any]
"""The name of an event (maybe b"") and its data, a list of data in a `Run`."""


class Run(list[Any]):
    """One frame that holds many: events of one name, complete lines."""

    __slots__ = ()


class EventRuns(NamedSSE):
    """The same as `NamedSSE`, but what is mostly one run of events comes as a `Run`."""

    __slots__ = ()

    _long = _LONG

    def _run(self, block: bytes) -> list[NamedData]:
        start = block.find(b"\ndata: ") + 7
        # As long a separator as there can be, and so the cheapest; from the right, as in `SSE`.
        run = block[start:-2].rsplit(b"\n\n" + block[:start])
        name = block[7 : start - 7]
        found = b"\n" not in b"".join((name, *run)) and all(run)
        return Run([(name, run)]) if found else []


class LineRuns(NDJSON):
    """The same as `NDJSON`, but many lines come as a `Run` with all of them as one frame."""

    __slots__ = ()

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that `data` completes, some of which may be blank in a `Run`.

        Raises: ProtocolError.
        """
        if self._pending or not data.endswith(b"\n"):
            end = data.rfind(b"\n") + 1
            if not end:
                self._hold(data)
                return []
            data = self._take(data, end)
        if len(data) > _LONG and data.find(b"\n") < len(data) - 1:
            return Run([data])
        return list(filter(bytes.strip, data.split(b"\n")))
