"""
Advice to whoever wrote the client, on the calls that the sandbox has seen.

It speaks of what costs money or loses it while every answer looks fine. Only the calls that the
history keeps are looked at (`Sandbox(history=)`), and of those over 64 KiB not the records.
"""

import json
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from attrs import frozen

from marketplace_metering_async.sandbox.history import Call
from marketplace_metering_async.sandbox.service.quantities import by_value

_BATCH: Final = "BatchMeterUsage"
_HARMLESS: Final = frozenset({"slow", "drip", "shuffle", "unprocessed"})
"""Faults that leave an answer to its reader."""
_AT_ONCE: Final = 5.0
_LEAST_STAMPED: Final = 3
_LEAST_SINGLE: Final = 10
_MINUTE: Final = timedelta(minutes=1)
_MOST_NAMED: Final = 5

Record = Mapping[str, Any]
Key = tuple[Any, ...]
"""What the service counts as one: region, product, license, customer, dimension and hour."""


@frozen(kw_only=True)
class Advice:
    """
    What to change in a client.

    Attributes:
        about: A word for it that stays.
        says: What was seen.
        do: What to change.
        count: In how many records, calls or hours.
        calls: The latest of the calls it was seen in, by number.
    """

    about: str
    says: str
    do: str
    count: int
    calls: tuple[int, ...] = ()


class _Look(ABC):
    """Looks for one thing, call by call."""

    about: str
    says: str
    do: str

    def __init__(self) -> None:
        self._seen: list[int] = []

    @abstractmethod
    def see(self, call: Call, records: Sequence[Record]) -> None:
        """Look at a call to BatchMeterUsage and what of its records is known."""

    def found(self) -> list[int]:
        """Return the numbers of the calls, one for each time."""
        return self._seen

    def advice(self) -> Iterator[Advice]:
        seen = self.found()
        if seen:
            calls = tuple(sorted(set(seen))[-_MOST_NAMED:])
            yield Advice(about=self.about, says=self.says, do=self.do, count=len(seen), calls=calls)


class _NotSentAgain(_Look):
    about = "unprocessed-not-sent-again"
    says = "UnprocessedRecords came and were not sent again: nobody has metered them."
    do = "A 200 with UnprocessedRecords is half an answer: send exactly these again, unchanged."

    def __init__(self) -> None:
        super().__init__()
        self._open: dict[Key, int] = {}

    def see(self, call: Call, records: Sequence[Record]) -> None:
        for record in records:
            self._open.pop(_key(call, record), None)
        if call.unprocessed:
            done = {_key(call, result["UsageRecord"]) for result in call.results}
            left = {_key(call, record) for record in records} - done
            self._open.update(dict.fromkeys(left, call.number))

    def found(self) -> list[int]:
        return list(self._open.values())


class _SecondQuantity(_Look):
    about = "second-quantity-for-an-hour"
    says = "A second quantity was sent for an hour that has one: it is lost."
    do = (
        "The first quantity of a customer, dimension and hour stays. Add usage up, and send an "
        "hour once, when it is over."
    )

    def __init__(self) -> None:
        super().__init__()
        self._first: dict[Key, str] = {}

    def see(self, call: Call, records: Sequence[Record]) -> None:  # noqa: ARG002 - as all looks
        for result in call.results:
            key, content = _key(call, result["UsageRecord"]), _content(result["UsageRecord"])
            if result["Status"] == "Success":
                self._first.setdefault(key, content)
            elif result["Status"] == "DuplicateRecord" and content != self._first.get(key, content):
                self._seen.append(call.number)


class _NoQuantity(_Look):
    about = "no-quantity"
    says = "Records came without a quantity: each is metered as 0 units."
    do = (
        "Send Quantity or QuantityAsDecimal. An SDK that does not know a member may leave it out "
        "without a word: update it."
    )

    def see(self, call: Call, records: Sequence[Record]) -> None:
        for record in records:
            if "Quantity" not in record and "QuantityAsDecimal" not in record:
                self._seen.append(call.number)


