"""Usage of many callers, stored in one commit: the disk is waited for once for all of them."""

import asyncio
import copy
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from marketplace_metering_async.errors import UsageRefusedError
from marketplace_metering_async.ledger.model import Usage
from marketplace_metering_async.ledger.posting import AddedUsage, PostingResult

_MOST: Final = 1_000
"""Pieces of usage that share one commit."""

Post = Callable[[Sequence[Usage]], Awaitable[Sequence[PostingResult]]]
"""Stores usage durably, and says what became of each piece."""

_Waiting = tuple[Usage, "asyncio.Future[AddedUsage]"]


class GroupCommit:
    """Stores usage group by group; while one group is stored, the next one gathers."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._waiting: deque[_Waiting] = deque()
        self._committing: asyncio.Task[None] | None = None

    async def add(self, usage: Usage) -> AddedUsage:
        """
        Return once *usage* is stored.

        Cancelling takes it out where its group has not begun yet, and leaves it open otherwise.

        Raises: what *post* raises for the whole group, or returns for this piece.
        """
        stored: asyncio.Future[AddedUsage] = asyncio.get_running_loop().create_future()
        entry = (usage, stored)
        self._waiting.append(entry)
        self._begin()
        try:
            return await stored
        except asyncio.CancelledError:
            if entry in self._waiting:
                self._waiting.remove(entry)
            raise

    async def settled(self) -> None:
        """Return when nothing is being stored any more."""
        while self._committing is not None:
            await asyncio.wait((self._committing,))

    def _begin(self) -> None:
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit_groups())
            self._committing.add_done_callback(self._ended)

    def _ended(self, _: "asyncio.Task[None]") -> None:
        self._committing = None
        if any(not stored.done() for _, stored in self._waiting):
            self._begin()  # it was cancelled, perhaps before it began, and they were not

    async def _commit_groups(self) -> None:
        while self._waiting:
            size = min(len(self._waiting), _MOST)
            await self._commit([self._waiting.popleft() for _ in range(size)])

    async def _commit(self, group: Sequence[_Waiting]) -> None:
        """Store a group; where the database refuses some usage of it, part by part."""
        outcomes: Sequence[PostingResult | BaseException]
        try:
            outcomes = await self._post([usage for usage, _ in group])
        except BaseException as error:  # noqa: BLE001 - each caller raises one of its own
            if isinstance(error, UsageRefusedError) and len(group) > 1:
                half = len(group) // 2
                await self._commit(group[:half])
                await self._commit(group[half:])
                return
            outcomes = [copy.copy(error) for _ in group]
        for (_, waiting), outcome in zip(group, outcomes, strict=True):
            if waiting.done():
                continue  # its caller was cancelled
            if isinstance(outcome, AddedUsage):
                waiting.set_result(outcome)
            elif isinstance(outcome, asyncio.CancelledError):
                waiting.cancel()
            else:
                waiting.set_exception(outcome)
