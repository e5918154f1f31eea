"""Bar charts of a run as SVG, on a logarithmic scale: they show factors, not differences."""

from __future__ import annotations

import math
from html import escape
from pathlib import Path
from typing import Any

CHARTS = (
    ("blast", "us", "openai", "CPU a chunk, us (Chat Completions)"),
    ("blast", "us", "anthropic", "CPU a chunk, us (Messages)"),
    ("blast", "us", "google", "CPU a chunk, us (Gemini)"),
    ("blast", "us", "ollama", "CPU a chunk, us (Ollama)"),
    ("short", "us", "openai", "CPU a short request, us"),
    ("paced", "late_p99_ms", "openai", "200 streams: how late chunks are read, p99 ms"),
    ("import", "ms", None, "import, CPU ms"),
    ("open", "kib", "openai", "KiB an open stream (1,000)"),
)
WIDTH, LEFT, RIGHT, STEP, TOP = 640, 130, 70, 24, 34
COLOURS = {"aiollm": "#2563eb", "limit": "#94a3b8"}
OTHER = "#cbd5e1"
FONT = 'font-family="system-ui, sans-serif" font-size="12"'


def write(to: Path, rows: list[dict[str, Any]]) -> None:
    """Write one chart for each of `CHARTS` that has figures."""
    for part, figure, wire, title in CHARTS:
        values: dict[str, float] = {}
        for row in rows:
            of_part = row["part"] == part and figure in row and wire in (None, row["wire"])
            if of_part and "+" not in row["name"] and " " not in row["name"]:
                values.setdefault(row["name"], row[figure]["min"])
        if len(values) > 1:
            (to / f"{part}-{wire or 'all'}.svg").write_text(_chart(title, values))


def _chart(title: str, values: dict[str, float]) -> str:
    ordered = sorted(values.items(), key=lambda item: item[1])
    low = min(value for value in values.values() if value > 0) / 2
    scale = (WIDTH - LEFT - RIGHT) / math.log(max(values.values()) / low)
    height = TOP + STEP * len(ordered) + 10
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" {FONT}>',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="10" y="20" font-weight="bold">{escape(title)}, logarithmic</text>',
    ]
    for at, (name, value) in enumerate(ordered):
        y = TOP + STEP * at
        long = max(1.0, scale * math.log(max(value, low) / low))
        colour = COLOURS.get(name, OTHER)
        lines += [
            f'<text x="{LEFT - 8}" y="{y + 13}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{LEFT}" y="{y}" width="{long:.0f}" height="17" fill="{colour}"/>',
            f'<text x="{LEFT + long + 6:.0f}" y="{y + 13}">{value:.3g}</text>',
        ]
    return "\n".join([*lines, "</svg>\n"])
