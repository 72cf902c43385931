"""Usage of many callers, stored in one commit: the disk is waited for once for all of them."""

import asyncio
import copy
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from attrs import define

from marketplace_metering_async.errors import LedgerError, UsageRefusedError
from marketplace_metering_async.ledger.model import Usage
from marketplace_metering_async.ledger.posting import AddedUsage, PostingResult

_MOST: Final = 1_000
"""Pieces of usage that share one commit."""
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
_HELD_FOR: Final = 60.0
"""Seconds for which usage waits for a caller's open transaction that has its event id."""

Post = Callable[[Sequence[Usage]], Awaitable[Sequence[PostingResult | None]]]
"""Stores usage durably, and says what became of each piece; None: it is to be brought again."""


@define(eq=False)
class _Piece:
    usage: Usage
    stored: "asyncio.Future[AddedUsage]"
    held_until: float | None = None  # the loop's time, once it is held


_Group = Sequence[_Piece]


class _Line:
    """Pieces that wait, and a task that takes group after group of them while there are any."""

    def __init__(self, commit: Callable[[_Group], Awaitable[None]], longest_pause: float) -> None:
        self._commit = commit
        self._longest = longest_pause
        self._waiting: deque[_Piece] = deque()
        self._committing: asyncio.Task[None] | None = None

    def enter(self, piece: _Piece) -> None:
        self._waiting.append(piece)
        self._begin()

    def leave(self, piece: _Piece) -> None:
        """Take it out, unless its group has begun."""
        if piece in self._waiting:
            self._waiting.remove(piece)

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
        if any(not piece.stored.done() for piece in self._waiting):
            self._begin()  # it was cancelled, perhaps before it began, and they were not

    async def _commit_groups(self) -> None:
        pause = _FIRST_PAUSE
        while self._waiting:
            if self._longest:
                await asyncio.sleep(pause)
                pause = min(2 * pause, self._longest)
            size = min(len(self._waiting), _MOST)
            await self._commit([self._waiting.popleft() for _ in range(size)])


class GroupCommit:
    """
    Stores usage group by group; while one group is stored, the next one gathers.

    Usage that another one's transaction holds up waits in a line of its own.
    """

    def __init__(self, post: Post) -> None:
        self._post = post
        self._ready = _Line(self._commit, 0.0)
        self._held = _Line(self._commit, _LONGEST_PAUSE)

    async def add(self, usage: Usage) -> AddedUsage:
        """
        Return once *usage* is stored.

        Cancelling takes it out where its group has not begun yet, and leaves it open otherwise.

        Raises: what *post* raises for the whole group, or returns for this piece; LedgerError where
            it is held for too long.
        """
        piece = _Piece(usage, asyncio.get_running_loop().create_future())
        self._ready.enter(piece)
        try:
            return await piece.stored
        except asyncio.CancelledError:
            self._ready.leave(piece)
            self._held.leave(piece)
            raise

    async def settled(self) -> None:
        """Return when nothing is being stored any more."""
        await self._ready.settled()
        await self._held.settled()

    async def _commit(self, group: _Group) -> None:
        """Store a group; where the database refuses some usage of it, part by part."""
        outcomes: Sequence[PostingResult | BaseException | None]
        try:
            outcomes = await self._post([piece.usage for piece in group])
        except BaseException as error:  # noqa: BLE001 - each caller raises one of its own
            if isinstance(error, UsageRefusedError) and len(group) > 1:
                half = len(group) // 2
                await self._commit(group[:half])
                await self._commit(group[half:])
                return
            outcomes = [copy.copy(error) for _ in group]
        for piece, outcome in zip(group, outcomes, strict=True):
            if piece.stored.done():
                continue  # its caller was cancelled
            if isinstance(outcome, AddedUsage):
                piece.stored.set_result(outcome)
            elif isinstance(outcome, asyncio.CancelledError):
                piece.stored.cancel()
            elif outcome is not None:
                piece.stored.set_exception(outcome)
            else:
                self._hold(piece)

    def _hold(self, piece: _Piece) -> None:
        now = asyncio.get_running_loop().time()
        piece.held_until = piece.held_until or now + _HELD_FOR
        if now < piece.held_until:
            self._held.enter(piece)
        else:
            piece.stored.set_exception(
                LedgerError(
                    f"end the transaction that has had event id {piece.usage.event_id!r} for "
                    f"{_HELD_FOR:.0f} seconds, and call again; nothing was stored"
                )
            )
