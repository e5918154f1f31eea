"""Wildcards in the names of hosts and models."""

from __future__ import annotations


def matches(name: str, pattern: str) -> bool:
    """Return whether a name matches a pattern, as `fnmatchcase` does.

    That compiles a regular expression in 0.2 ms, and a first request may ask for 50 patterns.
    """
    if "[" in pattern or "?" in pattern:
        from fnmatch import fnmatchcase  # few patterns have sets of characters

        return fnmatchcase(name, pattern)
    first, *middle = pattern.split("*")
    if not middle:
        return name == pattern
    last = middle.pop()
    at, end = len(first), len(name) - len(last)
    if at > end or not (name.startswith(first) and name.endswith(last)):
        return False
    for part in middle:
        found = name.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True
