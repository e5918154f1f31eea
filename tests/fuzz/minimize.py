"""Choose the few inputs that fuzzing found which reach code that no recorded answer reaches."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fuzz.oracles import PACKAGE
from tests.fuzz.targets import TARGETS, found_by, keep

MOST = 12_000
"""Bytes of inputs that are kept for one target."""

Step = tuple[str, int, int]
"""A file, and two lines of it that are run one after the other."""


def minimize(name: str, folder: Path) -> None:
    """Add to the corpus of a target what reaches new code, the shortest first."""
    target = TARGETS[name]
    reached: set[Step] = set()
    for seed in target.seeds():
        reached |= steps_of(target.run, seed)
    found = {path.read_bytes() for path in folder.iterdir()} if folder.exists() else set()
    kept: list[bytes] = []
    for data in sorted({*found, *found_by(name)}, key=lambda each: (len(each), each)):
        if len(data) + sum(map(len, kept)) > MOST:
            break
        try:
            steps = steps_of(target.run, data)
        except Exception as error:  # noqa: BLE001  a failure is kept as a test with a name instead
            print(f"{name}: {type(error).__name__} for {data[:200]!r}")
            continue
        if steps - reached:
            reached |= steps
            kept.append(data)
    keep(name, kept)
    print(f"{name}: {len(kept)} of {len(found)} inputs, {sum(map(len, kept))} bytes")


def steps_of(run: Callable[[bytes], None], data: bytes) -> set[Step]:
    """Return the steps from line to line that an input takes through aiollm."""
    steps: set[Step] = set()

    def enter(frame: Any, event: str, arg: Any) -> Any:
        path = frame.f_code.co_filename
        if not path.startswith(PACKAGE):
            return None
        last = 0

        def step(frame: Any, event: str, arg: Any) -> Any:
            nonlocal last
            steps.add((path, last, frame.f_lineno))
            last = frame.f_lineno
            return step

        return step

    sys.settrace(enter)
    try:
        run(data)
    finally:
        sys.settrace(None)
    return steps
