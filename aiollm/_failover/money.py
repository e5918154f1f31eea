"""Money: what a call may cost at most, what its attempts did cost, and its part of a budget."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from aiollm._failover.estimate import PAGE, TOKEN, size_of
from aiollm._failover.openers import TargetOpener
from aiollm._failover.sharing import Purse
from aiollm._wire.conversations import total
from aiollm._wire.lenient import encode
from aiollm.capabilities import Capabilities
from aiollm.errors import BudgetError
from aiollm.images import ImageRequest
from aiollm.prices import Budget, Price, Reservation
from aiollm.prices.book import PriceBook
from aiollm.spec import Plan, Step
from aiollm.types import (
    DocumentPart,
    Message,
    OpaquePart,
    Part,
    ReasoningPart,
    Request,
    Response,
    Target,
    Usage,
)

if TYPE_CHECKING:
    from aiollm._failover.estimate import AnyRequest

MOST_OUTPUT = 128_000
"""Tokens that a model writes at most where nothing says it: the most that OpenAI, Anthropic and
Google allow (their pages, November 2026)."""

LEAST_OUTPUT = 16
"""Tokens below which OpenAI's Responses take no limit: lower ones are raised."""

MOST_PAGES = 100
"""Pages of a document that the server fetches: the most that Anthropic takes (its pages)."""

MOST_IMAGE = 10_000
"""Tokens of one image at most: 1536 x 1024 of high quality takes 6,240 (OpenAI's pages)."""


class Money:
    """The prices of a call's targets, and what its budget has set aside for it."""

    __slots__ = ("_book", "_budget", "_most", "_opener", "_plan", "_purse", "_reserved")

    def __init__(
        self,
        book: PriceBook,
        budget: Budget | None,
        plan: Plan,
        opener: TargetOpener,
        purse: Purse | None = None,
    ) -> None:
        self._book = book
        self._budget = budget
        self._plan = plan
        self._opener = opener
        self._purse = purse
        self._most: float | None = None
        self._reserved: Reservation | None = None

    async def load(self) -> None:
        """Load the prices, where that has not been done. Raises: ConfigError."""
        if not self._book.is_loaded:
            await self._book.load()

    def is_ready(self) -> bool:
        """Return whether an attempt can start now. Raises: BudgetError for an unknown price."""
        if not self._book.is_loaded:
            return False
        if self._budget is None:
            return True
        most = self._most_of_plan()
        return self._reserved is not None and self._reserved.top_up(most)

    async def reserve(self, seconds: float) -> None:
        """Set aside what the next attempts may cost, after at most so many seconds.

        Raises: BudgetError where that does not fit, ConfigError of a fleet.
        """
        if self._budget is None:
            return
        if self._purse is not None and self._budget.name:
            if not self._purse.is_open:
                await self._purse.open()
            self._purse.share(self._budget)
        # Two calls that each kept a part while they wait for more could wait for each other.
        self.release()
        self._reserved = await self._budget.reserve(self._most_of_plan(), patience=seconds)

    def release(self) -> None:
        """Give back what is still set aside; idempotent."""
        if self._reserved is not None:
            self._reserved.release()

    @property
    def is_loaded(self) -> bool:
        """Whether prices can be looked up."""
        return self._book.is_loaded

    def counts_images(self, target: Target) -> bool:
        """Return whether the images of a target have a price of their own."""
        price = self.price(target)
        return price is not None and price.image > 0

    def price(self, target: Target) -> Price | None:
        """Return the price of a target, None where it is not known."""
        return self._book.price(target, self._opener.providers[target].base_url)

    def answered(self, target: Target, usage: Usage, images: int) -> float | None:
        """Book an answer; return what it cost, None where that is not known."""
        usd = self.usd(target, usage, images)
        certain = usage.billed_usd is not None or usage.certainty == "exact"
        self._spend(usd if certain else self._most_at(target))
        return usd

    def cut(self, target: Target, usage: Usage, arrived: Response | None) -> float | None:
        """Book an attempt without an end; return about what it cost, None if that is not known.

        What the server has not counted is estimated: the input, and what had `arrived`.
        """
        size = 0 if arrived is None else len(arrived.text) + len(arrived.reasoning)
        usage = msgspec.structs.replace(
            usage,
            input_tokens=usage.input_tokens or math.ceil(size_of(self._opener.request) / TOKEN),
            output_tokens=max(usage.output_tokens, math.ceil(size / TOKEN)),
            certainty="partial",
        )
        usd = self.usd(target, usage, 0)
        self._spend(usd)
        return usd

    def usd(self, target: Target, usage: Usage, images: int) -> float | None:
        """Return what an answer of a target costs, None where that is not known."""
        if usage.billed_usd is not None:
            return usage.billed_usd
        price = self.price(target)
        # Some models have a price for an image alone, and count nothing.
        counted = usage.certainty != "missing" or (images and price is not None and price.image)
        return price.usd(usage, images) if counted and price is not None else None

    def _spend(self, usd: float | None) -> None:
        if self._reserved is not None and usd:
            self._reserved.spend(usd)

    def _most_of_plan(self) -> float:
        if self._most is None:
            self._most = max(map(self._most_of_step, self._plan.steps))
        return self._most

    def _most_of_step(self, step: Step) -> float:
        each = [self._most_at(target) for target in step.targets]
        return sum(each) if step.mode == "race" else max(each)

    def _most_at(self, target: Target) -> float:
        price = self.price(target)
        if price is None:
            raise BudgetError(
                "its price is not known, so no budget can allow it: give one, such as "
                f"Registry(prices={{{str(target)!r:.100}: Price(input=1.0, output=2.0)}})",
                target=target,
            )
        provider = self._opener.providers[target]
        return price.max_usd(*most_of(self._opener.request, provider.capabilities(target.model)))


def most_of(request: AnyRequest, capabilities: Capabilities) -> tuple[float, float, int]:
    """Return the tokens of input and output, and the images, that a request takes at most."""
    size = size_of(request)  # no token is shorter than a byte, and what surrounds them is in it
    if isinstance(request, ImageRequest):
        return size, request.count * MOST_IMAGE, request.count
    if not isinstance(request, Request):
        return size, 0.0, 0
    size += total(request, _unseen_in)
    context = capabilities.context_length or math.inf
    return min(size, context), min(_most_output(request, capabilities), context), 1


def _unseen_in(message: Message) -> float:
    return sum(map(_unseen, message.parts))


def _unseen(part: Part) -> float:
    """Return the bytes that a part may take beyond its estimate, which leaves out what is rare."""
    match part:
        case ReasoningPart() | OpaquePart():
            return len(encode(part, str))
        case DocumentPart(url=url) if url:
            return MOST_PAGES * PAGE
        case _:
            return 0.0


def _most_output(request: Request, capabilities: Capabilities) -> int:
    if request.max_output_tokens is not None:
        return max(LEAST_OUTPUT, request.max_output_tokens)
    most = capabilities.max_output_tokens or MOST_OUTPUT
    # A model that thinks for so many tokens is given room for its answer, too.
    return most + (request.reasoning if isinstance(request.reasoning, int) else 0)
