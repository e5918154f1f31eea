"""Keys of rows: which are finished, which came along, their shards, and hashes of requests."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from aiollm._serialization import described
from aiollm._wire.lenient import encode
from aiollm.errors import ConfigError
from aiollm.types import Request, TextPart

Met: TypeAlias = Literal["new", "finished", "twice", "other"]
"""What is known of a key that comes along: `other` is finished, but asked something else."""

_PARTS = 256
"""One table of a million keys would stop everything for 50 ms whenever it grows."""

_MET = -1

_DEFAULTS = {name: getattr(Request(()), name) for name in Request.__struct_fields__}


class Keys:
    """The keys of a run, as hashes: some 100 bytes for each, however long it is."""

    def __init__(self) -> None:
        self._tables: list[dict[int, int]] = [{} for _ in range(_PARTS)]

    def finished(self, key: str, asked: str) -> None:
        """Note that a key has its answer; `asked` is the hash of its request."""
        hashed = hash(key)
        self._tables[hashed % _PARTS][hashed] = hash(asked)

    def failed(self, key: str) -> None:
        """Note that a key has no answer, or has lost it."""
        hashed = hash(key)
        self._tables[hashed % _PARTS].pop(hashed, None)

    def meet(self, key: str, asked: str) -> Met:
        """Return what is known of a row's key, and note that it came along."""
        hashed = hash(key)
        table = self._tables[hashed % _PARTS]
        known = table.get(hashed)
        table[hashed] = _MET
        if known is None:
            return "new"
        if known == _MET:
            return "twice"
        return "finished" if known == hash(asked) else "other"


class Shard(msgspec.Struct, frozen=True):
    """One of `count` shares of all rows, by a hash of their keys; numbered from 1."""

    number: int
    count: int

    def has(self, key: str) -> bool:
        """Return whether the row of a key is in this share."""
        return (
            int(_digest(key.encode("utf-8", "surrogatepass")), 16) % self.count + 1 == self.number
        )


def parse_shard(text: str) -> Shard:
    """Return the shard that `2/8` names. Raises: ConfigError."""
    number, _, count = text.partition("/")
    if number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count):
        return Shard(int(number), int(count))
    raise ConfigError(f"shard is {text!r:.80}: expected a number and a count, such as 2/8")


def hash_of_request(request: Request) -> str:
    """Return a hash of what a row asks. Raises: TypeError, ValueError.

    Fields with their defaults are left out: a later version of aiollm, which knows more of them,
    must find the rows of an earlier one.
    """
    changed = {
        name: value
        for name in Request.__struct_fields__
        if name != "messages" and (value := getattr(request, name)) != _DEFAULTS[name]
    }
    messages = [(each.role, [_asked(part) for part in each.parts]) for each in request.messages]
    return _digest(encode((messages, changed), described))


def hash_of_run(spec: str, output: Any) -> str:
    """Return a hash of what all rows of a run have in common. Raises: ConfigError."""
    return _digest(encode((spec, output), described))


def _asked(part: Any) -> Any:
    if type(part) is TextPart and not part.citations and part.provider_data is None:
        return part.text
    return _without_defaults(msgspec.to_builtins(part, enc_hook=described))


def _without_defaults(value: Any) -> Any:
    match value:
        case dict():
            kept = {name: _without_defaults(each) for name, each in value.items()}
            return {name: each for name, each in kept.items() if each not in (None, "", [], {})}
        case list():
            return [_without_defaults(each) for each in value]
        case _:
            return value


def _digest(data: bytes) -> str:
    from hashlib import blake2b  # it takes a millisecond, and connections bring it

    return blake2b(data, digest_size=8).hexdigest()
