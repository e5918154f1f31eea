"""Emphasis for Markdown while it arrives: the text stays as it is, and only its look changes.

Nothing is ever drawn again, so an answer may be longer than the screen, and the window may change.
Links keep the form `[words](address)`: nobody is sent to an address that is not seen.
"""

from __future__ import annotations

import re

BOLD, CODE, RESET = "\x1b[1m", "\x1b[36m", "\x1b[0m"

_PIECE = re.compile(r"[^\n]*\n|[^\n]+")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_HEADING = re.compile(r" {0,3}#{1,6} ")
_UNDECIDED = re.compile(r" {0,3}(?:`{0,79}|~{0,79}|#{0,6})")
"""The beginning of a line that may still become a fence or a heading."""

_MARK = re.compile(r"(`+|\*\*)")
_CUT_MARK = re.compile(r"(?:(?<!`)(`{1,79})|(?<!\*)(?:\*\*)*(\*))\Z")
"""The end of a piece, where a mark may be cut: backticks, or the star that has no other."""


class Emphasis:
    """Adds escape sequences to text without control characters, piece by piece.

    Bold and code end with their line at the latest, so a mark without a partner does little.
    """

    def __init__(self) -> None:
        self._held = ""
        self._at_start = True
        self._fence = ""
        self._span = ""
        self._line = ""

    def feed(self, text: str) -> str:
        """Return what can be shown now; at most the characters of one mark are held back."""
        text, self._held = self._held + text, ""
        return "".join(map(self._piece, _PIECE.findall(text)))

    def close(self) -> str:
        """Return what is held back, and end all emphasis."""
        rest, self._held = self._held, ""
        return rest + (RESET if self._line or self._span else "")

    def _piece(self, piece: str) -> str:
        """Take a line, or a part of one that has not ended yet."""
        out = ""
        if self._at_start:
            if _UNDECIDED.fullmatch(piece):
                self._held = piece
                return ""
            self._at_start = False
            out = self._line = self._look(piece)
        if not piece.endswith("\n"):
            return out + (piece if self._line else self._spans(piece))
        body = piece[:-1]
        out += body if self._line else self._spans(body, ended=True)
        out += RESET if self._line or self._span else ""
        self._at_start, self._line, self._span = True, "", ""
        return out + "\n"

    def _look(self, line: str) -> str:
        """Return the look of a line that begins so, "" for a line of words."""
        fence = _FENCE.match(line)
        if self._fence:
            if fence and fence[1].startswith(self._fence):
                self._fence = ""
            return CODE
        if fence:
            self._fence = fence[1]
            return CODE
        return BOLD if _HEADING.match(line) else ""

    def _spans(self, text: str, *, ended: bool = False) -> str:
        if not ended and (cut := _CUT_MARK.search(text)):
            at = cut.start(cut.lastindex or 0)
            self._held, text = text[at:], text[:at]
        parts = _MARK.split(text)
        parts[1::2] = map(self._marked, parts[1::2])
        return "".join(parts)

    def _marked(self, mark: str) -> str:
        if not self._span:
            self._span = mark
            return (BOLD if mark == "**" else CODE) + mark
        if mark != self._span:
            return mark
        self._span = ""
        return mark + RESET
