"""The ledger against a faulty service, step by step: no unit is out of sight or billed twice."""

import asyncio
import tempfile
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support.examples import examples
from support.ledgers import House, new_postgres_database, postgres_server

from marketplace_metering_async import HourState, RetryPolicy
from marketplace_metering_async.ledger.model import ENDED
from marketplace_metering_async.limits import MAX_DECIMAL_QUANTITY
from marketplace_metering_async.quantities import Quantity, millionths, of_millionths
from marketplace_metering_async.sandbox import FaultKind, Product, Refusal

IMPATIENT = RetryPolicy(max_attempts=2, base_delay=0.0001, max_delay=0.0001, attempt_timeout=0.05)
CUSTOMERS = [f"{n:012d}" for n in range(3)]
QUANTITIES = (
    st.integers(0, 5)
    | st.just(2**31 - 1)
    | st.integers(0, millionths(MAX_DECIMAL_QUANTITY)).map(of_millionths)
)
FAULTS: list[FaultKind | Refusal | None] = [
    None,
    None,
    FaultKind.RESET_AFTER,
    FaultKind.RESET_BEFORE,
    FaultKind.UNPROCESSED,
    FaultKind.ERROR_500_AFTER,
    FaultKind.GARBAGE,
    FaultKind.DROP,
    Refusal("InternalServiceErrorException", "", 500),
    Refusal("AccessDeniedException", "no", 400),
]


