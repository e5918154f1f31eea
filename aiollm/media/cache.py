"""A cache of prepared images: keyed by content and limits, bounded in bytes."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Hashable
from hashlib import sha256
from typing import Any

from aiollm.types import ImagePart

_ENTRY = 512
"""Bytes that an entry takes besides its data."""


def digest(data: bytes) -> bytes:
    """Return a hash of the content; it takes 0.6 to 2 ms per MB, and other threads can run."""
    return sha256(data).digest()


class Cache:
    """An LRU cache bounded in bytes, which also remembers the digests of parts still in use."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._digests: dict[int, tuple[weakref.ref[ImagePart], bytes]] = {}
        self.size: int = 0
        """Bytes held."""

    def get(self, key: Hashable) -> Any:
        """Return the value, None if there is none."""
        entry = self._values.get(key)
        if entry is None:
            return None
        self._values.move_to_end(key)
        return entry[0]

    def put(self, key: Hashable, value: Any, size: int) -> None:
        """Keep a value of `size` bytes, dropping the least recently used ones."""
        self._drop(key)
        self._values[key] = (value, size + _ENTRY)
        self.size += size + _ENTRY
        while self.size > self._limit:
            self._drop(next(iter(self._values)))

    def known(self, part: ImagePart) -> bytes | None:
        """Return the digest of this part object, None if it has not been seen."""
        entry = self._digests.get(id(part))
        return entry[1] if entry is not None and entry[0]() is part else None

    def know(self, part: ImagePart, content: bytes) -> None:
        """Remember the digest for as long as the part object exists."""
        digests, key = self._digests, id(part)
        self._digests[key] = (weakref.ref(part, lambda _: digests.pop(key, None)), content)

    def _drop(self, key: Hashable) -> None:
        if (entry := self._values.pop(key, None)) is not None:
            self.size -= entry[1]
