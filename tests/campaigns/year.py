"""
Lets a ledger live through a year with twelve month ends, and audits each month.

    python tests/campaigns/year.py --years 20 --seed 1

Usage comes every few hours, some of it late, and more often around the end of a month. The relay
pauses at awkward times: over the end of a month until shortly before or after 06:00 on the first,
when the service takes the month's records no more, and for a day and longer. One subscription ends
and begins again. The sandbox's book, which has rules of its own, is the witness.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from attrs import define, field, frozen
from support.disk import memory
from support.ledgers import House, some_quantity, total
from support.year_calendar import Calendar, closes, hour_of, month_of

from marketplace_metering_async import HourState, MarketplaceMeteringClient, RetryPolicy
from marketplace_metering_async.ledger import AddedUsage, HistoryEntry, LedgerStatus
from marketplace_metering_async.quantities import Quantity, millionths
from marketplace_metering_async.sandbox import Product

YEARS: Final = (2027, 2028)
"""The second is a leap year."""
CUSTOMERS: Final = ("000000000001", "000000000002", "000000000003")
LEAVER: Final = CUSTOMERS[-1]
HOUR: Final = timedelta(hours=1)
GRACE: Final = timedelta(minutes=10)
MONTH_END_GRACE: Final = timedelta(hours=1)
FLUSH: Final = HOUR
"""How long the service takes records after a subscription has ended."""
SAFETY: Final = timedelta(minutes=5)
"""How long before its window closes an hour takes no more usage."""
PATIENT: Final = RetryPolicy(timeout=60, attempt_timeout=30)

EXPECTED: Final = {
    HourState.TOO_LATE,
    HourState.MONTH_OVER,
    HourState.SUBSCRIPTION_OVER,
    HourState.NOT_SUBSCRIBED,
}
"""The ends that such a year gives usage which is not metered."""


@frozen
class Given:
    """A piece of usage, when it was given to the ledger, and what the ledger said."""

    customer: str
    quantity: Quantity
    at: datetime
    when: datetime
    said: AddedUsage


@define
class Year:
    """
    One year of a ledger.

    Attributes:
        given: All usage.
        relays: When the relay ran.
        entries: What the ledger says of each hour of a customer.
        left: When a subscription ended; the service takes its records for an hour more.
        again: When it began again.
    """

    house: House
    client: MarketplaceMeteringClient
    chance: Random
    left: datetime
    again: datetime
    given: list[Given] = field(factory=list)
    relays: list[datetime] = field(factory=list)
    entries: dict[tuple[str, datetime], HistoryEntry] = field(factory=dict)
    stranded: list[HistoryEntry] = field(factory=list)

    async def live(self, calendar: Calendar) -> None:
        """Do what the calendar says, and send what is left in the end."""
        product = Product(customers=dict.fromkeys(CUSTOMERS, True))
        self.house.book.products["product"] = product
        for moment, deed in sorted(self._deeds(calendar, product), key=lambda entry: entry[0]):
            self.house.clock.set(moment)
            await deed()
        for _ in range(3):
            self.house.clock.step(hours=2)
            await self._relay()
        await self._read_history()

    def _deeds(
        self, calendar: Calendar, product: Product
    ) -> Iterator[tuple[datetime, Callable[[], Awaitable[None]]]]:
        for moment in calendar.moments((120, 720), (15, 50)):
            yield moment, self._use
        pauses = calendar.pauses()
        for moment in calendar.moments((420, 1320), (15, 60)):
            if not any(begin <= moment < end for begin, end in pauses):
                yield moment, self._relay
        for _, over in pauses:
            yield over, self._relay
        for first in calendar.month_ends:
            yield first + timedelta(days=8), self._restart
        yield self.left, self._close

        async def end() -> None:
            product.customers[LEAVER] = False

        async def begin_again() -> None:
            product.customers[LEAVER] = True
            await self.house.ledger.reopen_customer(
                product_code="product", customer_aws_account_id=LEAVER
            )

        yield self.left + FLUSH, end
        yield self.again, begin_again

    async def _use(self) -> None:
        customers = self.chance.sample(CUSTOMERS, self.chance.choice([1, 1, 2, 3]))
        await asyncio.gather(*(self._use_of(customer) for customer in customers))

    async def _use_of(self, customer: str) -> None:
        now = self.house.clock.now()
        late = timedelta(
            hours=self.chance.choice([0] * 12 + [1, 1, 2, 5, 20, 23, 40]),
            minutes=self.chance.randrange(15),
            seconds=self.chance.randrange(60),
        )
        at, quantity = now - late, some_quantity(self.chance)
        said = await self.house.use(quantity, customer_aws_account_id=customer, at=at)
        self.given.append(Given(customer, quantity, at, now, said))

    async def _relay(self) -> None:
        await self.house.ledger.relay_once(self.client)
        self.relays.append(self.house.clock.now())

    async def _close(self) -> None:
        await self.house.ledger.close_customer(
            product_code="product", customer_aws_account_id=LEAVER
        )
        await self._relay()

    async def _restart(self) -> None:
        await self._read_history()
        await self.house.ledger.prune(self.house.clock.now() - timedelta(days=4))
        await self.house.ledger.aclose()
        self.house.ledger = self.house.another()
        await self.house.ledger.__aenter__()

    async def _read_history(self) -> None:
        self.stranded = []
        async for entry in self.house.ledger.history():
            if entry.timestamp is None:
                self.stranded.append(entry)
            else:
                self.entries[entry.customer_aws_account_id or "", entry.hour] = entry

    # What must hold in the end.

    async def faults(self) -> list[str]:
        """Return what is wrong, a line for each."""
        held = defaultdict(list)
        for one in self.given:
            held[one.customer, one.said.hour].append(one)
        return [
            *self._of_sums(await self.house.balance()),
            *self._of_months(),
            *(f"{one}: {fault}" for one in self.given for fault in self._of_usage(one)),
            *(
                f"{entry}: {fault}"
                for place, entry in self.entries.items()
                for fault in self._of_hour(entry, held[place])
            ),
            *self._of_the_book(),
        ]

    def _of_sums(self, status: LedgerStatus) -> Iterator[str]:
        used = total(self.given)
        if status.recorded != used:
            yield f"{used} units used, {status.recorded} recorded"
        if status.open or status.frozen:
            yield f"{status.open} units open, {status.frozen} frozen"
        if status.metered != total(self.house.book.records):
            yield "the service has metered other sums"
        for state in status.ended.keys() - EXPECTED:
            yield f"{status.ended[state]} units {state}"

    def _of_months(self) -> Iterator[str]:
        """Each customer's usage of a month is metered in that month, or ended in it."""
        used, done = Counter[Any](), Counter[Any]()
        for one in self.given:
            used[one.customer, month_of(one.at)] += millionths(one.quantity)
        for record in self.house.book.records:
            done[record.customer, month_of(record.timestamp)] += millionths(record.quantity)
        for entry in [*self.entries.values(), *self.stranded]:
            if entry.state is not HourState.METERED:
                place = entry.customer_aws_account_id, month_of(entry.hour)
                done[place] += millionths(entry.quantity)
        for key in used.keys() | done.keys():
            if used[key] != done[key]:
                yield f"{key}: {used[key]} millionths used, {done[key]} accounted for"

    def _of_usage(self, one: Given) -> Iterator[str]:
        match one.said.ended:
            case None:
                if month_of(one.said.hour or one.at) != month_of(one.at):
                    yield "carried over the edge of a month"
                if self._had_left(one):
                    yield "carried by an ended subscription"
            case HourState.MONTH_OVER:
                if month_of(one.when) == month_of(one.at):
                    yield "ended within its month"
                entry = self.entries.get((one.customer, hour_of(one.at)))
                in_time = one.when + GRACE + SAFETY < closes(one.at)
                sealed = None if entry is None else entry.sealed_at
                if in_time and (sealed is None or sealed > one.when):
                    yield "ended though its hour was open"
            case HourState.SUBSCRIPTION_OVER:
                if one.customer != LEAVER or not self.left <= one.when <= self.again:
                    yield "ended with its subscription running"
            case _:
                yield "ended in some other way"

    def _had_left(self, one: Given) -> bool:
        return one.customer == LEAVER and self.left < one.at <= one.when < self.again

    def _of_hour(self, entry: HistoryEntry, held: Sequence[Given]) -> Iterator[str]:
        assert entry.timestamp is not None
        if hour_of(entry.timestamp) != entry.hour:
            yield "stamped outside of its hour"
        if any(month_of(part.origin) != month_of(entry.hour) for part in entry.carried):
            yield "carries another month's usage"
        if total(held) != entry.quantity:
            yield "has another sum than was given"
        end = entry.hour + HOUR
        grace = GRACE if month_of(end) == month_of(entry.hour) else MONTH_END_GRACE
        due = max(end + grace, *(one.when + GRACE for one in held))
        first = bisect_left(self.relays, due)
        relayed = first < len(self.relays) and self.relays[first] < closes(entry.timestamp)
        match entry.state:
            case HourState.METERED:
                pass
            case HourState.TOO_LATE:
                if relayed or not entry.reason:
                    yield "was relayed in time, or has no reason"
            case HourState.NOT_SUBSCRIBED:
                settled = entry.settled_at or self.again
                there = self.left + FLUSH <= settled < self.again
                if entry.customer_aws_account_id != LEAVER or not there:
                    yield "was subscribed"
            case _:
                yield "ended in some other way"

    def _of_the_book(self) -> Iterator[str]:
        for record in self.house.book.records:
            entry = self.entries.get((record.customer, hour_of(record.timestamp)))
            if entry is None or (entry.quantity, entry.timestamp, entry.state) != (
                record.quantity,
                record.timestamp,
                HourState.METERED,
            ):
                yield f"{record}: the ledger says {entry}"
            if not record.timestamp <= record.received < closes(record.timestamp):
                yield f"{record}: outside of its window"


