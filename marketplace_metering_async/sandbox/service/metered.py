"""What was metered: records by key, first write wins."""

import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime

from attrs import define, setters

from marketplace_metering_async.sandbox.service.allocations import Allocations
from marketplace_metering_async.sandbox.service.quantities import Quantity

Key = tuple[str, str | None, str | None, str | None, str | None, str, float | str]
"""Region, product code, license, account, identifier or workload, dimension, hour."""


@define(on_setattr=setters.frozen)  # as good as frozen, and made in half the time
class Metered:
    """
    One record that the service has taken.

    Attributes:
        region: Of the endpoint that took it.
        product_code: As the request said; None for license records.
        license_arn: As the record said.
        customer_aws_account_id: The buyer, or the account a workload runs in, if known.
        customer_identifier: The buyer's legacy id.
        workload: Who called MeterUsage: its access key.
        dimension: Of what.
        timestamp: When, in UTC.
        quantity: How much.
        allocations: The quantity by tags.
        metering_record_id: The service's name for it.
        received: When it came, by the sandbox's clock.
        free: Whether it falls into a free trial.
    """

    region: str
    product_code: str | None
    license_arn: str | None
    customer_aws_account_id: str | None
    customer_identifier: str | None
    workload: str | None
    dimension: str
    timestamp: datetime
    quantity: Quantity
    allocations: Allocations
    metering_record_id: str
    received: datetime
    free: bool = False

    @property
    def customer(self) -> str:
        """The buyer, under whichever id; the workload where there is none."""
        return (
            self.customer_aws_account_id or self.customer_identifier or f"workload {self.workload}"
        )

    @property
    def hour(self) -> datetime:
        """The start of the clock hour it belongs to."""
        return self.timestamp.replace(minute=0, second=0, microsecond=0)

    @property
    def identity(self) -> str:
        """How it names product and buyer."""
        if self.license_arn is not None:
            return f"license {self.license_arn}"
        if self.workload is not None:
            return f"workload {self.workload}"
        scheme = "account" if self.customer_aws_account_id else "customer identifier"
        return f"product code and {scheme}"


class MeteredRecords:
    """
    Records by key; the first write of a key stays, whatever comes after.

    Attributes:
        generation: How often all was forgotten.
    """

    def __init__(self, records: Mapping[Key, Metered] | None = None) -> None:
        self._by_key: dict[Key, Metered] = dict(records or {})
        # Two lists, and not one of pairs: what lives long is walked by the garbage collector.
        self._keys: list[Key] = list(self._by_key)
        self._records: list[Metered] = list(self._by_key.values())
        self._taken: set[Key] = set()
        self.generation = 0
        prefix = str(uuid.uuid4())
        self._prefix, self._last = prefix[:24], int(prefix[24:], 16) >> 1

    def __len__(self) -> int:
        """Return how many records were taken."""
        return len(self._records)

    def __iter__(self) -> Iterator[Metered]:
        """Iterate over the records in the order in which they came."""
        return iter(self._records)

    def entries(self, since: int = 0) -> list[tuple[Key, Metered]]:
        """Return keys and records in the order in which they came, without the first *since*."""
        return list(zip(self._keys[since:], self._records[since:], strict=True))

    def records(self, since: int, most: int) -> list[Metered]:
        """Return up to *most* records, in the order in which they came, after the first *since*."""
        return self._records[since : since + most]

    def first(self, key: Key) -> Metered | None:
        """Return what is on file under *key*."""
        return self._by_key.get(key)

    def add(self, key: Key, metered: Metered) -> None:
        """Put on file what is not there yet; ValueError if it is."""
        if self._by_key.setdefault(key, metered) is not metered:
            raise ValueError("the key has a record, which stays")
        self._keys.append(key)
        self._records.append(metered)

    def forget_key(self, key: Key) -> None:
        """Let the next record of *key* be a first one again; what is on file stays billed."""
        self._by_key.pop(key, None)

    def take_key(self, key: Key) -> None:
        """Let *key* be a duplicate from now on, though nothing is on file."""
        self._taken.add(key)

    @property
    def taken_keys(self) -> set[Key]:
        """The keys that were used up without a record."""
        return set(self._taken)

    def is_taken(self, key: Key) -> bool:
        """Return whether *key* was used up without a record."""
        return bool(self._taken) and key in self._taken

    def next_id(self) -> str:
        """Return an id that no other record has, shaped as a UUID."""
        self._last += 1
        return f"{self._prefix}{self._last:012x}"

    def clear(self) -> None:
        """Forget all."""
        self._by_key.clear()
        self._keys.clear()
        self._records.clear()
        self._taken.clear()
        self.generation += 1
