"""Prices: what is checked, which of several counts, and what the list of genai-prices says."""

from __future__ import annotations

import math
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiollm import ConfigError, Price, Registry, Target, Usage
from aiollm.prices import listed
from aiollm.prices.book import MOST, PriceBook
from aiollm.testing import FakeProvider

OPENAI = "https://api.openai.com/v1"
ANTHROPIC = "https://api.anthropic.com/v1"


@pytest.mark.parametrize("value", [-1, -1e-9, math.nan, math.inf, "2", True, None])
@pytest.mark.parametrize("name", ["input", "output", "image"])
def test_a_price_that_is_no_amount_is_a_config_error(name, value):
    with pytest.raises(ConfigError, match=rf"Price\.{name}"):
        Price(**{"input": 1, "output": 2, name: value})


@pytest.mark.parametrize(
    "fields",
    [
        {"cached": -1},
        {"above": {"200k": Price(1, 2)}},
        {"above": {200_000: 4}},
        {"tiers": {"flex": 0.5}},
        {"tiers": [("flex", Price(1, 2))]},
    ],
)
def test_a_price_of_another_form_is_a_config_error(fields):
    with pytest.raises(ConfigError, match=r"Price\."):
        Price(1, 2, **fields)


def test_what_has_no_price_of_its_own_costs_as_its_kind():
    counts = {name: 10 for name in Usage.__struct_fields__ if name.endswith("_tokens")}
    usage = Usage(**counts | {"input_tokens": 100, "output_tokens": 50})
    assert Price(2, 10).usd(usage) == pytest.approx((200 + 500) / 1e6)
    # Of ten tokens written, ten are kept for an hour.
    assert Price(2, 10, cache_write=3).usd(usage) == pytest.approx((180 + 30 + 500) / 1e6)


@pytest.mark.parametrize("name", [n for n in Usage.__struct_fields__ if n.endswith("_tokens")])
@pytest.mark.parametrize("count", [-5, 10**30, 10**400])
def test_counts_from_elsewhere_never_make_a_cost_negative(name, count):
    usage = Usage(**{"input_tokens": 5, "output_tokens": 5, name: count})
    assert Price(2, 10, cached=1, image=1).usd(usage) >= 0


COUNTS = st.integers(-2, 2000)


@settings(max_examples=200)
@given(COUNTS, COUNTS, COUNTS)
def test_the_short_way_for_most_answers_costs_the_same(given_, made, cached):
    price = Price(2, 10, cached=0.2)
    usage = Usage(given_, made, cached_tokens=cached)
    assert price.usd(usage) == pytest.approx(price._tokens(usage) / 1e6)


@pytest.mark.parametrize(
    "usage",
    [
        Usage(1000, 100),
        Usage(1000, 100, cached_tokens=1000),
        Usage(1000, 100, cache_write_tokens=1000, cache_write_1h_tokens=1000),
        Usage(1000, 100, input_audio_tokens=1000, output_image_tokens=100),
        Usage(1000, 100, tier="fast"),
    ],
)
def test_no_answer_costs_more_than_the_most(usage):
    price = Price(
        2,
        10,
        cached=1,
        cache_write=2.5,
        cache_write_1h=4,
        input_audio=3,
        output_image=40,
        above={500: Price(4, 20), 5000: Price(1000, 1000)},
        tiers={"fast": Price(6, 30, above={999: Price(12, 60)})},
    )
    assert price.usd(usage) <= price.max_usd(1000, 100) < 1


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("box/a", 1),
        ("box/b", 2),
        ("box/big-7b", 3),
        ("box/big", 2),
        ("other/a", 4),
        ("other/c", 5),
    ],
)
def test_the_most_exact_pattern_counts_in_whatever_order(target, expected):
    rows = {"*": 5, "box/*": 2, "box/a": 1, "box/big-*": 3, "*/a": 4}
    for order in (list(rows), list(reversed(rows))):
        book = PriceBook({pattern: Price(rows[pattern], 0) for pattern in order})
        provider, _, model = target.partition("/")
        assert book.price(Target(provider, model), "").input == expected


def test_names_are_no_patterns_beyond_the_star():
    book = PriceBook({"box/a.b[1]?": Price(1, 1)})
    assert book.price(Target("box", "a.b[1]?"), "") == Price(1, 1)
    assert book.price(Target("box", "axb1"), "") is None