async def _lived(seed: int, folder: str) -> tuple[Year, list[str]]:
    chance = Random(seed)
    start = datetime(chance.choice(YEARS), chance.randint(1, 12), 15, 12, tzinfo=UTC)
    calendar = Calendar(chance, start, start + timedelta(days=370))
    house = House(f"sqlite:///{folder}/usage.db")
    house.clock.set(start)
    house.service.round_trip = 0.0
    async with house.client(retry=PATIENT, observer=lambda event: None) as client:
        await house.ledger.__aenter__()
        left = calendar.departure()
        year = Year(house, client, chance, left, left + timedelta(days=5))
        try:
            await year.live(calendar)
            return year, await year.faults()
        finally:
            await house.ledger.aclose()


def a_year(seed: int) -> Year:
    """
    Live through a year.

    Raises:
        AssertionError: with a line for each fault.
    """
    with tempfile.TemporaryDirectory(prefix="year", dir=memory()) as folder:
        year, faults = asyncio.run(_lived(seed, folder))
    assert not faults, "\n  ".join([f"{len(faults)} faults:", *faults[:20]])
    return year


def main() -> None:
    parser = argparse.ArgumentParser(description="Let a ledger live through years, and audit.")
    parser.add_argument("--years", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    given = parser.parse_args()
    for seed in range(given.seed, given.seed + given.years):
        began = time.monotonic()
        sys.stdout.write(f"seed {seed}: ")
        sys.stdout.flush()
        year = a_year(seed)
        states = Counter(e.state.value for e in [*year.entries.values(), *year.stranded])
        took = time.monotonic() - began
        sys.stdout.write(
            f"{len(year.given)} pieces of usage, {len(year.relays)} relays, {dict(states)}, "
            f"{took:.1f} s\n"
        )


if __name__ == "__main__":
    main()
