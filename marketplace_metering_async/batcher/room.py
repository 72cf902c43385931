"""How many records may be pending: whoever comes later waits, product by product in turn."""

import asyncio
from collections import deque

from marketplace_metering_async.errors import ClientClosedError
from marketplace_metering_async.planning import Lane


class Room:
    """So many places; when one is free, the next lane in turn gets it, so that no flood starves."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: dict[Lane, deque[asyncio.Future[None]]] = {}
        self._closed = False

    async def enter(self, lane: Lane) -> None:
        """
        Take a place for a record of *lane*, waiting for one if need be.

        Raises:
            ClientClosedError: after close(), also while waiting.
        """
        if self._closed:
            raise ClientClosedError("the batcher is closed")
        if self._free and not self._waiting:
            self._free -= 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(lane, deque()).append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.exception() is None:
                self.leave()  # it was given to us at the same moment
            raise

    def leave(self) -> None:
        """Give a place back."""
        while self._waiting:
            lane = next(iter(self._waiting))
            queue = self._waiting.pop(lane)
            place = queue.popleft()
            if queue:
                self._waiting[lane] = queue  # and goes to the end of the line
            if not place.done():
                place.set_result(None)
                return
        self._free += 1

    def close(self) -> None:
        """Let nobody in any more."""
        self._closed = True
        for queue in self._waiting.values():
            for place in queue:
                if not place.done():
                    place.set_exception(ClientClosedError("the batcher is closed"))
        self._waiting.clear()
