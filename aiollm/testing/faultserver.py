"""FaultServer: a loopback server whose answers are scripted, and may be as bad as real ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, Unpack

from aiollm.testing.connection import Steps
from aiollm.testing.faults import Answer, Fault, steps
from aiollm.testing.loopback import Loopback, Options
from aiollm.testing.marks import override
from aiollm.testing.tally import SeenRequest
from aiollm.testing.wires import chat

Behaviour: TypeAlias = Fault | Sequence[Fault] | Callable[[SeenRequest], Fault]
"""One fault for every request, one after the other, or a choice by request."""

_EXHAUSTED = Answer(500, {}, {"error": {"message": "the script of this server is exhausted"}})
_UNKNOWN = Answer(404, {}, {"error": {"message": "no script for this path"}})


class FaultServer(Loopback):
    """Answers as scripted: a fault, a queue of faults, a callable, or any of them by path.

    A queue that is used up answers 500, and a path without a script 404: both are counted in
    `unscripted`. The keywords are those of `Loopback`.
    """

    def __init__(
        self,
        script: Behaviour | Mapping[str, Behaviour] | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(**options)
        self.unscripted = 0
        self._paths: dict[str | None, _Script] = {}
        if isinstance(script, Mapping):
            for path, behaviour in script.items():
                self.behave(behaviour, path)
        else:
            self.behave(chat("Hello", " world") if script is None else script)

    def behave(self, behaviour: Behaviour, path: str | None = None) -> None:
        """Answer so from now on: requests for `path`, or all for which no path is scripted."""
        self._paths[path] = _script(behaviour)

    def push(self, *faults: Fault, path: str | None = None) -> None:
        """Add faults at the end of a queue; anything but a queue is replaced by one."""
        before = self._paths.get(path)
        if isinstance(before, _Queue):
            before.faults.extend(faults)
        else:
            self._paths[path] = _Queue(faults)

    @override
    def answer(self, request: SeenRequest) -> Steps:
        """Return the steps of the fault that the script has for a request."""
        script = self._paths.get(request.path) or self._paths.get(None)
        fault = script(request) if script else _UNKNOWN
        if fault is _EXHAUSTED or fault is _UNKNOWN:
            self.unscripted += 1
        return steps(fault, request)


_Script: TypeAlias = Callable[[SeenRequest], Fault]


class _Queue:
    """Faults in order, each used once."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = deque(faults)

    def __call__(self, _: SeenRequest) -> Fault:
        return self.faults.popleft() if self.faults else _EXHAUSTED


def _script(behaviour: Behaviour) -> _Script:
    match behaviour:
        case Sequence():
            return _Queue(behaviour)
        case fault if not callable(fault):
            return lambda _: fault
        case choose:
            return choose
