"""Numbers and durations in headers: what is none gives None, none is negative or endless."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiollm._wire.durations import duration, number


class TestNumber:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("0", 0.0), ("60", 60.0), ("7.66", 7.66), (" 5 ", 5.0), ("1e3", 1000.0),
            ("", None), ("-1", None), ("nan", None), ("inf", None), ("9" * 400, None),
            ("1_000", None), ("30,000", None), ("\u0665", None), ("5s", None), ("0x10", None),
        ],
    )  # fmt: skip
    def test_is_read(self, text, value) -> None:
        assert number(text) == value

    @given(text=st.text("0123456789.eE+-_ naif") | st.text() | st.floats().map(str))
    def test_is_never_negative_nor_endless(self, text) -> None:
        value = number(text)
        assert value is None or 0 <= value < math.inf


class TestDuration:
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("0s", 0.0), ("38s", 38.0), ("38.281s", 38.281), ("340ms", 0.34), ("6m0s", 360.0),
            ("1h2m3.5s", 3723.5), ("12ms", 0.012), ("1.5h", 5400.0),
            ("", None), ("s", None), ("5", None), ("5 s", None), ("-5s", None), ("5s ", None),
            ("5d", None), ("1.s", None), ("5sx", None), ("x5s", None), ("nan", None),
            ("\u0665s", None), ("9" * 400 + "s", None), ("9" * 308 + "h", None),
        ],
    )  # fmt: skip
    def test_is_read(self, text, seconds) -> None:
        assert duration(text) == (None if seconds is None else pytest.approx(seconds))

    def test_a_row_of_digits_is_not_tried_from_each_of_them(self) -> None:
        assert duration("9" * 1_000_000) is None  # it would take hours

    @given(text=st.text("0123456789.hms") | st.text())
    def test_is_never_negative_nor_endless(self, text) -> None:
        seconds = duration(text)
        assert seconds is None or 0 <= seconds < math.inf
