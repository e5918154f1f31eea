"""Keys in every form in which servers write them, and a search of all that an error shows."""

from __future__ import annotations

import base64
import copy
import json
import pickle
import sys
import traceback
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

KEY = "sk-proj-Ab3/Xy+9_Qw7RtZ0mNvK4pLsJ2hGfD8cE5iU1oYbTzW6"


def _each(template: str) -> str:
    return "".join(template.format(ord(char)) for char in KEY)


def _base64(before: str, after: str = "") -> str:
    return base64.b64encode(f"{before}{KEY}{after}".encode()).decode()


FORMS = {
    "as it is": KEY,
    "percent-encoded": quote(KEY, safe=""),
    "percent-encoded in lower case": quote(KEY, safe="").lower(),
    "percent-encoded in part": "".join(c if i % 3 else f"%{ord(c):02x}" for i, c in enumerate(KEY)),
    "percent-encoded twice": quote(quote(KEY, safe=""), safe=""),
    "JSON with an escaped slash": KEY.replace("/", r"\/"),
    "JSON with an escaped code": KEY.replace("/", r"\u002f").replace("+", r"\u002B"),
    "JSON escaped throughout": _each(r"\u{:04X}"),
    "JSON within JSON": json.dumps(_each(r"\u{:04x}"))[1:-1],
    "base64": _base64(""),
    "base64 one byte later": _base64("x", "yy"),
    "base64 two bytes later, for URLs": _base64("xy").replace("+", "-").replace("/", "_"),
    "Basic": f"Basic {_base64('user:')}",
    "base64 with escaped slashes": _base64("").replace("/", r"\/"),
    "HTML by decimal codes": _each("&#{};"),
    "HTML by hexadecimal codes": _each("&#x{:X};"),
    "HTML by names": KEY.replace("/", "&sol;").replace("+", "&plus;").replace("_", "&lowbar;"),
    "hexadecimal": KEY.encode().hex(),
    "hexadecimal in upper case": KEY.encode().hex().upper(),
    "upper case": KEY.upper(),
    "its beginning": KEY[:14],
    "its end": KEY[-14:],
    "broken by zero-width spaces": "\u200b".join(KEY),
    "broken by escaped line ends": f"{KEY[:20]}\\n{KEY[20:]}",
    "broken by lines": f"{KEY[:20]}\n{KEY[20:]}",
}
"""The key as a server may write it, all of it within a JSON string but the last."""


def windows(text: str, size: int) -> set[str]:
    """Return all parts of a text of that size."""
    return {text[at : at + size] for at in range(max(1, len(text) - size + 1))}


SHORT = 12

TRACES: dict[str, dict[str, str]] = {}
"""What must not be left of each form: any part with twelve characters of the key; by the first
characters of each part, so that a long text is searched for all of them at once."""

for name, form in FORMS.items():
    plain = form.removeprefix("Basic dXNlcjp").encode("ascii", "backslashreplace").decode()
    plain = plain.replace("\\\\", "\\")
    for part in windows(plain, max(SHORT, SHORT * len(plain) // len(KEY))):
        TRACES.setdefault(part[:SHORT], {})[part] = name


def leaks(shown: str) -> list[str]:
    """Return the forms of which something is in a text."""
    plain = shown if shown.isascii() else shown.encode("ascii", "backslashreplace").decode()
    while "\\\\" in plain:  # a repr within a repr
        plain = plain.replace("\\\\", "\\")
    lines = set(plain.splitlines())  # tracebacks say everything more than once
    starts = {line[at : at + SHORT] for line in lines for at in range(len(line))} & TRACES.keys()
    return [name for start in starts for part, name in TRACES[start].items() if part in plain]


def _packed(size: int = 850) -> list[str]:
    """Return all forms, as many to a text as a message shows."""
    texts = [""]
    for form in FORMS.values():
        if len(texts[-1]) + len(form) > size:
            texts.append("")
        texts[-1] += f"{form} | "
    return texts


def shown_by(error: BaseException) -> str:
    """Return all that programs and tools show of an error."""
    texts = [str(error), repr(error), repr(vars(error)), repr(copy.copy(error)), _pickled(error)]
    report = traceback.TracebackException.from_exception(error, capture_locals=True)
    texts += report.format()
    for each in _all(error):
        texts += [repr(each), repr(vars(each)), repr(getattr(each, "__notes__", ""))]
        for frame, _ in traceback.walk_tb(each.__traceback__):
            texts += map(repr, frame.f_locals.values())
    return "\n".join(texts)


def _pickled(value: object) -> str:
    return pickle.dumps(value).decode("latin-1")


def _all(error: BaseException) -> Iterator[BaseException]:
    left: list[Any] = [error]
    while left:
        if (each := left.pop()) is not None:
            yield each
            left += [each.__cause__, each.__context__, *getattr(each, "exceptions", ())]


async def caught(work: Any) -> BaseException:
    """Return the error of some work; its traceback begins here, where no variable has a key."""
    try:
        await work
    except BaseException as error:  # noqa: BLE001 - a cancellation shows variables, too
        return error
    raise AssertionError("it did not fail")


@pytest.fixture
def key() -> str:
    return KEY


@pytest.fixture
def forms() -> list[str]:
    """Texts that together hold the key in all forms."""
    return _packed()


@pytest.fixture
def find_leaks():
    return leaks


@pytest.fixture
def shown():
    return shown_by


@pytest.fixture
def failure():
    return caught


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes a `form` with each of them."""
    if "form" in metafunc.fixturenames:
        metafunc.parametrize("form", FORMS.values(), ids=FORMS)


@pytest.fixture
def work():
    """Count the lines of Python that a function runs."""

    def count(run: Any) -> int:
        lines = 0

        def trace(_frame: Any, event: str, _argument: Any) -> Any:
            nonlocal lines
            lines += event == "line"
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            run()
        finally:
            sys.settrace(before)
        return lines

    return count
