"""
What the service remembers, and its four operations on it.

Pure: the time comes in as *now*, nothing is read or written outside. A request that breaks a rule
raises Refusal and leaves nothing applied. Where the service's behaviour is unknown, Rules has a
switch, and its default is the reading that is worse for the client.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, overload

from marketplace_metering_async.sandbox.service.batch_meter_usage import BatchMeterUsage
from marketplace_metering_async.sandbox.service.catalogue import Catalogue, Product
from marketplace_metering_async.sandbox.service.meter_usage import MeterUsage
from marketplace_metering_async.sandbox.service.metered import Key, Metered, MeteredRecords
from marketplace_metering_async.sandbox.service.principal import Principal
from marketplace_metering_async.sandbox.service.quantities import Quantity
from marketplace_metering_async.sandbox.service.register_usage import (
    RegisteredWorkload,
    RegisterUsage,
)
from marketplace_metering_async.sandbox.service.resolve_customer import RegistrationTokens
from marketplace_metering_async.sandbox.service.rules import Rules
from marketplace_metering_async.sandbox.service.sums import RepeatedUsage, Totals
from marketplace_metering_async.sandbox.service.workload import WorkloadMemory

__all__ = ["Book", "Key", "Metered", "Product", "Rules"]

_MOST_TOTALS: Final = 16
"""Combinations of attributes whose sums are kept."""


class Book:
    """
    The memory of the service.

    Until a product is declared, every product, customer and dimension is taken; from then on
    unknown ones are refused.

    Attributes:
        rules: The switches.
        catalogue: Products, agreements and buyers.
        metered: The records taken, by key.
        tokens: Registration tokens.
        workloads: What is known of callers of MeterUsage and RegisterUsage.
        statuses: How often BatchMeterUsage answered with each status, "Unprocessed" among them.
        sums: Makes the sums by an attribute of Metered, or by several; the latest are kept.
        repeated: What `double_billed` gives, as far as it has caught up.
    """

    def __init__(
        self,
        *,
        rules: Rules | None = None,
        products: Mapping[str, Product] | None = None,
        records: Mapping[Key, Metered] | None = None,
    ) -> None:
        self.rules = rules or Rules()
        self.catalogue = Catalogue(dict(products or {}))
        self.metered = MeteredRecords(records)
        self.tokens = RegistrationTokens()
        self.workloads = WorkloadMemory()
        self.statuses: Counter[str] = Counter()
        self.sums = lru_cache(_MOST_TOTALS)(Totals)
        self.repeated = RepeatedUsage(self._product_and_buyer, self.catalogue.owners)

    def __repr__(self) -> str:
        """Tell how much is metered."""
        return f"<Book: {len(self)} records, totals {self.totals()}>"

    def __len__(self) -> int:
        """Return how many records were taken."""
        return len(self.metered)

    @property
    def products(self) -> dict[str, Product]:
        """The declared products."""
        return self.catalogue.products

    @property
    def records(self) -> list[Metered]:
        """All records taken, in the order in which they came."""
        return list(self.metered)

    @overload
    def totals(self, *, by: str = "dimension") -> dict[str, Quantity]: ...
    @overload
    def totals(self, *, by: tuple[str, ...]) -> dict[tuple[Any, ...], Quantity]: ...
    def totals(
        self, *, by: str | tuple[str, ...] = "dimension"
    ) -> dict[str, Quantity] | dict[tuple[Any, ...], Quantity]:
        """
        Return the exact sums of quantities by an attribute of Metered, or by several.

        A sum is an int where it is whole, else a Decimal.

        `totals(by="customer")` has texts as keys; `totals(by=("customer", "hour"))` has tuples.
        """
        totals = self.sums(by)
        for _ in totals.catch_up(self.metered):
            pass
        sums = dict(totals.items())
        return dict(sorted(sums.items())) if isinstance(by, str) else sums

    def differences(
        self,
        expected: Mapping[Any, Quantity],
        *,
        by: Sequence[str] = ("customer", "dimension", "hour"),
    ) -> list[str]:
        """
        Compare with *expected*, (customer, dimension, hour) to quantity; a line for each gap.

        An empty list means that the book holds exactly what was expected.
        """
        actual = self.totals(by=tuple(by))
        wanted = {tuple(case): quantity for case, quantity in expected.items()}
        lines = []
        for case in sorted(wanted.keys() | actual.keys(), key=lambda case: [*map(str, case)]):
            want, have = wanted.get(case), actual.get(case)
            if want != have:
                place = " ".join(_word(part) for part in case)
                lines.append(f"{place}: expected {_amount(want)}, metered {_amount(have)}")
        return lines

    def assert_metered(self, expected: Mapping[tuple[str, str, datetime], Quantity]) -> None:
        """
        Assert that the book holds exactly *expected*, for tests.

        Args:
            expected: (customer, dimension, any moment of the hour) to quantity.

        Raises:
            AssertionError: with a line for each gap.
        """
        __tracebackhide__ = True  # pytest shows where it was called
        by_hour = {
            (customer, dimension, _hour_of(moment)): quantity
            for (customer, dimension, moment), quantity in expected.items()
        }
        if lines := self.differences(by_hour):
            raise AssertionError("\n  ".join(["the book is not as expected:", *lines]))

    def double_billed(self) -> list[str]:
        """
        Return a line for each hour of a buyer that is on file more than once.

        A product code and a license, an account id and a customer identifier, two regions: each
        is a key of its own to the service, so that the same usage under both is billed twice.
        """
        for _ in self.repeated.catch_up(self.metered):
            pass
        return list(self.repeated.lines())

    def _product_and_buyer(self, record: Metered) -> tuple[str, str]:
        product = record.product_code
        if record.license_arn is not None:
            product = self.catalogue.product_of_license(record.license_arn) or record.license_arn
        return product or "", self.catalogue.buyer_of(product, record.customer)

    def forget(self) -> None:
        """Forget records, tokens, workloads and counts; products and agreements stay."""
        self.metered.clear()
        self.tokens.clear()
        self.workloads.clear()
        self.statuses.clear()

    def batch_meter_usage(
        self,
        request: Mapping[str, Any],
        *,
        now: datetime,
        region: str | None = None,
        principal: Principal | None = None,
        unprocessed: Iterable[int] = (),
    ) -> dict[str, Any]:
        """
        Answer BatchMeterUsage; the records at the indices *unprocessed* are left alone.

        Raises:
            Refusal: and nothing is applied.
        """
        principal = principal or Principal(region=region or "us-east-1")
        reply = BatchMeterUsage(**self._asked(now, principal)).answer(request, unprocessed)
        for result in reply["Results"]:
            self.statuses[result["Status"]] += 1
        if reply["UnprocessedRecords"]:
            self.statuses["Unprocessed"] += len(reply["UnprocessedRecords"])
        return reply

    def meter_usage(
        self, request: Mapping[str, Any], *, now: datetime, principal: Principal
    ) -> dict[str, Any]:
        """Answer MeterUsage, or raise Refusal and leave nothing applied."""
        operation = MeterUsage(**self._asked(now, principal), memory=self.workloads)
        return operation.answer(request)

    def register_usage(
        self, request: Mapping[str, Any], *, now: datetime, principal: Principal
    ) -> RegisteredWorkload:
        """Answer RegisterUsage, but for the signature; or raise Refusal."""
        operation = RegisterUsage(**self._asked(now, principal), memory=self.workloads)
        return operation.answer(request)

    def _asked(self, now: datetime, principal: Principal) -> dict[str, Any]:
        return {
            "records": self.metered,
            "catalogue": self.catalogue,
            "rules": self.rules,
            "now": now,
            "principal": principal,
        }

    def issue_token(
        self,
        product_code: str,
        *,
        now: datetime,
        customer_aws_account_id: str | None = None,
        customer_identifier: str | None = None,
        license_arn: str | None = None,
        agreement_id: str | None = None,
    ) -> str:
        """
        Return a registration token, as the buyer's browser brings it.

        Args:
            product_code: Of which product.
            now: When it is issued.
            customer_aws_account_id: The buyer's; as all that follows, left out where unknown.
            customer_identifier: The buyer's.
            license_arn: The buyer's.
            agreement_id: The buyer's.
        """
        answer: dict[str, Any] = {
            "CustomerIdentifier": customer_identifier or "",
            "ProductCode": product_code,
            "CustomerAWSAccountId": customer_aws_account_id,
            "LicenseArn": license_arn,
            "Metadata": None if agreement_id is None else {"AgreementId": agreement_id},
        }
        known = {name: value for name, value in answer.items() if value is not None}
        product = self.products.get(product_code)
        return self.tokens.issue(known, now=now, seller=product.seller if product else None)

    def resolve_customer(
        self, request: Mapping[str, Any], *, now: datetime, principal: Principal | None = None
    ) -> dict[str, Any]:
        """Answer ResolveCustomer, or raise Refusal."""
        seller = principal.account_id if principal else None
        return self.tokens.resolve(request, rules=self.rules, now=now, seller=seller)


def _word(part: object) -> str:
    return f"{part:%Y-%m-%dT%H:%MZ}" if isinstance(part, datetime) else str(part)


def _amount(quantity: Quantity | None) -> str:
    return "nothing" if quantity is None else str(quantity)


def _hour_of(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
