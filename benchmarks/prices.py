"""Microseconds to look up a price and to calculate a cost, beside genai-prices itself.

Needs the extra `prices`. The minima of several rounds count. Usage: python benchmarks/prices.py
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import genai_prices

from aiollm import Target, Usage
from aiollm.prices.book import PriceBook

URL = "https://api.openai.com/v1"
MODEL = "gpt-5.2"
TARGET = Target("openai", MODEL)
USAGES = {
    "plain": Usage(1000, 100, certainty="exact"),
    "cached, flex": Usage(1000, 100, 400, certainty="exact", tier="flex"),
    "written to a cache": Usage(1000, 100, 400, certainty="exact", cache_write_tokens=300),
}


def microseconds(run: Callable[[], object], rounds: int = 7, times: int = 5000) -> float:
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(times):
            run()
        found.append((time.perf_counter() - began) / times * 1e6)
    return min(found)


def price_of(book: PriceBook):
    price = book.price(TARGET, URL)
    assert price is not None
    return price


async def main() -> None:
    book = PriceBook({"*": True})
    began = time.perf_counter()
    await book.load()
    print(f"{'loading the list':30} {(time.perf_counter() - began) * 1e3:8.0f} ms")
    began = time.perf_counter()
    price_of(book)
    print(f"{'the first look-up of a model':30} {(time.perf_counter() - began) * 1e6:8.0f} us")
    print(f"{'a further one':30} {microseconds(lambda: price_of(book)):8.2f} us")
    for name, usage in USAGES.items():
        cost = microseconds(lambda usage=usage: price_of(book).usd(usage))
        print(f"{f'with the cost: {name}':30} {cost:8.2f} us")
    theirs = genai_prices.Usage(input_tokens=1000, output_tokens=100)

    def calculate() -> object:
        return genai_prices.calc_price(theirs, MODEL, provider_api_url=URL)

    print(f"{'genai_prices.calc_price':30} {microseconds(calculate, times=200):8.2f} us")


if __name__ == "__main__":
    asyncio.run(main())