@pytest.mark.parametrize(
    "prices",
    [
        {"box": Price(1, 2)},
        {"box/*": 2.0},
        {"box/*": (1, 2)},
        {5: Price(1, 2)},
        [Price(1, 2)],
        "box/*",
        5,
        None,
    ],
)
def test_prices_of_another_form_are_a_config_error(prices):
    with pytest.raises(ConfigError, match="prices"):
        Registry(env={}, prices=prices)


def test_a_service_that_is_asked_for_any_name_remembers_a_bounded_number():
    book = PriceBook({"*": Price(1, 2)})
    for number in range(MOST + 10):
        book.price(Target("box", str(number)), "")
    assert len(book._known) <= MOST


def test_the_list_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    monkeypatch.setattr(listed.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'aiollm-client\[prices\]'"):
        Registry(env={}, prices=True)


async def test_a_list_that_cannot_be_loaded_is_a_config_error(monkeypatch):
    monkeypatch.setattr(listed.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    async with Registry(env={}, prices=True) as reg:
        reg.register("fake", FakeProvider().provider())
        with pytest.raises(ConfigError, match="genai-prices cannot be loaded"):
            await reg.generate("fake/m", "hi")


class TestTheList:
    """What genai-prices knows, as prices."""

    @pytest.fixture
    async def book(self):
        pytest.importorskip("genai_prices")
        book = PriceBook({"*": True, "openai/mine": Price(1, 2), "openai/none": False})
        assert not book.is_loaded
        assert book.price(Target("openai", "gpt-5.2"), OPENAI) is None
        await book.load()
        return book

    async def test_it_knows_services_by_their_address(self, book):
        price = book.price(Target("whatever", "gpt-5.2"), OPENAI)
        assert (price.input, price.output, price.cached) == (1.75, 14, 0.175)
        assert price.tiers["flex"].input == 0.875
        assert price.tiers["priority"].output == 28
        for url in ("http://127.0.0.1:8080/v1", "fake://openai"):
            assert book.price(Target("openai", "gpt-5.2"), url) is None
        assert book.price(Target("openai", "no-such-model"), OPENAI) is None

    async def test_long_requests_and_caches_have_prices_of_their_own(self, book):
        price = book.price(Target("anthropic", "claude-sonnet-4-5"), ANTHROPIC)
        assert (price.cached, price.cache_write, price.cache_write_1h) == (0.3, 3.75, 6)
        assert price.above[200_000].input == 6
        assert price.tiers["batch"].above[200_000].output == 11.25

    async def test_given_prices_go_together_with_it(self, book):
        assert book.price(Target("openai", "mine"), OPENAI) == Price(1, 2)
        assert book.price(Target("openai", "none"), OPENAI) is None

    @pytest.mark.parametrize(
        "usage",
        [
            {"input_tokens": 1000, "output_tokens": 100},
            {"input_tokens": 1000, "cache_read_tokens": 400, "output_tokens": 100},
            {"input_tokens": 250_000, "cache_write_tokens": 1000, "output_tokens": 100},
        ],
    )
    @pytest.mark.parametrize(
        ("model", "url"),
        [
            ("gpt-5.2", OPENAI),
            ("claude-sonnet-4-5", ANTHROPIC),
            ("gemini-2.5-pro", "https://generativelanguage.googleapis.com/v1beta"),
            ("deepseek-chat", "https://api.deepseek.com"),
            ("anthropic/claude-sonnet-4.5", "https://openrouter.ai/api/v1"),
        ],
    )
    async def test_a_cost_is_what_it_calculates(self, book, model, url, usage):
        import genai_prices

        names = {"cache_read_tokens": "cached_tokens"}
        ours = Usage(**{names.get(name, name): count for name, count in usage.items()})
        theirs = genai_prices.calc_price(
            genai_prices.Usage(**usage), model, provider_api_url=url
        ).total_price
        price = book.price(Target("p", model), url)
        assert price.usd(ours) == pytest.approx(float(theirs))

    async def test_a_registry_loads_it_before_its_first_call(self, book):
        assert book.is_loaded
        async with Registry(env={}, prices=True) as reg:
            fake = FakeProvider(default="Hello").provider(base_url=OPENAI)
            reg.register("fake", fake)
            await reg.preload()
            assert (await reg.generate("fake/gpt-5.2", "hi")).cost.usd is None  # no counts
