"""Usage of many callers, stored in one commit: the disk is waited for once for all of them."""

import asyncio
import copy
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import copy_context
from typing import Any, Final

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

_Brought = Usage | list[Usage]
_Stored = asyncio.Future[Any]
"""What became of what a call brought: an outcome or None, or a list of them."""


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

    def add(self, usage: Usage) -> "asyncio.Future[Outcome | None]":
        """
        Return a future of what became of *usage*, once it is stored.

        It is None where a caller's open transaction has its event id: see `add_later`. Cancelling
        takes it out where its group has not begun yet, and leaves it open otherwise.
        """
        return self._ready.add(usage)

    def add_many(self, usages: list[Usage]) -> "asyncio.Future[list[Outcome | None]]":
        """Return a future as `add` does, of all *usages*, which share one commit."""
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
    """
    A line that waits, and a task that takes group after group of it while there is any.

    What waits stands in columns, and one piece in no list: what else each call would hold until its
    commit, the garbage collector walks through, which took a seventh of all that a call takes.
    """

    def __init__(self, post: Post, longest_pause: float = 0.0) -> None:
        self._post = post
        self._longest_pause = longest_pause
        self._brought: deque[_Brought] = deque()
        self._waiting: deque[_Stored] = deque()
        self._committing: asyncio.Task[None] | None = None
        self._context = copy_context()  # a caller's would be held for as long as usage comes

    def add(self, brought: _Brought) -> _Stored:
        """Put usage into the line; who cancels the future before its turn takes it out."""
        committing = self._committing or self._begin()
        stored: _Stored = committing.get_loop().create_future()
        self._brought.append(brought)
        self._waiting.append(stored)
        return stored

    async def settled(self) -> None:
        while self._committing is not None:
            await asyncio.wait((self._committing,))

    def _begin(self) -> "asyncio.Task[None]":
        context = self._context.copy()
        self._committing = committing = context.run(asyncio.create_task, self._commit_groups())
        committing.add_done_callback(self._ended, context=context)
        return committing

    def _ended(self, _: "asyncio.Task[None]") -> None:
        self._committing = None
        if any(not stored.done() for stored in self._waiting):
            self._begin()  # it was cancelled, perhaps before it began, and they were not

    async def _commit_groups(self) -> None:
        pause = min(_FIRST_PAUSE, self._longest_pause)
        while self._waiting:
            if pause:
                await asyncio.sleep(pause)
                pause = min(2 * pause, self._longest_pause)
            group, waiting = self._next_group()
            if group:
                await self._commit(group, waiting)

    def _next_group(self) -> tuple[list[_Brought], list[_Stored]]:
        """Take calls out of the line, and leave out what was cancelled."""
        group: list[_Brought] = []
        waiting: list[_Stored] = []
        size = 0
        while self._waiting:
            brought, stored = self._brought[0], self._waiting[0]
            if not stored.done():
                size += 1 if isinstance(brought, Usage) else len(brought)
                if size > _MOST and group:
                    break
                group.append(brought)
                waiting.append(stored)
            self._brought.popleft()
            self._waiting.popleft()
        return group, waiting

    async def _commit(self, group: Sequence[_Brought], waiting: Sequence[_Stored]) -> None:
        usages: list[Usage] = []
        for brought in group:
            if isinstance(brought, Usage):
                usages.append(brought)
            else:
                usages += brought
        try:
            outcomes = await self._outcomes(usages)
        except asyncio.CancelledError:
            for stored in waiting:
                stored.cancel()
            return
        end = 0
        for brought, stored in zip(group, waiting, strict=True):
            start, end = end, end + (1 if isinstance(brought, Usage) else len(brought))
            if not stored.done():  # or its caller was cancelled
                of_one = isinstance(brought, Usage)
                stored.set_result(outcomes[start] if of_one else [*outcomes[start:end]])

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
