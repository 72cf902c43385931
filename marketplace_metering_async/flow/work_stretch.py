"""
Turns of the event loop, which others want to run as well: no long work at a stretch.

The program awaits us among a thousand other things, and each of them waits while we compute.
"""

import asyncio
from typing import Final

from marketplace_metering_async.clock import Clock

_LONGEST_STRETCH: Final = 0.0005
"""Seconds of work after which the event loop gets its turn."""
RECORDS_PER_STEP: Final = 128
"""Records between two looks at the clock."""


class WorkStretch:
    """Gives the event loop its turn in long work."""

    def __init__(self, clock: Clock) -> None:
        self._monotonic = clock.monotonic
        self._since = self._monotonic()

    async def yield_if_due(self) -> bool:
        """Yield to the event loop if its last turn is long ago; return whether it was."""
        if self._monotonic() - self._since <= _LONGEST_STRETCH:
            return False
        await asyncio.sleep(0)
        self._since = self._monotonic()
        return True
