"""What one refusal teaches about other records, and for how long: similar ones, and licenses."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from itertools import chain, count
from typing import Final, NamedTuple

from marketplace_metering_async.errors import MarketplaceMeteringException
from marketplace_metering_async.records import UsageRecord

REMEMBERED: Final = 60.0
"""Seconds for which a refusal may hold back what it did not meet."""
_MOST_LICENSES: Final = 10_000
"""Licenses whose group is remembered; the oldest are forgotten first."""

_MEMBERS: Final[Mapping[str, tuple[str, ...]]] = {
    "InvalidCustomerIdentifierException": ("customer_aws_account_id", "customer_identifier"),
    "InvalidUsageDimensionException": ("dimension",),
}
"""
The members that such a refusal is about: records that share one would be refused alike. There is
none for a license: it is refused for its activation period too, which says nothing of other hours.
"""


class Similar(NamedTuple):
    """The refusal that a similar record met, and the member that it shares."""

    refusal: MarketplaceMeteringException
    member: str


class SimilarRefusals:
    """
    The customers and dimensions that the service refused within the last minute, by product.

    A wrong customer with a thousand records then costs one search and not a thousand.
    """

    def __init__(self, product_code: str | None) -> None:
        """Know nothing; *product_code* stands in where a record names none."""
        self._product_code = product_code
        self._refusals: dict[tuple[str | None, ...], tuple[float, Similar]] = {}

    def __bool__(self) -> bool:
        """Return whether anything is known."""
        return bool(self._refusals)

    def note(
        self, record: UsageRecord, refusal: MarketplaceMeteringException, moment: float
    ) -> None:
        """Take note that *record* was refused alone."""
        for member in _MEMBERS.get(refusal.code, ()):
            if getattr(record, member) is not None:
                similar = Similar(refusal, member)
                self._refusals[self._place(member, record)] = (moment + REMEMBERED, similar)

    def find(self, record: UsageRecord) -> Similar | None:
        """Return the refusal that a similar record met, if there was one."""
        for member in chain(*_MEMBERS.values()):
            if found := self._refusals.get(self._place(member, record)):
                return found[1]
        return None

    @staticmethod
    def concerns_others(code: str) -> bool:
        """Return whether a refusal with *code* says something of similar records."""
        return code in _MEMBERS

    def forget(self, moment: float) -> None:
        """Forget what was learned more than a minute ago."""
        for place in [p for p, (until, _) in self._refusals.items() if until <= moment]:
            del self._refusals[place]

    def _place(self, member: str, record: UsageRecord) -> tuple[str | None, ...]:
        # Licenses of a product that nobody named speak for themselves alone.
        product = record.product_code or self._product_code or record.license_arn
        return (member, product, getattr(record, member))


class LicenseGroups:
    """
    Which licenses of unnamed products share no request any more.

    They may be of several products, and then the service refuses the whole request. What was
    refused together and taken apart is not put together again.
    """

    def __init__(self) -> None:
        self._groups: OrderedDict[str, int] = OrderedDict()
        self._numbers = count()

    def group_of(self, record: UsageRecord) -> int | None:
        """Return the group of a record's license; None while it may share with any other."""
        return self._groups.get(record.license_arn or "")

    def explain(self, records: Iterable[UsageRecord]) -> bool:
        """Return whether *records* hold licenses of several groups."""
        return len({self.group_of(record) for record in records} - {None}) > 1

    def separate(self, parts: Iterable[Iterable[UsageRecord]]) -> None:
        """Put the licenses of each of *parts* that have no group yet into one of its own."""
        for part in parts:
            group = next(self._numbers)
            for record in part:
                if record.license_arn is not None:
                    self._groups.setdefault(record.license_arn, group)
        while len(self._groups) > _MOST_LICENSES:
            self._groups.popitem(last=False)
