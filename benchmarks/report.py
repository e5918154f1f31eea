"""What a run gave: a line for each row, tables in Markdown, the bars, JSON and charts."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import charts

Row = dict[str, Any]
WIRES = ("openai", "anthropic", "google", "ollama")


class Column(NamedTuple):
    """A figure as a table shows it; the first of a part is what ratios are of."""

    figure: str
    title: str
    form: str = "{:.1f}"


TABLES: dict[str, tuple[str, tuple[Column, ...]]] = {
    "blast": (
        "CPU a chunk: streams of 2,000 chunks, each an HTTP chunk of its own",
        (Column("us", "CPU us a chunk", "{:.2f}"),),
    ),
    "packed": (
        "CPU a chunk: the same in HTTP chunks of 16 KiB",
        (Column("us", "CPU us a chunk", "{:.2f}"),),
    ),
    "short": (
        "Short requests: 8 chunks on a connection that is open already",
        (Column("us", "CPU us a request", "{:.0f}"), Column("first_us", "first text us", "{:.0f}")),
    ),
    "paced": (
        "200 streams at once, 20 ms between chunks",
        (
            Column("us", "CPU us a chunk"),
            Column("late_p50_ms", "late p50 ms"),
            Column("late_p99_ms", "late p99 ms"),
            Column("stall_ms", "loop stall ms"),
            Column("wall_s", "seconds"),
            Column("server_load", "server load", "{:.0%}"),
        ),
    ),
    "open": (
        "Open streams, held and then cancelled at once",
        (
            Column("kib", "KiB a stream"),
            Column("in_use_kib", "of it in use"),
            Column("asked", "asked", "{:.0f}"),
            Column("opened", "opened", "{:.0f}"),
            Column("errors", "errors", "{:.0f}"),
            Column("open_ms", "CPU ms to open", "{:.2f}"),
            Column("cancel_s", "s to cancel all", "{:.3f}"),
            Column("cancel_ms", "CPU ms to cancel one", "{:.3f}"),
            Column("tasks_left", "tasks left", "{:.0f}"),
        ),
    ),
    "import": ("Importing it in a fresh process", (Column("ms", "CPU ms", "{:.0f}"),)),
    "first": (
        "The first request of a process, after the import",
        (
            Column("cpu_ms", "CPU ms"),
            Column("stall_ms", "loop stall ms"),
            Column("rss_mib", "RSS MiB after it"),
        ),
    ),
    "large": (
        "One event, in HTTP chunks of 4 KiB",
        (Column("mib_8", "CPU ms for 8 MiB"), Column("mib_2", "for 2 MiB")),
    ),
    "body": (
        "One request with a long prompt",
        (Column("mib_20", "CPU ms for 20 MiB"), Column("mib_5", "for 5 MiB")),
    ),
    "server": (
        "The replay server, read by a raw socket that looks at nothing",
        (Column("chunks_per_s", "chunks/s", "{:,.0f}"),),
    ),
}
TABLES["tls"] = ("The same under TLS", TABLES["open"][1])


class Bar(NamedTuple):
    """A goal: a figure of one contender, as a multiple of another's or in itself."""

    text: str
    part: str
    name: str
    figure: str
    most: float
    of: str = ""
    """Whose figure the goal is a multiple of; "" for a goal in the figure's own unit."""
    asked: int = 0
    """Of the rows with so many streams."""


