"""Usage of many callers, stored in one commit: the disk is waited for once for all of them."""

import asyncio
import copy
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from marketplace_metering_async.errors import (
    EventConflictError,
    EventTooOldError,
    InvalidRecordError,
    LateUsageError,
    LedgerError,
    UsageRefusedError,
)
from marketplace_metering_async.ledger.model import Usage
from marketplace_metering_async.ledger.posting import PostingResult

_MOST: Final = 1_000
"""Pieces of usage that share one commit."""
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
_HELD_FOR: Final = 60.0
"""Seconds for which usage waits for a caller's open transaction that has its event id."""

Post = Callable[[Sequence[Usage]], Awaitable[Sequence[PostingResult | None]]]
"""Stores usage durably, and says what became of each piece; None: it is to be brought again."""

Outcome = PostingResult | BaseException
"""What became of a piece of usage; whatever is raised for all of a commit has a copy for each."""

_OF_ITS_OWN: Final = (
    InvalidRecordError,
    EventConflictError,
    EventTooOldError,
    LateUsageError,
    UsageRefusedError,
)
"""Errors of one piece of usage, which say nothing of what was stored with it."""

_Stored = asyncio.Future[Sequence[Outcome | None]]
_Waiting = tuple[Sequence[Usage], _Stored]


def failure_of_all(outcomes: Sequence[Outcome]) -> BaseException | None:
    """Return why nothing was stored, where each failed by no fault of its own; None otherwise."""
    for one in outcomes:
        if not isinstance(one, BaseException) or isinstance(one, _OF_ITS_OWN):
            return None
    return outcomes[0] if outcomes else None  # type: ignore[return-value]  # all are exceptions


class GroupCommit:
    """
    Stores usage group by group; while one group is stored, the next one gathers.

    Usage whose event id is in a caller's open transaction waits in a line of its own.
    """

    def __init__(self, post: Post) -> None:
        self._ready = _Line(post)
        self._held = _Line(post, _LONGEST_PAUSE)

    def add(self, usages: Sequence[Usage]) -> _Stored:
        """
        Return a future of what became of *usages*, which share one commit, once they are stored.

        Of a piece whose event id is in a caller's open transaction it has None: see `add_later`.
        Cancelling takes them out where their group has not begun yet, and leaves it open otherwise.
        """
        return self._ready.add(usages)

    async def add_later(
        self, usages: Sequence[Usage], outcomes: Sequence[Outcome | None]
    ) -> Sequence[Outcome]:
        """Return what became of *usages*, of which those without an outcome are added again."""
        outcomes = [*outcomes]
        until = asyncio.get_running_loop().time() + _HELD_FOR
        while held := [place for place, one in enumerate(outcomes) if one is None]:
            again: Sequence[Outcome | None]
            if asyncio.get_running_loop().time() < until:
                again = await self._held.add([usages[place] for place in held])
            else:
                again = [_held_for_too_long(usages[place].event_id) for place in held]
            for place, outcome in zip(held, again, strict=True):
                outcomes[place] = outcome
        return outcomes  # type: ignore[return-value]  # none is None

    async def settled(self) -> None:
        """Return when nothing is being stored any more."""
        await self._ready.settled()
        await self._held.settled()


def _held_for_too_long(event_id: str | None) -> LedgerError:
    return LedgerError(
        f"end the transaction that has had event id {event_id!r} for {_HELD_FOR:.0f} seconds, and "
        "call again; nothing was stored"
    )


class _Line:
    """A line that waits, and a task that takes group after group of it while there is any."""

    def __init__(self, post: Post, longest_pause: float = 0.0) -> None:
        self._post = post
        self._longest_pause = longest_pause
        self._waiting: deque[_Waiting] = deque()
        self._committing: asyncio.Task[None] | None = None

    def add(self, usages: Sequence[Usage]) -> _Stored:
        """Put *usages* into the line; who cancels the future before their turn takes them out."""
        committing = self._committing or self._begin()
        stored: _Stored = committing.get_loop().create_future()
        self._waiting.append((usages, stored))
        return stored

    async def settled(self) -> None:
        while self._committing is not None:
            await asyncio.wait((self._committing,))

    def _begin(self) -> "asyncio.Task[None]":
        self._committing = committing = asyncio.create_task(self._commit_groups())
        committing.add_done_callback(self._ended)
        return committing

    def _ended(self, _: "asyncio.Task[None]") -> None:
        self._committing = None
        if any(not stored.done() for _, stored in self._waiting):
            self._begin()  # it was cancelled, perhaps before it began, and they were not

    async def _commit_groups(self) -> None:
        pause = min(_FIRST_PAUSE, self._longest_pause)
        while self._waiting:
            if pause:
                await asyncio.sleep(pause)
                pause = min(2 * pause, self._longest_pause)
            if group := self._next_group():
                await self._commit(group)

    def _next_group(self) -> list[_Waiting]:
        group: list[_Waiting] = []
        size = 0
        while self._waiting and (not group or size + len(self._waiting[0][0]) <= _MOST):
            usages, stored = self._waiting.popleft()
            if not stored.done():
                group.append((usages, stored))
                size += len(usages)
        return group

    async def _commit(self, group: Sequence[_Waiting]) -> None:
        try:
            outcomes = await self._outcomes([usage for usages, _ in group for usage in usages])
        except asyncio.CancelledError:
            for _, waiting in group:
                waiting.cancel()
            return
        end = 0
        for usages, waiting in group:
            start, end = end, end + len(usages)
            if not waiting.done():  # or its caller was cancelled
                waiting.set_result(outcomes[start:end])

    async def _outcomes(self, usages: Sequence[Usage]) -> Sequence[Outcome | None]:
        """Store usage; where the database refuses some of it, part by part."""
        try:
            return await self._post(usages)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - each caller raises one of its own
            if isinstance(error, UsageRefusedError) and len(usages) > 1:
                half = len(usages) // 2
                first = await self._outcomes(usages[:half])
                return [*first, *await self._outcomes(usages[half:])]
            return [copy.copy(error) for _ in usages]
