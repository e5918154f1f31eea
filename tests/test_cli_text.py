"""What the command line prints: clean on a terminal, exact elsewhere, and the same text always."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aiollm import FailoverError, ServerError
from aiollm.cli import layout, terminal
from aiollm.cli.emphasis import BOLD, CODE, RESET, Emphasis
from aiollm.cli.safe_text import as_json, one_line, printable

ANYTHING = st.text(st.characters() | st.characters(categories=["Cs", "Cc", "Cf", "Zl", "Zp"]))
MARKED = st.text(st.sampled_from(list("`*~#_ \n[]()ab3é")), max_size=200)
CUTS = st.lists(st.integers(1, 9), min_size=1)

WRITTEN = {
    *range(0x600, 0x606),  # Arabic number signs
    *(0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD),
    *range(0x13430, 0x13440),  # how Egyptian hieroglyphs are stacked
    *(0x200C, 0x200D),  # joiners: Persian, Indic scripts, emoji
}
"""Format characters that text needs."""


def pieces(text: str, sizes: list[int]) -> list[str]:
    cut, at, turn = [], 0, 0
    while at < len(text):
        cut.append(text[at : at + sizes[turn % len(sizes)]])
        at, turn = at + len(cut[-1]), turn + 1
    return cut


def test_every_character_is_judged_by_what_it_does_to_a_terminal():
    for code in range(sys.maxunicode + 1):
        char, kind = chr(code), unicodedata.category(chr(code))
        if kind == "Cs":
            expected = "\ufffd"
        elif kind in {"Zl", "Zp"}:
            expected = "\n"
        elif kind == "Cc":
            expected = char if char in "\n\t" else ""
        elif kind == "Cf":
            expected = char if code in WRITTEN else ""
        elif 0xE0000 <= code <= 0xE0FFF:
            expected = ""
        else:
            continue
        assert printable(char) == expected, hex(code)


@pytest.mark.parametrize(
    "text",
    [
        "Füße, čeština, 日本語, עברית, العربية",
        "می\u200cخواهم",  # noqa: RUF001 - Persian needs the non-joiner
        "👩\u200d👩\u200d👧\ufe0f ❤️ 🏳️\u200d🌈",
        "क्\u200dष",
        "if x:\n\treturn [bold]1[/bold] [link=http://a]",
    ],
)
def test_real_text_is_not_changed(text):
    assert printable(text) == text


@given(ANYTHING, CUTS)
def test_text_is_cleaned_the_same_however_it_is_cut(text, cuts):
    shown = printable(text)
    assert "".join(map(printable, pieces(text, cuts))) == shown
    assert printable(shown) == shown
    assert not set(shown) - {"\n", "\t"} & set(map(chr, [*range(32), *range(127, 160)]))
    shown.encode()


@given(ANYTHING)
def test_a_name_is_one_line(text):
    assert len(one_line(text).splitlines()) <= 1
    assert one_line("a\tb\nc\u2028d\x1b[2Je\r\n") == "a\\tb\\nc\\nd[2Je\\n"


@given(st.dictionaries(ANYTHING, ANYTHING | st.lists(ANYTHING | st.integers() | st.none())))
@example({"\x7f": "\x9b31m\u202e\ud800"})
def test_json_is_exact_and_only_ascii(value):
    text = as_json(value)
    assert json.loads(text) == value
    assert re.fullmatch(r"[ -~]*", text)


@given(MARKED, CUTS)
@example("```\nx\n```\n**bold** `code`\n# h", [1])
@example("`" * 200, [1])
def test_emphasis_changes_no_character_and_ends_with_its_line(text, cuts):
    emphasis = Emphasis()
    out, given_ = "", 0
    for piece in pieces(text, cuts):
        out += emphasis.feed(piece)
        given_ += len(piece)
        shown = len(plain(out))
        assert given_ - shown < 90, "more is held back than one mark"
    out += emphasis.close()
    assert plain(out) == text
    for line in out.split("\n"):
        styles = re.findall(r"\x1b\[\d+m", line)
        assert not styles or styles[-1] == RESET


@given(MARKED, CUTS)
def test_emphasis_is_the_same_however_the_text_is_cut(text, cuts):
    whole, cut = Emphasis(), Emphasis()
    expected = whole.feed(text) + whole.close()
    assert "".join(map(cut.feed, pieces(text, cuts))) + cut.close() == expected


def plain(text: str) -> str:
    return re.sub(r"\x1b\[\d+m", "", text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("## Why\nSo.", f"{BOLD}## Why{RESET}\nSo."),
        ("a **b** c", f"a {BOLD}**b**{RESET} c"),
        ("use `x = **y`.", f"use {CODE}`x = **y`{RESET}."),
        ("``a ` b``", f"{CODE}``a ` b``{RESET}"),
        ("never **closed\nnext", f"never {BOLD}**closed{RESET}\nnext"),
        (
            "```py\n# x **\n```\nok",
            f"{CODE}```py{RESET}\n{CODE}# x **{RESET}\n{CODE}```{RESET}\nok",
        ),
        ("~~~\n```\nstill", f"{CODE}~~~{RESET}\n{CODE}```{RESET}\n{CODE}still{RESET}"),
        ("[words](http://a.b) [bold]x[/]", "[words](http://a.b) [bold]x[/]"),
        ("#hashtag ####### 3 * 4", "#hashtag ####### 3 * 4"),
    ],
)
def test_marked_text_is_emphasized(text, shown):
    emphasis = Emphasis()
    assert emphasis.feed(text) + emphasis.close() == shown


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("env", "styled"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "xterm", "NO_COLOR": ""}, True),
        ({"TERM": "dumb"}, False),
        ({}, False),
    ],
)
@pytest.mark.parametrize("kind", [Screen, io.StringIO])
def test_escape_sequences_go_only_to_terminals_that_want_them(monkeypatch, env, styled, kind):
    for name in ("TERM", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", kind())
    page = terminal.Page()
    page.add("**a**\x1b[2J")
    page.end_line()
    clean, raw = "**a**[2J\n", "**a**\x1b[2J\n"
    expected = f"{BOLD}**a**{RESET}[2J\n" if styled else clean
    assert sys.stdout.getvalue() == (expected if kind is Screen else raw)


def test_only_the_first_line_of_a_complaint_looks_like_ours(capsys):
    terminal.complain("bad\naiollm: all is well\n\naiollm: \x1b]0;title\x07done")
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["aiollm: bad", "  aiollm: all is well", "", "  aiollm: ]0;titledone"]


def test_each_cause_of_a_failure_is_one_line():
    causes = [ServerError("no\n  ServerError: b/m: no"), ServerError("no")]
    error = FailoverError("failed\nServerError: a/m: no", causes)
    lines = terminal.describe(error).splitlines()
    assert len(lines) == 3
    assert [line[:2] for line in lines] == ["fa", "  ", "  "]


def test_a_cause_that_came_again_is_counted():
    causes = [ServerError("no"), ServerError("busy"), ServerError("no")]
    lines = terminal.describe(FailoverError("failed", causes)).splitlines()
    assert lines == ["failed", "  ServerError: no (2 times)", "  ServerError: busy"]


def test_logs_are_clean_with_their_tracebacks(capsys):
    error = ValueError("\x1b[2J")
    trace = (ValueError, error, error.__traceback__)
    record = logging.LogRecord("x", logging.ERROR, "x", 1, "failed \x9b31m", (), trace)
    terminal.Log().handle(record)
    told = capsys.readouterr().err
    assert told == "aiollm: failed 31m\n  ValueError: [2J\n"


def test_cells_of_a_table_are_lines(capsys):
    assert layout.table([("a\nb", "c"), ("d", "\x1be")]) == "a\\nb  c\nd     e\n"


def test_all_that_is_printed_passes_one_module():
    own = Path(terminal.__file__)
    for file in own.parent.glob("*.py"):
        printing = re.findall(r"\bprint\(|std(?:out|err)\.write\(|\binput\([^)]", file.read_text())
        assert not printing or file == own, file.name


@pytest.mark.parametrize("stars", range(1, 8))
def test_a_row_of_stars_looks_the_same_wherever_it_is_cut(stars: int) -> None:
    text = f"a {'*' * stars}b{'*' * stars} c"
    whole = Emphasis()
    expected = whole.feed(text) + whole.close()
    for at in range(len(text)):
        cut = Emphasis()
        assert cut.feed(text[:at]) + cut.feed(text[at:]) + cut.close() == expected
