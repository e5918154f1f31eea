"""Run the demo and draw what it prints as a terminal: docs/assets/demo.svg, which the README shows.

`python scripts/terminal_picture.py` needs what `make demo` installs. The picture refers to nothing
outside of itself: a reader's own monospaced font is used.
"""

from __future__ import annotations

import re
import subprocess
import sys
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "assets" / "demo.svg"
COMMAND = "make demo"
NO_BREAK = "\u00a0"
"""A space that is not collapsed with those beside it."""

COLUMN, LINE, MARGIN, BAR = 7.8, 18, 18, 34
COLOURS = (
    (re.compile(r"^\s+aiollm\sask.*"), "#7dd3c8"),
    (re.compile(r"\b(failed(?=:)|cooling)\b"), "#f28b82"),
    (re.compile(r"\b(success|healthy)\b"), "#8fd98a"),
    (re.compile(r"^[A-Z].*[:.]$"), "#9aa7b5"),
)
"""What is shown in which colour; the first that fits a piece of a line."""


def main() -> None:
    """Draw a new picture."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "demo.py")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    PICTURE.write_text(drawn(f"$ {COMMAND}\n{done.stdout}"), encoding="utf-8")
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size} bytes")


def drawn(text: str) -> str:
    """Return a picture of a terminal that shows a text."""
    lines = text.rstrip().replace(" ", NO_BREAK).splitlines()
    width = round(max(map(len, lines)) * COLUMN + 2 * MARGIN)
    height = len(lines) * LINE + BAR + MARGIN
    rows = "\n".join(
        f'<text x="{MARGIN}" y="{BAR + number * LINE}">{_coloured(line)}</text>'
        for number, line in enumerate(lines, start=1)
        if line
    )
    dots = "".join(
        f'<circle cx="{MARGIN + 18 * n}" cy="17" r="5.5" fill="{colour}"/>'
        for n, colour in enumerate(("#f28b82", "#f5c76b", "#8fd98a"))
    )
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">
<title>What the demo prints: a dead target fails over, and is skipped afterwards</title>
<rect width="{width}" height="{height}" rx="9" fill="#1b2129"/>
{dots}
<g font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace" \
font-size="13" fill="#dfe5ec">
{rows}
</g>
</svg>
"""


def _coloured(line: str) -> str:
    """Return a line as the content of a text element."""
    for pattern, colour in COLOURS:
        if found := pattern.search(line):
            before, after = line[: found.start()], line[found.end() :]
            shown = f'<tspan fill="{colour}">{escape(found.group())}</tspan>'
            return f"{escape(before)}{shown}{escape(after)}"
    return escape(line)


if __name__ == "__main__":
    main()
