"""Limits in the headers of answers: read in every dialect, believed where they make sense."""

import json
import math
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiollm._wire.quota import DAY, MOST, Quota, announces_limits, quotas

CASES = json.loads(Path(__file__).with_name("quota_headers.json").read_bytes())
NOW = 1_800_000_000.0
HOSTS = ["", "api.openai.com", "api.anthropic.com", "api.groq.com", "openrouter.ai", "x:80"]
NAMES = sorted({name for case in CASES for name in case["headers"]})
LIES = ["", "-1", "0", "nan", "inf", "-inf", "1e400", "9" * 5000, "1e-320", "\u0665", "٣s", "5s",
        "-5s", "8760000h", "9" * 400 + "h", "1_0", "30,000", "10;w=0", "10;w=" + "9" * 50, ";w=",
        "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59", "2027-02-30T00:00:00Z", "1e300",
        "1800000000", "99999999999999999", "null", "[]", "5 s", "\x00", "\udc80"]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_each_dialect_is_read(case):
    got = quotas(case["headers"], case["host"], unix_time=case["unix_time"])
    assert got == tuple(Quota(*each) for each in case["quotas"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_what_a_known_host_says_is_read_on_an_unknown_one_or_left_alone(case):
    """A gateway passes on what its providers say."""
    kinds = {each[0] for each in case["quotas"]}
    assert {each.kind for each in quotas(case["headers"], "gateway", unix_time=NOW)} <= kinds


def limited(limit, remaining="0", reset="1s", host="x"):
    headers = {
        "x-ratelimit-limit-tokens": limit,
        "x-ratelimit-remaining-tokens": remaining,
        "x-ratelimit-reset-tokens": reset,
    }
    return quotas(headers, host, unix_time=NOW)


@pytest.mark.parametrize("limit", ["", "-1", "0", "nan", "inf", "1e400", "2e12", "\u0665", "many"])
def test_a_limit_that_cannot_be_is_ignored(limit):
    assert limited(limit) == ()


@pytest.mark.parametrize(
    ("remaining", "is_read_as"),
    [("5", 5), ("0", 0), ("1001", 1000), ("-1", None), ("nan", None), ("", None), ("\u0665", None)],
)
def test_what_remains_is_never_more_than_the_limit(remaining, is_read_as):
    assert limited("1000", remaining) == (Quota("tokens", 1000, is_read_as, 1),)


@pytest.mark.parametrize(
    ("reset", "is_read_as"),
    [
        ("5", 5), ("0.5", 0.5), ("1m0s", 60), ("0s", 0), ("-3", None), ("soon", None), ("", None),
        ("8760h", DAY), ("999999999", DAY), ("1800000030", 30), ("1800000030000", 30),
        ("1799999970", 0), ("1800099999", 60), ("2027-01-15T08:00:07Z", 7),
        ("2027-01-15T10:00:07+02:00", 7), ("2027-01-15T08:00:07", 7),
        ("2027-01-15T08:00:00.5Z", 0.5),
        ("2026-01-15T08:00:07Z", 0), ("2037-01-15T08:00:07Z", 60), ("20270115", DAY),
        ("0001-01-01T00:00:00+23:59", 0), ("9999-12-31T23:59:59-23:59", 60),
    ],
)  # fmt: skip
def test_a_reset_is_a_time_from_now_and_at_most_a_day(reset, is_read_as):
    assert limited("1000", reset=reset) == (Quota("tokens", 1000, 0, is_read_as),)


def test_a_moment_without_a_zone_is_not_the_time_of_this_machine(monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert limited("1000", reset="2027-01-15T08:00:07") == (Quota("tokens", 1000, 0, 7),)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_moment_is_compared_with_the_clock():
    (quota,) = quotas(
        {"x-ratelimit-limit": "50", "x-ratelimit-reset": "1800000000"}, "openrouter.ai"
    )
    assert 0 <= quota.full_in <= DAY


@pytest.mark.parametrize(
    ("limit", "per_minute"),
    [
        ("10", 10), ("10;w=1", 600), ("10, 10;w=1", 600), ("10, 100;w=60, 10;w=2", 300),
        ("10, 100;w=1", 10), ("10;w=0", 10), ("10;w=3600", 10),
        ("10 ; w=1", 600), ("10;w=9999999", 10),
    ],
)  # fmt: skip
def test_a_window_may_be_named(limit, per_minute):
    assert quotas({"ratelimit-limit": limit}, "x")[0].per_minute == per_minute


def test_a_row_of_digits_is_no_limit_and_is_not_tried_from_each_of_them():
    assert quotas({"ratelimit-limit": "9" * 1_000_000}, "x") == ()  # it would take hours


@given(
    headers=st.dictionaries(
        st.sampled_from(NAMES),
        st.sampled_from(LIES)
        | st.text(max_size=30)
        | st.floats().map(str)
        | st.integers().map(str),
    ),
    host=st.sampled_from(HOSTS),
)
def test_no_lie_raises_or_stalls(headers, host):
    got = quotas(headers, host, unix_time=NOW)
    assert len({each.kind for each in got}) == len(got)
    for each in got:
        assert 0 < each.per_minute <= MOST * 60
        assert each.remaining is None or 0 <= each.remaining <= MOST
        assert each.full_in is None or 0 <= each.full_in <= DAY
        assert not math.isnan(each.per_minute)


@given(
    limit=st.integers(1, 10**9),
    used=st.integers(0, 10**9),
    seconds=st.floats(0, DAY),
)
def test_what_is_true_is_read_as_it_is(limit, used, seconds):
    remaining = max(0, limit - used)
    got = limited(str(limit), str(remaining), f"{seconds:.3f}s")
    assert got == (Quota("tokens", limit, remaining, pytest.approx(seconds, abs=0.001)),)


@pytest.mark.parametrize(
    ("host", "announces"),
    [
        ("api.openai.com", True), ("eu.api.openai.com:443", True), ("api.anthropic.com", True),
        ("my.openai.azure.com", True), ("api.groq.com", True), ("api.mistral.ai", True),
        ("api.cerebras.ai", True), ("openrouter.ai", False), ("api.deepseek.com", False),
        ("generativelanguage.googleapis.com", False), ("localhost:11434", False),
        ("[::1]:8080", False), ("", False), ("api.openai.com.evil.example", False),
    ],
)  # fmt: skip
def test_who_announces_limits_is_known(host, announces):
    assert announces_limits(host) is announces
