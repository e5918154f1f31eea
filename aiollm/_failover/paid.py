"""A call that counts money: it knows the prices of its targets, and keeps within a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from aiollm._failover.admission import Admission
from aiollm._failover.attempt import NO_USAGE, ActiveAttempt
from aiollm._failover.chain import Chain, Parts
from aiollm._failover.money import Money
from aiollm._time_limits import TimeLimit
from aiollm.errors import BudgetError
from aiollm.images import ImageResult
from aiollm.prices.book import PriceBook
from aiollm.types import Cost, Finish, ImageChunk, Item, Response, Target, Usage


class PaidAttempt(ActiveAttempt):
    """An attempt that books what it costs."""

    __slots__ = ("_is_paid",)

    _call: PaidChain

    def __init__(self, call: PaidChain, admission: Admission, queued: float = 0.0) -> None:
        super().__init__(call, admission, queued)
        self._is_paid = False

    def _note(self, batch: Sequence[Item]) -> None:
        super()._note(batch)
        if self.record.outcome == "success" and not self._is_paid:
            self._is_paid = True
            finish = next((item for item in reversed(batch) if type(item) is Finish), None)
            if finish is not None:
                self._pay(finish.usage, batch)

    def _pay(self, usage: Usage, batch: Sequence[Item]) -> None:
        """Book what the answer costs; its last batch has not reached the caller yet."""
        call, money = self._call, self._call.money
        images = sum(type(item) is ImageChunk for item in batch)
        drawn: Sequence[object] = batch  # of calls for images, whose result is an item, too
        images += sum(len(item.images) for item in drawn if isinstance(item, ImageResult))
        if usage.certainty == "missing" or money.counts_images(self.target):
            partial = call.partial()
            images += len(partial.images)
            # Some servers count in an event of their own, before the end.
            usage = partial.usage if usage.certainty == "missing" else usage
        self.record.usd = money.answered(self.target, usage, images)
        if all(each.outcome != "running" for each in call.attempts):
            money.release()

    def _lost(self, error: Exception | None, *, was_sent: bool) -> float | None:
        if super()._lost(error, was_sent=was_sent) == 0.0:
            return 0.0
        partial: Response | None = getattr(error, "partial", None)
        is_begun = self.record.first_output is not None
        if partial is None and is_begun:
            partial = self._call.partial()
        usage = NO_USAGE if partial is None else partial.usage
        return self._call.money.cut(self.target, usage, partial if is_begun else None)


class PaidChain(Chain):
    """The batches of one call that has prices or a budget."""

    # Without slots, for calls of a session that count money, which have those of another kind.
    attempt_type: ClassVar[type[ActiveAttempt]] = PaidAttempt

    def __init__(self, *parts: Any, **named: Any) -> None:
        """Take what its kind of call takes; without prices none is known."""
        chain: Parts = parts[-4:]  # a session comes before
        plan, opener, gate, policy = chain
        book = policy.book or PriceBook({})
        self.money = Money(book, policy.budget, plan, opener, gate.purse)
        super().__init__(*parts, **named)

    def close(self) -> None:
        """End the call now, and give back what is set aside. Idempotent."""
        super().close()
        self.money.release()

    def cost(self, usage: Usage, images: Callable[[], int]) -> Cost:
        """Return what the call has cost, if its answer has these counts and images."""
        cost = super().cost(usage, images)
        if cost.source == "billed" or self.target is None or not self.money.is_loaded:
            return cost
        if usage.certainty == "partial" and self.is_answered():
            return cost  # what the server did not count is not for nothing
        usd = self.money.usd(self.target, usage, images())
        return cost if usd is None else Cost(usd, "listed", cost.lost)

    async def _start(self) -> ActiveAttempt:
        await self._afford()
        return await super()._start()

    async def _race(
        self, targets: Sequence[Target], admission: Admission, queued: float
    ) -> ActiveAttempt | None:
        winner = await super()._race(targets, admission, queued)
        if winner is None:
            await self._afford()  # what follows is another attempt
        return winner

    async def _afford(self) -> None:
        """Wait for prices, and until the budget has room. Raises: BudgetError, DeadlineError."""
        if self.money.is_ready():
            return
        await self.money.load()
        limit = TimeLimit(None, until=self.total_at)
        try:
            async with limit:
                await self.money.reserve(self._candidates.room)
        except BudgetError as error:
            self.attach_partial(error)
            raise
        except TimeoutError:
            if not limit.expired():  # it is another one's, such as the caller's
                raise
            raise self._too_late() from None
        self._candidates.waited(limit.spent)
