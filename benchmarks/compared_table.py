"""The table of the comparison, drawn into docs/comparison.md."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from field import ROOT

PAGE = ROOT / "docs" / "comparison.md"
START, END = "<!-- figures: benchmarks/comparison.py -->\n", "<!-- end of figures -->\n"
NONE = "-"
SETTLED = 4.0
"""Seconds in which what a program leaves behind may end by itself."""
TASKS = {
    "setup": "setup",
    "stream": "stream with fallback",
    "crowd": "crowd",
    "tools": "tool loop",
    "agent": "MCP agent",
    "image": "image",
    "evaluate": "evaluation",
}
WAYS_OUT = {
    "break": "`break`",
    "aclosing": "`break` in `aclosing`",
    "cancel": "cancelling the task",
}
MCP_WAYS = {"works": "call weather", "dies": "call die and weather", "cut": "call weather and cut"}
"""What an agent is asked: which tools its model calls."""

Figures = dict[str, Any]
Row = tuple[str, Callable[[Figures], object]]


def rows() -> list[Row]:
    """Return the rows: what each is called, and how it is read from a library's figures."""
    return [
        ("version", lambda each: each["version"]),
        *(
            (f"lines: {name}", lambda each, task=task: each["lines"][task])
            for task, name in TASKS.items()
        ),
        ("import, ms of CPU", lambda each: each["import_ms"]),
        *stream_rows(),
        ("tool loop, image question, MCP agent", both),
        ("**200 calls at once, 20 a second allowed**: answered", crowd("answered")),
        ("... requests sent", crowd("requests")),
        ("... seconds", crowd("seconds")),
        *agent_rows(),
        *evaluation_rows(),
    ]


def stream_rows() -> list[Row]:
    return [
        (
            "**stream** cut cleanly, the second target is well",
            lambda each: ending(each["cut"]),
        ),
        *(
            (f"{way}: ms to a closed connection", lambda each, key=f"{key}_ms": closing(each[key]))
            for key, way in WAYS_OUT.items()
        ),
        (
            "first target answers 503: requests to it in 20 calls",
            lambda each: each["dead"]["requests"],
        ),
        ("... seconds for the 20 calls", lambda each: f"{each['dead']['seconds']:.1f}"),
        ("... calls answered", lambda each: each["dead"]["answered"]),
    ]


def agent_rows() -> list[Row]:
    return [
        (
            "**MCP agent**: from start to answer, ms of CPU",
            lambda each: f"{each['mcp_works']['cpu'] * 1000:.0f}",
        ),
        ("... of it importing", lambda each: each["import_mcp_ms"]),
        ("server dies in a call, the model calls again", lambda each: dying(each["mcp_dies"])),
        ("model's answer cut cleanly after a call", lambda each: ending(each["mcp_cut"])),
        (
            "task cancelled in a call that hangs: ms until the server is gone",
            lambda each: gone(each["mcp_cancel"]["gone_ms"]),
        ),
        ("... servers left when the program has ended", lambda each: each["mcp_cancel"]["left"]),
        ("... left after `kill -9` of the program", lambda each: each["mcp_kill"]["left"]),
    ]


def evaluation_rows() -> list[Row]:
    return [
        ("**2,000 rows, 2 % 500s, 1 % cut**: answered rightly", evaluated("answered", ".0f")),
        ("... requests sent", evaluated("requests", ".0f")),
        ("... seconds", evaluated("seconds")),
        ("... CPU seconds", evaluated("cpu")),
        ("... resident memory, MB", evaluated("mb", ".0f")),
        ("killed at half, started again: answered", lambda each: each["killed"]["answered"]),
        ("... rows paid twice", lambda each: each["killed"]["twice"]),
    ]


def crowd(key: str) -> Callable[[Figures], object]:
    return lambda each: f"{each['crowd'][key]:.{int(key == 'seconds')}f}"


def evaluated(key: str, form: str = ".1f") -> Callable[[Figures], object]:
    return lambda each: format(each["evaluate"][key], form)


def both(each: Figures) -> str:
    found = {name: shown(each[name]) for name in ("tools", "image") if name in each}
    found["agent"] = "works" if works(each["mcp_works"]) else f"says {each['mcp_works']}"
    bad = [f"{name} {text}" for name, text in found.items() if text != "works"]
    return "; ".join(bad) or "works"


def shown(answered: str) -> str:
    return answered if answered.startswith("failed") else "works"


def works(found: Figures) -> bool:
    return found.get("text") == "Well answered."


def dying(found: Figures) -> str:
    if found.get("error") == "TimeoutError":
        return "hangs (20 s)"
    if "error" in found:
        return f"ends with `{found['error']}`"
    again = "answered" if any("21 degrees" in each for each in found["results"]) else "fails, too"
    return f"goes on; the next call {again}"


def ending(found: Figures) -> str:
    return f"raises `{found['error']}`" if "error" in found else f"success: {found['text']!r}"


def closing(ms: float | str | None) -> str:
    match ms:
        case None:
            return "not within 3.9 s"
        case str():
            return f"the task ends with `{ms.rpartition('.')[2]}`"
        case _:
            return f"{ms:.1f}"


def gone(ms: float) -> str:
    return f"{ms:.0f}" if ms < SETTLED * 1000 else f"not within {SETTLED:.0f} s"


def table(found: dict[str, Figures]) -> str:
    """Draw the figures as the page shows them."""
    head = f"| | {' | '.join(found)} |\n|---|{'---|' * len(found)}\n"
    return head + "".join(
        f"| {name} | {' | '.join(cell(figure, each) for each in found.values())} |\n"
        for name, figure in rows()
    )


def cell(figure: Callable[[Figures], object], each: Figures) -> str:
    """Return a figure, or a sign that a library does not take part."""
    try:
        return str(figure(each))
    except KeyError:
        return NONE


def write(found: dict[str, Figures], results: Path) -> None:
    """Write the results, and the table into the page."""
    results.write_text(json.dumps(found, indent=1) + "\n")
    before, _, rest = PAGE.read_text().partition(START)
    PAGE.write_text(before + START + table(found) + f"\n{taken()}\n" + END + rest.partition(END)[2])


def taken() -> str:
    """Say when and where."""
    python_version = ".".join(map(str, sys.version_info[:3]))
    day = datetime.now(UTC).date()
    return f"Taken on {day} with Python {python_version} on {os.cpu_count()} cores."