BARS = (
    Bar("CPU a chunk, of the limit", "blast", "aiollm", "us", 1.4, "limit"),
    Bar("CPU a chunk, of openai", "blast", "aiollm", "us", 1 / 25, "openai"),
    Bar("CPU a chunk, of anthropic", "blast", "aiollm", "us", 1 / 8, "anthropic"),
    Bar("CPU a chunk, of google-genai", "blast", "aiollm", "us", 1 / 45, "google-genai"),
    Bar("CPU a chunk, of ollama", "blast", "aiollm", "us", 1 / 5, "ollama"),
    Bar("CPU a chunk, of litellm", "blast", "aiollm", "us", 1 / 100, "litellm"),
    Bar("CPU a short request, of the limit", "short", "aiollm", "us", 1.2, "limit"),
    Bar("first text, us more than the limit", "short", "aiollm", "first_us", 60, "+limit"),
    Bar("200 paced streams: CPU, of the limit", "paced", "aiollm", "us", 1.1, "limit"),
    Bar("200 paced streams: late p99, of the limit", "paced", "aiollm", "late_p99_ms", 2, "limit"),
    Bar("KiB an open stream, plain", "open", "aiollm", "kib", 29),
    Bar("KiB in use by an open stream, TLS", "tls", "aiollm", "in_use_kib", 70),
    Bar("CPU to open one of 1,000, of the limit", "open", "aiollm", "open_ms", 1.15, "limit", 1000),
    Bar("CPU ms to cancel one of 10,000", "open", "aiollm", "cancel_ms", 0.1, asked=10_000),
    Bar("errors while opening", "open", "aiollm", "errors", 0),
    Bar("tasks left", "open", "aiollm", "tasks_left", 0),
    Bar("import, CPU, of the limit", "import", "aiollm", "ms", 0.35, "limit"),
    Bar("RSS after the first request, MiB", "first", "aiollm", "rss_mib", 38),
    Bar("chain of 3, of one target", "short", "chain of 3", "us", 1.1, "aiollm"),
    Bar("race of 2, of one target", "short", "race of 2", "us", 2.2, "aiollm"),
    Bar("the same, both started at once", "short", "race of 2 at once", "us", 2.2, "aiollm"),
)


def line(row: Row) -> str:
    """Return a row as one line."""
    figures = " ".join(
        f"{name} {value['min']:.4g}" for name, value in row.items() if isinstance(value, dict)
    )
    return f"{row['part']:7} {row['name']:17} {row['wire']:10} {row.get('error') or figures}"


def write(to: Path, rows: list[Row], effort: dict[str, Any]) -> str:
    """Write results.json, results.md and the charts; return the tables.

    What was not measured this time keeps what it had.
    """
    to.mkdir(exist_ok=True, parents=True)
    rows = sorted([*_kept(to / "results.json", rows), *rows], key=_place)
    data = {"machine": machine(), "effort": effort, "rows": rows}
    (to / "results.json").write_text(json.dumps(data, indent=1) + "\n")
    text = tables(data)
    (to / "results.md").write_text(text + "\n")
    charts.write(to, rows)
    return text


def _place(row: Row) -> tuple[int, int]:
    """Return where a row stands: by wire, and peers last."""
    wire, name = row.get("wire"), str(row.get("name", ""))
    is_peer = not name.startswith(("limit", "aiollm", "chain", "race", "raw"))
    return WIRES.index(wire) if wire in WIRES else 0, is_peer


def _kept(known: Path, rows: list[Row]) -> list[Row]:
    if not known.exists():
        return []
    measured = {(row["part"], row.get("name")) for row in rows}
    old = json.loads(known.read_text())["rows"]
    return [row for row in old if (row["part"], row.get("name")) not in measured]


def tables(data: Row) -> str:
    """Return everything as Markdown."""
    rows = data["rows"]
    told = "; ".join(f"{name} {value}" for name, value in data["machine"].items())
    pieces = ["# Results", told + ".", _bars(rows)]
    for part, (title, columns) in TABLES.items():
        found = [row for row in rows if row["part"] == part]
        if found:
            pieces += [f"## {title}", _table(found, columns)]
    pieces += [f"## Images\n\n```\n{row['text']}\n```" for row in rows if row["part"] == "images"]
    return "\n\n".join(pieces)


