"""Tables: columns where the terminal is wide enough, and a block for each row where it is not."""

from __future__ import annotations

import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Sequence

from aiollm.cli.safe_text import one_line

_GAP = "  "


def table(rows: Sequence[tuple[str, ...]], *, head: tuple[str, ...] = ()) -> str:
    """Return rows in aligned columns, below a head; each cell is one line.

    A terminal that is too narrow for them gets a block for each row. Files and pipes never do.
    """
    cells = [tuple(map(one_line, row)) for row in rows]
    lines = _columns([head, *cells] if head else cells)
    width = _columns_of_terminal()
    if width and any(_width(line) > width for line in lines):
        lines = [line for row in cells for line in _block(row, head, width)]
    return "".join(f"{line}\n" for line in lines)


def wrapped(text: str) -> str:
    """Return a sentence in lines that fit the terminal; links and names stay in one piece."""
    width = _columns_of_terminal()
    return f"{_filled(text, width) if width else text}\n"


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    return [
        _GAP.join(
            cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]


def _block(row: tuple[str, ...], head: tuple[str, ...], width: int) -> list[str]:
    labels = [f"{each.lower()}: " for each in head] or [""] * len(row)
    return [
        _filled(row[0], width),
        *(
            _filled(label + cell, width, _GAP)
            for label, cell in zip(labels[1:], row[1:], strict=True)
            if cell
        ),
    ]


def _filled(text: str, width: int, indent: str = "") -> str:
    return textwrap.fill(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent and indent + _GAP,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _columns_of_terminal() -> int:
    """Return how many columns a line may have, 0 where output is no terminal."""
    return max(20, shutil.get_terminal_size().columns) if sys.stdout.isatty() else 0


def _width(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(each) in "WF" for each in text)
    return len(text) + wide - sum(unicodedata.combining(each) != 0 for each in text)
