"""Tables: columns where the terminal is wide enough, and a block for each row where it is not."""

from __future__ import annotations

import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Sequence

from aiollm.cli.safe_text import one_line

_GAP = "  "
_LEAST = 28
"""Columns in which a last column of sentences can be read."""


def table(rows: Sequence[tuple[str, ...]], *, head: tuple[str, ...] = ()) -> str:
    """Return rows in aligned columns, below a head; each cell is one line.

    On a terminal that is too narrow the last column has several lines, or each row is a block.
    Files and pipes have a line for each row.
    """
    cells = [tuple(map(one_line, row)) for row in rows]
    shown = [head, *cells] if head else cells
    lines, width = _columns(shown), _columns_of_terminal()
    if width and any(_width(line) > width for line in lines):
        before = _columns([row[:-1] for row in shown], padded=True)
        left = width - _width(before[0] + _GAP)
        if left >= _LEAST:
            last = (row[-1] for row in shown)
            lines = [_beside(*each, left) for each in zip(before, last, strict=True)]
        else:
            lines = [line for row in cells for line in _block(row, head, width)]
    return "".join(f"{line}\n" for line in lines)


def wrapped(text: str) -> str:
    """Return a sentence in lines that fit the terminal; links and names stay in one piece."""
    width = _columns_of_terminal()
    return f"{_filled(text, width) if width else text}\n"


def _columns(rows: Sequence[tuple[str, ...]], *, padded: bool = False) -> list[str]:
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    lines = [
        _GAP.join(
            cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)
        )
        for row in rows
    ]
    return lines if padded else [line.rstrip() for line in lines]


def _beside(before: str, text: str, width: int) -> str:
    first, *others = _filled(text, width).split("\n") if text else [""]
    indent = " " * _width(before + _GAP)
    return "\n".join([(before + _GAP + first).rstrip(), *(indent + line for line in others)])


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
    """Return how many columns a line may have, 0 where output is not a terminal."""
    return max(20, shutil.get_terminal_size().columns) if sys.stdout.isatty() else 0


def _width(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(each) in "WF" for each in text)
    return len(text) + wide - sum(unicodedata.combining(each) != 0 for each in text)
