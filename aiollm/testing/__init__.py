"""The testing kit: servers that fail on purpose, recorded exchanges, an in-process provider."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiollm.testing.cassette import Ending, Exchange, exchange, load_exchanges
    from aiollm.testing.connection import AnswerSteps, Sleep
    from aiollm.testing.fake import Counted, FakeCall, FakeProvider
    from aiollm.testing.fake_script import NEVER, Script, ToolCallStep, hosted_call, tool_call
    from aiollm.testing.faults import (
        Answer,
        AnswerStep,
        Cut,
        End,
        EndlessHeaders,
        Fault,
        Flood,
        Hang,
        Pause,
        Piece,
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
    from aiollm.testing.http1 import HttpMessage
    from aiollm.testing.loopback import Loopback, LoopbackOptions, OnConnect
    from aiollm.testing.plugin import MakeRegistry, StartFaultServer, StartReplayServer
    from aiollm.testing.recorder import Recorder
    from aiollm.testing.replay import PieceSize, ReplayServer, RequestMatch
    from aiollm.testing.server_record import Counts, SeenConnection, SeenRequest
    from aiollm.testing.wires import EventData, chat, ndjson, sse

_HOMES = {
    "cassette": ("Ending", "Exchange", "exchange", "load_exchanges"),
    "connection": ("Sleep", "AnswerSteps"),
    "fake": ("Counted", "FakeCall", "FakeProvider"),
    "fake_script": ("NEVER", "Script", "ToolCallStep", "hosted_call", "tool_call"),
    "faults": (
        "Answer",
        "Cut",
        "End",
        "EndlessHeaders",
        "Fault",
        "Flood",
        "Hang",
        "Pause",
        "Piece",
        "Raw",
        "Reset",
        "Serve",
        "Stale",
        "AnswerStep",
        "Trickle",
        "Truncate",
        "Unsolicited",
        "html",
        "redirect",
    ),
    "faultserver": ("FaultScript", "FaultServer"),
    "gate": ("Gate",),
    "http1": ("HttpMessage",),
    "loopback": ("Loopback", "LoopbackOptions", "OnConnect"),
    "plugin": ("MakeRegistry", "StartFaultServer", "StartReplayServer"),
    "recorder": ("Recorder",),
    "replay": ("PieceSize", "ReplayServer", "RequestMatch"),
    "server_record": ("Counts", "SeenConnection", "SeenRequest"),
    "wires": ("EventData", "chat", "ndjson", "sse"),
}
_WHERE = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "NEVER",
    "Answer",
    "AnswerStep",
    "AnswerSteps",
    "Counted",
    "Counts",
    "Cut",
    "End",
    "Ending",
    "EndlessHeaders",
    "EventData",
    "Exchange",
    "FakeCall",
    "FakeProvider",
    "Fault",
    "FaultScript",
    "FaultServer",
    "Flood",
    "Gate",
    "Hang",
    "HttpMessage",
    "Loopback",
    "LoopbackOptions",
    "MakeRegistry",
    "OnConnect",
    "Pause",
    "Piece",
    "PieceSize",
    "Raw",
    "Recorder",
    "ReplayServer",
    "RequestMatch",
    "Reset",
    "Script",
    "SeenConnection",
    "SeenRequest",
    "Serve",
    "Sleep",
    "Stale",
    "StartFaultServer",
    "StartReplayServer",
    "ToolCallStep",
    "Trickle",
    "Truncate",
    "Unsolicited",
    "chat",
    "exchange",
    "hosted_call",
    "html",
    "load_exchanges",
    "ndjson",
    "redirect",
    "sse",
    "tool_call",
]


if not TYPE_CHECKING:  # a type checker would take any name for one of ours

    def __getattr__(name: str) -> Any:
        # pytest imports this package for its plugin in every run: load nothing before it is used.
        if name not in _WHERE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)

    def __dir__() -> list[str]:
        return __all__
