"""A record that is pending and who waits for its verdict; and the keys that went out before."""

import asyncio
import copy
from collections import OrderedDict
from typing import Final

from attrs import define, field, frozen

from marketplace_metering_async.planning import Lane
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.results import RecordResult, RecordStatus, Verdict

Key = tuple[str | int | None, ...]

_MOST_KEYS: Final = 100_000
"""Keys that are remembered after their verdict: an hour of 100,000 customers and dimensions."""
_MAY_BE_ON_FILE: Final = (
    RecordStatus.SUCCESS,
    RecordStatus.DUPLICATE_RECORD,
    RecordStatus.UNCONFIRMED,
)


@define(eq=False)
class Waiter:
    """One caller of meter()."""

    position: int
    given: object
    result: "asyncio.Future[RecordResult]"


@define(eq=False)
class Entry:
    """
    A record that has no verdict yet.

    Attributes:
        waiters: Callers who gave it; the first gave its position.
        since: Monotonic time at which it came.
        gathered: Whether it waits to be let go, and may be withdrawn.
    """

    position: int
    record: UsageRecord
    key: Key
    lane: Lane
    since: float
    waiters: list[Waiter] = field(factory=list)
    gathered: bool = True
    _ended: bool = False
    _over: "asyncio.Future[None] | None" = None  # made for the first who asks, maybe after the end

    def over(self) -> "asyncio.Future[None]":
        """Return what is done once there is a verdict, or nobody waits for one any more."""
        if self._over is None:
            self._over = asyncio.get_running_loop().create_future()
            if self._ended:
                self._over.set_result(None)
        return self._over

    def settle(self, verdict: Verdict, record_id: str | None) -> RecordResult:
        """Tell everybody who waits, each with an exception object of its own."""
        for waiter in self.waiters:
            if not waiter.result.done():
                own = result_for(waiter.position, waiter.given, self.position, verdict, record_id)
                waiter.result.set_result(own)
        self.end()
        return RecordResult(self.position, self.record, verdict, record_id)

    def end(self) -> None:
        """Nobody waits any more."""
        self._ended = True
        if self._over is not None and not self._over.done():
            self._over.set_result(None)


def result_for(
    position: int, given: object, first: int, verdict: Verdict, record_id: str | None
) -> RecordResult:
    """Return the result for the record at *position*, whose like at *first* has the *verdict*."""
    error = verdict.error
    if error is not None:
        own = copy.copy(error)
        own.__cause__ = error.__cause__
        verdict = verdict._replace(error=own)
    if position != first:
        verdict = verdict._replace(duplicate_of=first)
    return RecordResult(position, given, verdict, record_id)


@frozen
class SentKey:
    """What went out for a key, and what became of it."""

    position: int
    record: UsageRecord
    verdict: Verdict
    record_id: str | None


class SentKeys:
    """The keys that may be on file with the service; the oldest are forgotten first."""

    def __init__(self) -> None:
        self._keys: OrderedDict[Key, SentKey] = OrderedDict()

    def get(self, key: Key) -> SentKey | None:
        """Return what went out for *key*, as far as it is remembered."""
        return self._keys.get(key)

    def remember(self, entry: Entry, verdict: Verdict, record_id: str | None) -> None:
        """Take note of a verdict; one that leaves the key free for certain frees it."""
        if verdict.status not in _MAY_BE_ON_FILE:
            self._keys.pop(entry.key, None)
            return
        self._keys[entry.key] = SentKey(entry.position, entry.record, verdict, record_id)
        self._keys.move_to_end(entry.key)
        if len(self._keys) > _MOST_KEYS:
            self._keys.popitem(last=False)
