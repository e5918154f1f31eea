"""The testing kit: servers that fail on purpose, recorded exchanges, a provider in process."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiollm.testing.cassette import Exchange, exchange, load
    from aiollm.testing.fake import NEVER, FakeCall, FakeProvider, Script, ToolCallStep, tool_call
    from aiollm.testing.faults import (
        Answer,
        Cut,
        End,
        EndlessHeaders,
        Fault,
        Flood,
        Hang,
        Pause,
        Raw,
        Reset,
        Serve,
        Stale,
        Trickle,
        Truncate,
        Unsolicited,
        html,
        redirect,
    )
    from aiollm.testing.faultserver import FaultScript, FaultServer
    from aiollm.testing.gate import Gate
    from aiollm.testing.loopback import Loopback, LoopbackOptions
    from aiollm.testing.recorder import Recorder
    from aiollm.testing.replay import ReplayServer
    from aiollm.testing.tally import Counts, SeenConnection, SeenRequest
    from aiollm.testing.wires import chat, ndjson, sse

_HOMES = {
    "cassette": ("Exchange", "exchange", "load"),
    "faults": (
        "Answer",
        "Cut",
        "End",
        "EndlessHeaders",
        "Fault",
        "Flood",
        "Hang",
        "Pause",
        "Raw",
        "Reset",
        "Serve",
        "Stale",
        "Trickle",
        "Truncate",
        "Unsolicited",
        "html",
        "redirect",
    ),
    "fake": ("NEVER", "FakeCall", "FakeProvider", "Script", "ToolCallStep", "tool_call"),
    "faultserver": ("FaultScript", "FaultServer"),
    "gate": ("Gate",),
    "loopback": ("Loopback", "LoopbackOptions"),
    "recorder": ("Recorder",),
    "replay": ("ReplayServer",),
    "tally": ("Counts", "SeenConnection", "SeenRequest"),
    "wires": ("chat", "ndjson", "sse"),
}
_WHERE = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "NEVER",
    "Answer",
    "Counts",
    "Cut",
    "End",
    "EndlessHeaders",
    "Exchange",
    "FakeCall",
    "FakeProvider",
    "Fault",
    "FaultScript",
    "FaultServer",
    "Flood",
    "Gate",
    "Hang",
    "Loopback",
    "LoopbackOptions",
    "Pause",
    "Raw",
    "Recorder",
    "ReplayServer",
    "Reset",
    "Script",
    "SeenConnection",
    "SeenRequest",
    "Serve",
    "Stale",
    "ToolCallStep",
    "Trickle",
    "Truncate",
    "Unsolicited",
    "chat",
    "exchange",
    "html",
    "load",
    "ndjson",
    "redirect",
    "sse",
    "tool_call",
]


def __getattr__(name: str) -> Any:
    # pytest imports this package for its plugin in every run: nothing is loaded before use.
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return __all__
