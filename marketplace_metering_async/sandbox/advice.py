"""
Advice to whoever wrote the client, on the calls that the sandbox has seen.

It speaks of what costs money or loses it while every answer looks fine. Only the calls that the
history keeps are looked at (`Sandbox(history=)`), and of those over 64 KiB not the records.
"""

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
Seen = Sequence[tuple[Call, Sequence[Record]]]
"""Calls to BatchMeterUsage, oldest first, with what of their records is known."""


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


Look = Callable[[Seen], Iterable[int]]
"""Looks for one thing, and gives the number of a call for each time that it was there."""

_LOOKS: Final[dict[Look, tuple[str, str, str]]] = {}
"""With the advice: what it is about, says, and asks to do."""


def _look(about: str, says: str, do: str) -> Callable[[Look], Look]:
    def register(look: Look) -> Look:
        _LOOKS[look] = (about, says, do)
        return look

    return register


@_look(
    "unprocessed-not-sent-again",
    "UnprocessedRecords came and were not sent again: nobody has metered them.",
    "A 200 with UnprocessedRecords is half an answer: send exactly these again, unchanged.",
)
def _not_sent_again(seen: Seen) -> Iterable[int]:
    left: dict[Key, int] = {}
    for call, records in seen:
        for record in records:
            left.pop(_key(call, record), None)
        if call.unprocessed:
            done = {_key(call, result["UsageRecord"]) for result in call.results}
            keys = {_key(call, record) for record in records} - done
            left.update(dict.fromkeys(keys, call.number))
    return left.values()


@_look(
    "second-quantity-for-an-hour",
    "A second quantity was sent for an hour that has one: it is lost.",
    "The first quantity of a customer, dimension and hour stays. Add usage up, and send an "
    "hour once, when it is over.",
)
def _second_quantity(seen: Seen) -> Iterator[int]:
    first: dict[Key, str] = {}
    for call, _ in seen:
        for result in call.results:
            key, content = _key(call, result["UsageRecord"]), _content(result["UsageRecord"])
            if result["Status"] == "Success":
                first.setdefault(key, content)
            elif result["Status"] == "DuplicateRecord" and content != first.get(key, content):
                yield call.number


@_look(
    "retried-with-other-content",
    "Records that had no answer were sent again with other content.",
    "A call whose answer was lost may have been carried out. Send the same record again, byte "
    "for byte; usage that has come since belongs in a later hour.",
)
def _other_content(seen: Seen) -> Iterator[int]:
    doubtful: dict[Key, str] = {}
    for call, records in seen:
        for record in records:
            key, content = _key(call, record), _content(record)
            if content != doubtful.get(key, content):
                yield call.number
            if _is_answered(call):
                doubtful.pop(key, None)
            elif not call.code or (call.status or 500) >= 500:
                doubtful.setdefault(key, content)


@_look(
    "no-quantity",
    "Records came without a quantity: each is metered as 0 units.",
    "Send Quantity or QuantityAsDecimal. An SDK that does not know a member may leave it out "
    "without a word: update it.",
)
def _no_quantity(seen: Seen) -> Iterator[int]:
    for call, records in seen:
        for record in records:
            if "Quantity" not in record and "QuantityAsDecimal" not in record:
                yield call.number


@_look(
    "stamped-with-the-time-of-sending",
    "Records are stamped with the time of sending.",
    "Usage counts in the hour that it is stamped with. Stamp it with the start of the hour in "
    "which it was used, so that a retry is the same record, also past the hour.",
)
def _stamped_at_sending(seen: Seen) -> Iterable[int]:
    found = []
    for call, records in seen:
        received = call.received.timestamp()
        for record in records:
            stamp = record.get("Timestamp")
            if not isinstance(stamp, (int, float)) or stamp % 3600 == 0:
                continue
            if abs(received - stamp) < _AT_ONCE:
                found.append(call.number)
    return found if len(found) >= _LEAST_STAMPED else ()


@_look(
    "one-record-a-call",
    "Records come one a call, ten and more within a minute for one product.",
    "A call takes 25 records of one product, and the quota counts calls: wait a moment for "
    "company.",
)
def _one_record_a_call(seen: Seen) -> Iterable[int]:
    latest: dict[tuple[Any, ...], deque[tuple[datetime, int]]] = {}
    found: set[int] = set()
    for call, records in seen:
        if len(records) != 1 or not _is_answered(call):
            continue
        whose = (call.region, call.access_key_id, (call.request or {}).get("ProductCode"))
        recent = latest.setdefault(whose, deque())
        recent.append((call.received, call.number))
        while call.received - recent[0][0] > _MINUTE:
            recent.popleft()
        if len(recent) >= _LEAST_SINGLE:
            found.update(number for _, number in recent)
    return found


def advice_on(calls: Iterable[Call], twice_billed: Sequence[str]) -> list[Advice]:
    """
    Return what to change, in an order that stays; nothing where all is well.

    Args:
        calls: The latest calls, oldest first.
        twice_billed: The lines of `Book.double_billed()`.
    """
    seen = [
        (call, [record for record in records if isinstance(record, Mapping)])
        for call in calls
        if call.operation == _BATCH
        and isinstance(records := (call.request or {}).get("UsageRecords"), list)
    ]
    advice = list(_twice(twice_billed))
    for look, (about, says, do) in _LOOKS.items():
        if found := list(look(seen)):
            numbers = tuple(sorted(set(found))[-_MOST_NAMED:])
            advice.append(Advice(about=about, says=says, do=do, count=len(found), calls=numbers))
    return advice


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
