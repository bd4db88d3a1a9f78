"""The budget: the most that a call can cost is set aside before it is sent, so that the cap is never passed."""

from __future__ import annotations

import asyncio

from labeling.errors import LabelingError

NO_BOUND = (
    "a budget needs to know the most that a call can cost: set price.input and price.output (the model is not in "
    "the price table), and max_tokens or parameters.max_completion_tokens"
)


class BudgetSpent(Exception):
    """What is left does not pay for one more call."""


class Purse:
    """Counts what calls cost, in picodollars, within a `budget` if there is one.

    `spent` holds what is known to be paid, and for replies that were lost the most that they can have cost.
    """

    def __init__(self, budget: int | None, spent: int = 0) -> None:
        self.budget = budget
        self.spent = spent
        self._reserved = 0
        self._calls = 0
        self._changed = asyncio.Condition()

    async def reserve(self, most: int | None) -> None:
        """Set aside the most that a call can cost, once replies that come in leave enough.

        Raises BudgetSpent if they cannot, LabelingError if there is a budget and no price.
        """
        if self.budget is None:
            return
        if most is None:
            raise LabelingError(NO_BOUND)
        async with self._changed:
            while self.spent + self._reserved + most > self.budget:
                if not self._calls:
                    raise BudgetSpent
                await self._changed.wait()
            self._reserved += most
            self._calls += 1

    async def settle(self, most: int | None, paid: int | None) -> None:
        """A call came to its end and cost `paid` in place of `most`."""
        self.spent += paid or 0
        if self.budget is None:
            return
        async with self._changed:
            self._reserved -= most or 0
            self._calls -= 1
            self._changed.notify_all()