def _table(rows: list[Row], columns: tuple[Column, ...]) -> str:
    titles = ["contender", "wire", *(column.title for column in columns), "median (spread)", "x"]
    lines = [titles, ["---", "---", *["---:" for _ in titles[2:]]]]
    for row in rows:
        cells = [row["name"], row["wire"]]
        if reason := _missing(row):
            lines.append([*cells, reason, *["" for _ in titles[3:]]])
            continue
        cells += [
            column.form.format(_best(row, column.figure)) if column.figure in row else ""
            for column in columns
        ]
        first = row[columns[0].figure]
        middle, spread = first["median"], first["max"] - first["min"]
        cells.append(f"{columns[0].form.format(middle)} ({spread / max(middle, 1e-9):.0%})")
        cells.append(_ratio(row, rows, columns[0].figure))
        lines.append(cells)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _missing(row: Row) -> str:
    """Say why a row has no figures, "" if it has."""
    if row.get("opened", {}).get("max") == 0:
        return f"none of {row['asked']['max']:,.0f} opened"
    return re.sub(r"[|`\n]", " ", row.get("error", ""))[:70]


def _best(row: Row, figure: str) -> float:
    """Return the figure that counts: the minimum over the rounds, the worst where none is right."""
    return row[figure]["max" if figure in {"errors", "tasks_left"} else "min"]


def _ratio(row: Row, rows: list[Row], figure: str) -> str:
    same = ("wire",) if "asked" not in row else ("wire", "asked")
    for other in rows:
        if other["name"] == "limit" and all(other[key] == row[key] for key in same):
            base = _best(other, figure) if figure in other else 0.0
            return f"{_best(row, figure) / base:.2f}" if base > 0 else ""
    return ""


def _bars(rows: list[Row]) -> str:
    lines = ["| goal | at most | by wire |  |", "| --- | ---: | --- | --- |"]
    for bar in BARS:
        found = _measured(bar, rows)
        if not found:
            continue
        reached = all(value <= bar.most for _, value in found)
        shown = ", ".join(f"{wire} {value:.3g}" for wire, value in found)
        lines.append(
            f"| {bar.text} | {bar.most:.3g} | {shown} | {'yes' if reached else '**no**'} |"
        )
    return "\n".join(lines)


def _measured(bar: Bar, rows: list[Row]) -> list[tuple[str, float]]:
    """Return what was measured for a bar, by wire."""
    found = []
    for row in rows:
        if (row["part"], row.get("name")) != (bar.part, bar.name) or bar.figure not in row:
            continue
        asked = int(row["asked"]["min"]) if "asked" in row else 0
        if bar.asked and asked != bar.asked:
            continue
        value = _best(row, bar.figure)
        label = row["wire"] + (f" {asked:,}" if asked else "")
        if not bar.of:
            found.append((label, value))
            continue
        for other in rows:
            same = (other["part"], other.get("name"), other.get("wire"), other.get("asked"))
            wanted = (bar.part, bar.of.lstrip("+"), row["wire"], row.get("asked"))
            if same == wanted and bar.figure in other:
                base = _best(other, bar.figure)
                found.append((label, value - base if bar.of[0] == "+" else value / base))
    return found


def machine() -> dict[str, str]:
    """Return what the figures depend on."""
    cpu = "unknown"
    for found in Path("/proc/cpuinfo").read_text().splitlines():
        if found.startswith("model name"):
            cpu = found.partition(":")[2].strip()
            break
    versions = ("aiohttp", "msgspec", "uvloop")
    return {
        "CPU": f"{cpu} ({os.cpu_count()} cores)",
        "kernel": platform.release(),
        "Python": platform.python_version(),
        **{name: _version(name) for name in versions},
        "commit": _commit(),
        "load at the end": f"{os.getloadavg()[0]:.1f}",
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "results")
    known = json.loads((folder / "results.json").read_text())
    (folder / "results.md").write_text(tables(known) + "\n")
    charts.write(folder, known["rows"])
