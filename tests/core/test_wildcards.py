"""Wildcards match as the standard library's do, without its regular expressions."""

from __future__ import annotations

from fnmatch import fnmatchcase

from hypothesis import example, given
from hypothesis import strategies as st

from aiollm._settings.wildcards import matches


@given(st.text("ab\n[]!?-", max_size=8), st.text("ab\n*[]!?-", max_size=8))
@example("a", "a*a")
@example("aba", "a*b*a")
@example("ab", "*ab*b")
@example("claude-opus-4-5-20251101", "claude-*-4-5*")
@example("Qwen2.5-VL-7B", "*[Qq]wen*[Vv][Ll]*")
@example("", "*")
def test_a_pattern_matches_what_fnmatch_says(name: str, pattern: str) -> None:
    assert matches(name, pattern) == fnmatchcase(name, pattern)
