"""FaultServer: a loopback server with scripted answers, which may be as bad as real ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias, Unpack

from aiollm.testing.connection import AnswerSteps
from aiollm.testing.faults import Answer, Fault, steps
from aiollm.testing.loopback import Loopback, LoopbackOptions
from aiollm.testing.marks import override
from aiollm.testing.server_record import SeenRequest
from aiollm.testing.wires import chat

FaultScript: TypeAlias = Fault | Callable[[SeenRequest], Fault]
"""Answers a request: a fault, or a function of the request that returns one."""

_EXHAUSTED = Answer(500, {}, {"error": {"message": "the script of this server is exhausted"}})
_UNKNOWN = Answer(404, {}, {"error": {"message": "no script for this path"}})


class FaultServer(Loopback):
    """Answers each request by a script: a fault, or a function of the request.

    A single script answers every request. Several, or those of a list, answer one request each,
    in order; after them `default` answers, or a 500. Without any script, each request gets a chat
    stream that says `Hello world`. `paths` maps a path to the script for all its requests; with
    only `paths`, any other path is a 404. `unscripted` counts the requests that no script
    answered. The other keywords are those of `Loopback`.
    Raises: TypeError for a script that is neither a fault nor a function.
    """

    def __init__(
        self,
        *scripts: FaultScript | list[FaultScript],
        default: FaultScript | None = None,
        paths: Mapping[str, FaultScript] | None = None,
        **options: Unpack[LoopbackOptions],
    ) -> None:
        super().__init__(**options)
        self.unscripted: int = 0
        self._paths: dict[str | None, _Script] = {}
        for path, script in (paths or {}).items():
            self.behave(script, path)
        queue: list[FaultScript] = []
        for each in scripts:
            queue += each if isinstance(each, list) else [_checked(each)]
        if queue or default is not None:
            if default is None and len(scripts) == 1 and not isinstance(scripts[0], list):
                default = queue.pop()
            self._paths[None] = _Script(queue, _EXHAUSTED if default is None else default)
        elif not paths:
            self.behave(chat("Hello", " world"))

    def behave(self, script: FaultScript, path: str | None = None) -> None:
        """Use `script` from now on: for `path`, or for all requests without a scripted path."""
        self._paths[path] = _Script((), script)

    def push(self, *scripts: FaultScript, path: str | None = None) -> None:
        """Append scripts to the queue of `path`, or to that of all other requests."""
        known = self._paths.setdefault(path, _Script((), _EXHAUSTED))
        known.queue.extend(map(_checked, scripts))

    @override
    def answer(self, request: SeenRequest) -> AnswerSteps:
        """Return the steps of the fault that answers a request."""
        script = self._paths.get(request.path) or self._paths.get(None)
        fault = script.next(request) if script else _UNKNOWN
        if fault is _EXHAUSTED or fault is _UNKNOWN:
            self.unscripted += 1
        return steps(fault, request)


class _Script:
    """Scripts in order, each used once, and the one that answers after them."""

    def __init__(self, queue: Iterable[FaultScript], default: FaultScript) -> None:
        self.queue = deque(map(_checked, queue))
        self.default = _checked(default)

    def next(self, request: SeenRequest) -> Fault:
        script = self.queue.popleft() if self.queue else self.default
        if isinstance(script, Fault):
            return script
        fault = script(request)
        if not isinstance(fault, Fault):
            raise TypeError(f"a script returned {fault!r:.80}, not a fault")
        return fault


def _checked(script: FaultScript) -> FaultScript:
    if isinstance(script, Fault) or callable(script):
        return script
    raise TypeError(f"{script!r:.80} is not a script: pass faults, or functions that return one")
