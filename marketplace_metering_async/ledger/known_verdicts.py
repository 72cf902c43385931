"""Verdicts that are known and not written down yet: kept until they are, whatever happens."""

import asyncio
from collections.abc import Callable
from typing import Final

from marketplace_metering_async.errors import LedgerError
from marketplace_metering_async.events import Observer, WarningIssued, emit
from marketplace_metering_async.ledger.model import Settlement
from marketplace_metering_async.ledger.relay_report import RelayNews
from marketplace_metering_async.ledger.stores.store import Store

_WRITTEN_AT_ONCE: Final = 250


class KnownVerdicts:
    """
    What the service has said of records of a ledger, for all its relays in this process.

    A relay claims nothing while there are any from before, so that they are never many.
    """

    def __init__(self, store: Store) -> None:
        """Begin with none."""
        self._store = store
        self._kept: list[Settlement] = []
        self._writing = asyncio.Lock()

    def __len__(self) -> int:
        """Return how many are not written."""
        return len(self._kept)

    def keep(self, verdict: Settlement) -> None:
        """Keep one more."""
        self._kept.append(verdict)

    @property
    def is_enough(self) -> bool:
        """Whether there are enough for a transaction of their own."""
        return len(self._kept) >= _WRITTEN_AT_ONCE

    async def write(self, now: int, hear: Callable[[Settlement], None]) -> None:
        """
        Write them all; *hear* is called with what came of each.

        Raises:
            LedgerError: the database cannot be used; what is not known to be written is kept.
        """
        async with self._writing:
            while self._kept:
                part = self._kept[:_WRITTEN_AT_ONCE]
                heard = await self._store.settle(part, now)
                del self._kept[: len(part)]
                for one in heard:
                    hear(one)

    async def write_or_warn(self, now: int, observer: Observer) -> None:
        """Write them all for the last time, and tell *observer*; what fails is a warning."""
        news = RelayNews()
        try:
            await self.write(now, news.hear)
        except LedgerError as error:
            text = f"{len(self)} verdicts could not be written down ({error})"
            emit(observer, WarningIssued(text=text))
        news.tell(observer)