class _StampedAtSending(_Look):
    about = "stamped-with-the-time-of-sending"
    says = "Records are stamped with the time of sending."
    do = (
        "Usage counts in the hour that it is stamped with. Stamp it with the start of the hour in "
        "which it was used, so that a retry is the same record, also past the hour."
    )

    def see(self, call: Call, records: Sequence[Record]) -> None:
        received = call.received.timestamp()
        for record in records:
            stamp = record.get("Timestamp")
            if not isinstance(stamp, (int, float)) or stamp % 3600 == 0:
                continue
            if abs(received - stamp) < _AT_ONCE:
                self._seen.append(call.number)

    def found(self) -> list[int]:
        return self._seen if len(self._seen) >= _LEAST_STAMPED else []


class _OneRecordACall(_Look):
    about = "one-record-a-call"
    says = "Records come one a call, ten and more within a minute for one product."
    do = (
        "A call takes 25 records of one product, and the quota counts calls: wait a moment for "
        "company."
    )

    def __init__(self) -> None:
        super().__init__()
        self._recent: dict[tuple[Any, ...], deque[tuple[datetime, int]]] = {}
        self._single: set[int] = set()

    def see(self, call: Call, records: Sequence[Record]) -> None:
        if len(records) != 1 or not _is_answered(call):
            return
        whose = (call.region, call.access_key_id, (call.request or {}).get("ProductCode"))
        recent = self._recent.setdefault(whose, deque())
        recent.append((call.received, call.number))
        while call.received - recent[0][0] > _MINUTE:
            recent.popleft()
        if len(recent) >= _LEAST_SINGLE:
            self._single.update(number for _, number in recent)

    def found(self) -> list[int]:
        return sorted(self._single)


class _OtherContent(_Look):
    about = "retried-with-other-content"
    says = "Records that had no answer were sent again with other content."
    do = (
        "A call whose answer was lost may have been carried out. Send the same record again, byte "
        "for byte; usage that has come since belongs in a later hour."
    )

    def __init__(self) -> None:
        super().__init__()
        self._doubtful: dict[Key, str] = {}

    def see(self, call: Call, records: Sequence[Record]) -> None:
        for record in records:
            key, content = _key(call, record), _content(record)
            if content != self._doubtful.get(key, content):
                self._seen.append(call.number)
            if _is_answered(call):
                self._doubtful.pop(key, None)
            elif not call.code or (call.status or 500) >= 500:
                self._doubtful.setdefault(key, content)


_LOOKS: Final[tuple[type[_Look], ...]] = (
    _NotSentAgain,
    _SecondQuantity,
    _OtherContent,
    _NoQuantity,
    _StampedAtSending,
    _OneRecordACall,
)


def advice_on(calls: Iterable[Call], twice_billed: Sequence[str]) -> list[Advice]:
    """
    Return what to change, in an order that stays; nothing where all is well.

    Args:
        calls: The latest calls, oldest first.
        twice_billed: The lines of `Book.double_billed()`.
    """
    looks: list[_Look] = [kind() for kind in _LOOKS]
    for call in calls:
        records = (call.request or {}).get("UsageRecords")
        if call.operation == _BATCH and isinstance(records, list):
            known = [record for record in records if isinstance(record, Mapping)]
            for look in looks:
                look.see(call, known)
    return [*_twice(twice_billed), *(one for look in looks for one in look.advice())]


def _twice(lines: Sequence[str]) -> Iterator[Advice]:
    if lines:
        yield Advice(
            about="billed-twice",
            says=f"An hour is billed twice: {lines[0]}.",
            do=(
                "A product code and a license, an account and a customer identifier, two regions: "
                "each is a key of its own. Name a customer in one way, in one region."
            ),
            count=len(lines),
        )


def _is_answered(call: Call) -> bool:
    """Return whether the client could read what became of its records."""
    return call.status == 200 and (call.fault is None or call.fault in _HARMLESS)


def _key(call: Call, record: Record) -> Key:
    stamp = record.get("Timestamp")
    hour = stamp // 3600 if isinstance(stamp, (int, float)) else None
    names = ("LicenseArn", "CustomerAWSAccountId", "CustomerIdentifier", "Dimension")
    ids = [str(record.get(name)) for name in names]
    return (call.region, str((call.request or {}).get("ProductCode")), *ids, hour)


def _content(record: Record) -> str:
    """Return quantity and allocations as a text that is equal where the values are."""
    named = by_value(dict(record))
    members = {name: named.get(name) for name in ("Quantity", "UsageAllocations")}
    members["Quantity"] = members["Quantity"] or "0"
    return json.dumps(members, sort_keys=True)
