"""Limits: what may be declared, where, and which declaration wins."""

from __future__ import annotations

import math

import msgspec
import pytest

from aiollm import Limits
from aiollm.dsn import DsnOptions, parse_dsn
from aiollm.errors import ConfigError
from aiollm.provider import Provider
from aiollm.providers.openai.chat_codec import ChatCodec

RATES = ("rpm", "tpm", "itpm", "otpm")
NUMBER = "expected a number from 0.001 to 1e9"
COUNT = "expected an integer from 1 to 1e9, 'auto' or 'off'"


def provider(**settings) -> Provider:
    return Provider("box", "openai", "https://box/v1", ChatCodec(), **settings)


@pytest.mark.parametrize("name", RATES)
@pytest.mark.parametrize("value", [60, 0.5, 1e-3, 1e9])
def test_a_rate_is_any_number_above_0(name, value) -> None:
    limits = Limits(**{name: value})
    assert getattr(limits, name) == value
    assert limits == parse_dsn(f"openai://h?{name}={value}").options.limits


@pytest.mark.parametrize("name", RATES)
@pytest.mark.parametrize(
    "value", [0, -1, -0.0, math.nan, math.inf, -math.inf, True, "60", [60], 10**400], ids=repr
)
def test_no_rate_is_anything_else(name, value) -> None:
    for kind in (Limits, DsnOptions):
        with pytest.raises(ConfigError) as caught:
            kind(**{name: value})
        assert str(caught.value) == f"{name} is {value!r:.80}: {NUMBER}"


@pytest.mark.parametrize("value", [1, 1000, "auto", "off"])
def test_the_streams_at_a_time_are_a_number_or_a_word(value) -> None:
    assert Limits(max_concurrency=value).max_concurrency == value
    options = parse_dsn(f"openai://h?max_concurrency={value}").options
    assert options == DsnOptions(max_concurrency=value)
    assert provider(options=options).max_concurrency == value


@pytest.mark.parametrize("value", [0, -1, 2.0, math.nan, True, "many", "4", ["auto"]], ids=repr)
def test_the_streams_at_a_time_are_nothing_else(value) -> None:
    with pytest.raises(ConfigError) as caught:
        Limits(max_concurrency=value)
    assert str(caught.value) == f"max_concurrency is {value!r}: {COUNT}"


def test_a_change_is_checked_too() -> None:
    with pytest.raises(ConfigError, match="rpm is -1"):
        msgspec.structs.replace(Limits(rpm=1), rpm=-1)


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        *((f"{name}={text}", f"option {name!r}: {NUMBER}")
          for name in RATES
          for text in ("", "0", "-1", "nan", "inf", "-inf", "true", "null", "many", "1e400")),
        *((f"max_concurrency={text}", f"option 'max_concurrency': {COUNT}")
          for text in ("", "0", "-1", "1.5", "true", "null", "Auto", "many", "9" * 5000)),
        *((f"wait={text}", "option 'wait': expected a number from 0 to 1e9")
          for text in ("", "-1", "nan", "inf", "true", "null", "soon")),
    ],
)  # fmt: skip
def test_an_option_that_is_not_allowed_says_what_is(query, reason) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_dsn(f"openai://h?{query}", "LLM_BOX")
    assert str(caught.value) == f"LLM_BOX: {reason}"


def test_what_is_not_allowed_is_not_shown_for_it_may_be_a_key() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_dsn("openai://h?max_concurrency=hunter22", "LLM_BOX")
    error: BaseException | None = caught.value
    while error is not None:
        assert "hunter22" not in f"{error!r} {error}"
        error = error.__context__


@pytest.mark.parametrize("seconds", [0, 0.5, 60])
def test_a_chain_may_wait_any_time(seconds) -> None:
    assert parse_dsn(f"openai://h?wait={seconds}").options.wait == seconds


def test_without_options_nothing_is_limited() -> None:
    assert provider().limits_of("m") == (Limits(), Limits())
    assert provider().max_concurrency is None


def test_limits_in_code_win_over_options_one_by_one() -> None:
    row = provider(
        options=DsnOptions(rpm=60, tpm=1000, max_concurrency=4),
        limits={"*": Limits(rpm=10, max_concurrency="auto"), "m": Limits(otpm=5)},
    )
    own = Limits(rpm=10, tpm=1000, max_concurrency="auto")
    assert row.limits_of("m") == (own, Limits(otpm=5))
    assert row.limits_of("n") == (own, Limits())
    assert row.max_concurrency == "auto"


def test_limits_that_say_nothing_of_streams_leave_the_option() -> None:
    row = provider(options=DsnOptions(max_concurrency=4), limits={"*": Limits(rpm=10)})
    assert row.max_concurrency == 4