class LedgerMachine(RuleBasedStateMachine):
    """Whatever happens, in whatever order."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.new_event_loop()
        self._folder = tempfile.TemporaryDirectory()
        self._faults: list[FaultKind | Refusal | None] = []
        self.house = House(self.place(), self._fault)
        self.house.service.round_trip = 0.0
        self.house.slice_seconds = 0.02  # what is ahead of the service's clock is waited for
        self.house.ledger = self.house.another()
        self.run(self.house.ledger.__aenter__())
        self.client = self.house.client(retry=IMPATIENT, observer=lambda event: None)
        self.given: dict[str, tuple[str, Quantity, Any]] = {}
        self.used: Counter[str] = Counter()  # millionths
        self.product = Product(customers=dict.fromkeys(CUSTOMERS, True))
        self.house.book.products["product"] = self.product

    def place(self) -> str:
        """Return the URL of a new ledger."""
        return f"sqlite:///{Path(self._folder.name)}/usage.db"

    def run(self, work: Any) -> Any:
        return self._loop.run_until_complete(work)

    def _fault(self, number: int, body: dict[str, Any]) -> FaultKind | Refusal | None:
        return self._faults.pop() if self._faults else None

    @rule(
        customer=st.sampled_from(CUSTOMERS),
        quantity=QUANTITIES,
        late=st.integers(0, 30),
    )
    def add(self, customer: str, quantity: Quantity, late: int) -> None:
        at = self.house.clock.now() - timedelta(hours=late)
        event_id = f"event-{len(self.given)}"
        self.run(
            self.house.use(quantity, customer_aws_account_id=customer, at=at, event_id=event_id)
        )
        self.given[event_id] = (customer, quantity, at)
        self.used[customer] += millionths(quantity)

    @precondition(lambda self: self.given)
    @rule(data=st.data())
    def repeat(self, data: Any) -> None:
        event_id = data.draw(st.sampled_from(sorted(self.given)))
        customer, quantity, at = self.given[event_id]
        if at > self.house.clock.now() + timedelta(minutes=5):
            return  # the clock went back; it is refused until its time has come again
        added = self.run(
            self.house.use(quantity, customer_aws_account_id=customer, at=at, event_id=event_id)
        )
        assert added.repeated

    @rule(minutes=st.integers(1, 300))
    def tick(self, minutes: int) -> None:
        self.house.clock.step(minutes=minutes)

    @rule(minutes=st.integers(1, 120))
    def clock_goes_back(self, minutes: int) -> None:
        self.house.clock.step(minutes=-minutes)

    @rule(faults=st.lists(st.sampled_from(FAULTS), max_size=4))
    def relay(self, faults: list[FaultKind | Refusal | None]) -> None:
        self._faults = faults
        self.run(self.house.ledger.relay_once(self.client))
        self._faults = []

    @rule()
    def restart(self) -> None:
        self.run(self.house.ledger.aclose())
        self.house.ledger = self.house.another()
        self.run(self.house.ledger.__aenter__())

    @rule(customer=st.sampled_from(CUSTOMERS), subscribed=st.booleans())
    def subscribe(self, customer: str, *, subscribed: bool) -> None:
        self.product.customers[customer] = subscribed

    @rule(customer=st.sampled_from(CUSTOMERS), again=st.booleans())
    def close(self, customer: str, *, again: bool) -> None:
        ledger = self.house.ledger
        who: dict[str, Any] = {"product_code": "product", "customer_aws_account_id": customer}
        self.run(ledger.reopen_customer(**who) if again else ledger.close_customer(**who))

    @rule()
    def retry(self) -> None:
        self.run(self.house.ledger.retry())

    @rule()
    def a_relay_is_cancelled(self) -> None:
        async def cancelled() -> None:
            relaying = asyncio.create_task(self.house.ledger.relay_once(self.client))
            await asyncio.sleep(0.002)
            relaying.cancel()
            await asyncio.gather(relaying, return_exceptions=True)

        self.run(cancelled())

    @rule()
    def a_person_finds_out(self) -> None:
        self.run(self._find_out())

    async def _find_out(self) -> None:
        """What the service has is metered; what it has not is billed in the hour that runs."""
        ledger, on_file = self.house.ledger, self.house.metered()
        ended = [e async for e in ledger.history() if e.state in ENDED and e.timestamp]
        has = [e for e in ended if (e.customer_aws_account_id or "", e.hour) in on_file]
        has_not = [e for e in ended if e not in has]
        await ledger.resolve(has, "metered", note="on file")
        await ledger.resolve(has_not, "not_metered", note="not on file")
        await ledger.reopen(has_not, note="to be paid")

    @rule()
    def prune(self) -> None:
        self.run(self.house.ledger.prune(self.house.clock.now() - timedelta(days=3, seconds=1)))

    @invariant()
    def every_unit_is_somewhere(self) -> None:
        """
        It holds that recorded == open + frozen + metered + ended, and recorded is what was given.
        """
        status = self.run(self.house.balance())
        assert of_millionths(self.used.total()) == status.recorded

    @invariant()
    def what_is_billed_was_used(self) -> None:
        """
        No customer is billed for more than it used, and what is metered is billed.
        """
        billed: Counter[str] = Counter()
        for record in self.house.book.records:
            billed[record.customer] += millionths(record.quantity)
        assert not billed - self.used
        status = self.run(self.house.ledger.status())
        probable = status.ended.get(HourState.PROBABLY_METERED, 0)
        assert millionths(status.metered) + millionths(probable) <= billed.total()
        assert HourState.CONFLICT not in status.ended
        assert HourState.DAMAGED not in status.ended

    def teardown(self) -> None:
        self.run(self.house.ledger.aclose())
        self.run(self.client.aclose())
        self.run(self._loop.shutdown_default_executor())
        self._loop.close()
        self._folder.cleanup()


LedgerMachine.TestCase.settings = settings(
    max_examples=examples(20), stateful_step_count=20, deadline=None
)
TestLedgerMachine = LedgerMachine.TestCase


class PostgresqlMachine(LedgerMachine):
    """The same, with the transaction of a caller, who thinks about it for a while."""

    def __init__(self) -> None:
        super().__init__()
        self._caller: Any = None
        self._meant: dict[str, tuple[str, Quantity, Any]] = {}

    @rule(customer=st.sampled_from(CUSTOMERS), quantity=QUANTITIES, late=st.integers(0, 30))
    def add_in_a_transaction(self, customer: str, quantity: Quantity, late: int) -> None:
        if self._caller is None:
            self._caller = self.run(asyncpg.connect(self.house.url))
            self.run(self._caller.execute("BEGIN"))
        at = self.house.clock.now() - timedelta(hours=late)
        event_id = f"caller-{len(self.given)}-{len(self._meant)}"
        who: dict[str, Any] = {"customer_aws_account_id": customer, "connection": self._caller}
        self.run(self.house.use(quantity, at=at, event_id=event_id, **who))
        self._meant[event_id] = (customer, quantity, at)

    @precondition(lambda self: self._caller)
    @rule(commits=st.booleans())
    def the_transaction_ends(self, *, commits: bool) -> None:
        self.run(self._caller.execute("COMMIT" if commits else "ROLLBACK"))
        self.run(self._caller.close())
        if commits:
            self.given |= self._meant
            for customer, quantity, _ in self._meant.values():
                self.used[customer] += millionths(quantity)
        self._caller, self._meant = None, {}

    def teardown(self) -> None:
        if self._caller is not None:
            self.run(self._caller.close())
        super().teardown()


def test_the_same_holds_on_postgresql() -> None:
    """
    Step by step, with fewer examples: each has a database of its own.
    """
    with postgres_server() as server:

        class OnPostgresql(PostgresqlMachine):
            def place(self) -> str:
                url: str = self.run(new_postgres_database(server.url))
                return url

        run_state_machine_as_test(
            OnPostgresql,
            settings=settings(max_examples=examples(5), stateful_step_count=20, deadline=None),
        )
