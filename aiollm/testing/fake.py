"""FakeProvider: a provider in process whose answers are scripted; no network, no key."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, Final, Literal, NoReturn, TypeAlias

import msgspec

from aiollm.errors import UnsupportedError
from aiollm.framing import NDJSON
from aiollm.provider import HttpReply, HttpRequest, Provider, Transport
from aiollm.testing.connection import Sleep
from aiollm.testing.faults import Pause
from aiollm.testing.gate import WITHIN, Gate, Signal
from aiollm.types import Finish, Item, LLMError, Request, Target, TextDelta, ToolCallDelta


class Never(Enum):
    """A step that never ends."""

    NEVER = "never"


NEVER: Final = Never.NEVER
"""Wait until the stream is closed: a hanging provider."""

Step: TypeAlias = str | Item | Exception | Gate | Pause | Never | Sequence[str | Item]
"""Text, an item, an error to raise, a wait, or several items as one batch ([] = alive)."""
Script: TypeAlias = str | Exception | Sequence[Step] | Callable[[Target, Request], "Script"]
"""One answer: text, an error, steps, or a choice by request."""

Outcome: TypeAlias = Literal["running", "finished", "failed", "closed"]


class FakeCall(msgspec.Struct):
    """A call that a FakeProvider got; `closed` is one that its caller left before the end."""

    target: Target
    request: Request
    at: float
    outcome: Outcome = "running"


class FakeProvider:
    """Answers each call with the next script; a script without `Finish` gets one at its end.

    Once the scripts are used up `default` answers, or the call fails with AssertionError.
    Without any script each call is answered `Hello`. `sleep` stands in for `asyncio.sleep`.
    """

    def __init__(
        self,
        *scripts: Script,
        default: Script | None = None,
        name: str = "fake",
        family: str = "fake",
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.name = name
        self.family = family
        self.calls: list[FakeCall] = []
        self._scripts: deque[Script] = deque(scripts)
        self._default = "Hello" if default is None and not scripts else default
        self._sleep = sleep
        self._signal = Signal()

    def provider(self, **fields: Any) -> Provider:
        """Return the row to register; `fields` are those of `Provider`, such as `facts`."""
        row = Provider(
            name=self.name,
            scheme="fake",
            base_url=f"fake://{self.name}",
            codec=FakeCodec(self.family),
            adapter=self.stream,
        )
        return msgspec.structs.replace(row, **fields)

    def push(self, *scripts: Script) -> None:
        """Add scripts at the end of the queue."""
        self._scripts.extend(scripts)

    @property
    def requests(self) -> tuple[Request, ...]:
        """The requests of all calls, in order."""
        return tuple(call.request for call in self.calls)

    @property
    def running(self) -> int:
        """How many calls have not ended."""
        return sum(call.outcome == "running" for call in self.calls)

    async def wait_calls(self, count: int = 1, within: float | None = WITHIN) -> None:
        """Wait until `count` calls have come. Raises: TimeoutError after `within` s."""
        await self._signal.until(
            lambda: len(self.calls) >= count,
            lambda: f"{count} calls of {self.name!r}; so far {len(self.calls)}",
            within,
        )

    async def wait_idle(self, within: float | None = WITHIN) -> None:
        """Wait until no call is running. Raises: TimeoutError after `within` s."""
        await self._signal.until(
            lambda: not self.running, lambda: f"{self.running} calls of {self.name!r}", within
        )

    async def stream(
        self, _: Provider, transport: Transport | None, target: Target, request: Request
    ) -> AsyncGenerator[Sequence[Item], None]:
        """Play the next script: the adapter of the row."""
        del transport
        call = FakeCall(target, request, asyncio.get_running_loop().time())
        self.calls.append(call)
        self._signal.changed()
        outcome: Outcome = "closed"
        try:
            for step in self._next(target, request):
                match step:
                    case Exception():
                        outcome = "failed"
                        raise _fresh(step)
                    case Gate() | Pause() | Never():
                        await self._wait(step)
                    case _:
                        batch = _batch(step)
                        if any(isinstance(item, Finish) for item in batch):
                            outcome = "finished"
                        yield batch
        finally:
            call.outcome = outcome
            self._signal.changed()

    async def _wait(self, step: Gate | Pause | Never) -> None:
        match step:
            case Gate():
                await step.passes()
            case Pause(seconds):
                await self._sleep(seconds)
            case Never():
                await asyncio.get_running_loop().create_future()

    def _next(self, target: Target, request: Request) -> Iterator[Step]:
        script = self._scripts.popleft() if self._scripts else self._default
        while callable(script):
            script = script(target, request)
        match script:
            case None:
                raise AssertionError(
                    f"FakeProvider {self.name!r} got call {len(self.calls)}, "
                    "but its scripts are used up: add one, or give it a default"
                )
            case str() | Exception():
                return _finished((script,))
            case _:
                return _finished(script)


def _finished(script: Sequence[Step]) -> Iterator[Step]:
    """Play the steps, then `Finish` unless the script has one."""
    reason: Literal["stop", "tool_calls"] = "stop"
    for step in script:
        items = () if isinstance(step, Exception | Gate | Pause | Never) else _batch(step)
        if any(isinstance(item, ToolCallDelta) for item in items):
            reason = "tool_calls"
        yield step
        if any(isinstance(item, Finish) for item in items):
            return
    yield Finish(reason, reason)


def _batch(step: str | Item | Sequence[str | Item]) -> list[Item]:
    if isinstance(step, Sequence) and not isinstance(step, str):
        return [TextDelta(item) if isinstance(item, str) else item for item in step]
    return [TextDelta(step) if isinstance(step, str) else step]


def _fresh(error: Exception) -> Exception:
    """Copy an error, so that a script used twice does not share its traceback and target."""
    kind = type(error)
    copied = kind.__new__(kind, *error.args)
    copied.args = error.args
    copied.__dict__.update(error.__dict__)
    return copied


def tool_call(name: str, arguments: Mapping[str, Any] | None = None, index: int = 0) -> Item:
    """Return a whole tool call as a step; calls of one answer need an `index` each."""
    text = msgspec.json.encode(arguments or {}).decode()
    return ToolCallDelta(index, f"call_{index}", name, text)


class FakeCodec:
    """The codec of a row that never speaks HTTP."""

    def __init__(self, family: str) -> None:
        self.family = family

    def framing(self) -> NDJSON:
        """Return a framer that is never fed."""
        return NDJSON()

    def decoder(self) -> FakeDecoder:
        """Return a decoder that is never fed."""
        return FakeDecoder()

    def encode(self, provider: Provider, target: Target, request: Request) -> HttpRequest:
        """Refuse: there is no wire."""
        del target, request
        _no_wire(provider)

    def error(self, reply: HttpReply) -> LLMError:
        """Name the status."""
        return LLMError(f"HTTP {reply.status}")

    def models(self, provider: Provider) -> HttpRequest:
        """Refuse: there is no wire."""
        _no_wire(provider)

    def model_names(self, reply: HttpReply) -> tuple[str, ...]:
        """Return nothing."""
        del reply
        return ()


class FakeDecoder:
    """A decoder that is never fed."""

    finished = True

    def feed(self, frames: Sequence[bytes], out: list[Item]) -> None:
        """Take nothing."""

    def whole(self, body: bytes, out: list[Item]) -> None:
        """Take nothing."""

    def close(self, out: list[Item]) -> None:
        """Add nothing."""


def _no_wire(provider: Provider) -> NoReturn:
    raise UnsupportedError(f"{provider.name!r} is a FakeProvider: it only streams answers")
