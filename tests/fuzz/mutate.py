"""Damage that an answer may really have: odd values in its JSON, lines that move, repeat or go."""

from __future__ import annotations

import json
import random
import re
from copy import deepcopy
from typing import Any

from tests.contract.test_hostile import ODD, _paths

_LINE = re.compile(rb"^([^{\[]{0,40}?)([{\[].*[}\]])(\s*)$", re.DOTALL)


def mutated(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Return the input with one kind of damage; `others` are inputs to take lines from."""
    end = rng.choice((b"\n", b"\n", b"\n\n", b"\r\n"))
    lines = data.split(end)
    at = rng.randrange(len(lines))
    match rng.randrange(8):
        case 0 | 1 | 2:
            lines[at] = _odd(lines[at], rng)
        case 3:
            lines.insert(rng.randint(0, len(lines)), lines[at])
        case 4:
            del lines[at]
        case 5:
            other = rng.choice(others or [data]).split(end)
            lines.insert(rng.randint(0, len(lines)), rng.choice(other))
        case 6:
            to = rng.randrange(len(lines))
            lines[at], lines[to] = lines[to], lines[at]
        case _:
            return _elsewhere(data, rng)
    return end.join(lines)


def _odd(line: bytes, rng: random.Random) -> bytes:
    """Replace, remove or move values in the JSON of a line."""
    found = _LINE.match(line)
    if found is None:
        return line
    try:
        value = json.loads(found[2])
        for _ in range(rng.randint(1, 3)):
            value = _changed(value, rng)
        text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    except (ValueError, RecursionError):
        return line
    return found[1] + text.encode("utf-8", "surrogatepass") + found[3]


def _changed(value: Any, rng: random.Random) -> Any:
    paths = _paths(value)
    if not paths:
        return deepcopy(rng.choice(ODD))
    *way, last = rng.choice(paths)
    owner = value
    for key in way:
        owner = owner[key]
    match rng.randrange(6):
        case 0 | 1:
            owner[last] = deepcopy(rng.choice(ODD))
        case 2:
            del owner[last]
        case 3:  # another value of the same line
            owner[last] = deepcopy(_at(value, rng.choice(paths)))
        case 4:
            owner[last] = [owner[last], deepcopy(owner[last])]
        case _ if isinstance(owner, dict):
            owner[rng.choice((last.upper(), last + "s", "index", "id", "type", "error"))] = owner[
                last
            ]
        case _:
            owner.insert(0, deepcopy(owner[last]))
    return value


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        try:
            value = value[key]
        except (LookupError, TypeError):
            return None
    return value


def _elsewhere(data: bytes, rng: random.Random) -> bytes:
    """Change what is no line: ends of lines, the prefix of lines, or where the data ends."""
    match rng.randrange(5):
        case 0:
            return data.replace(b"\n", rng.choice((b"\r\n", b"\r", b"\n\n")))
        case 1:
            return data.replace(b"data: ", rng.choice((b"", b"data:", b"event: error\ndata: ")), 1)
        case 2:
            return data[: rng.randint(0, len(data))]
        case 3:
            escaped = re.sub(rb"[\x80-\xff]+", b"\\\\ud83e", data, count=1)
            return escaped if escaped != data else data.replace(b'":"', b'":"\\ud83e', 1)
        case _:
            at = rng.randint(0, len(data))
            return (
                data[:at]
                + rng.choice((b"\\ud83e\\udd2f", b"\xff", b"\x00", b'"', b"\\"))
                + data[at:]
            )
