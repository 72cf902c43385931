"""The latest calls, with what became of them; and a counter of changes for whoever watches."""

import asyncio
import sys
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from attrs import define

from marketplace_metering_async.sandbox.expected import require


@define(kw_only=True)
class Call:
    """
    One call that came to the sandbox, with what is known of it so far.

    Attributes:
        number: Counted from 1, once the call has ended.
        received: When, by the sandbox's clock.
        operation: As X-Amz-Target says.
        request_id: As the answer says.
        region: From the signature; None where it could not be read.
        access_key_id: From the signature; None where it could not be read.
        request: The members that came; None where they could not be read or are too large to keep.
        size: Of the body, in bytes.
        status: The HTTP status; None where there was no answer.
        code: The error code of a refusal.
        rule: The rule that was broken.
        remedy: What can be done about it.
        results: Status of each record of the answer, with what the answer says of it.
        unprocessed: How many records were left.
        fault: The fault that hit it.
        seconds: How long it took, in real time.
    """

    number: int = 0
    received: datetime
    operation: str
    request_id: str
    region: str | None = None
    access_key_id: str | None = None
    request: Mapping[str, Any] | None = None
    size: int = 0
    status: int | None = None
    code: str | None = None
    rule: str | None = None
    remedy: str | None = None
    results: tuple[Mapping[str, Any], ...] = ()
    unprocessed: int = 0
    fault: str | None = None
    seconds: float = 0.0

    def note_reply(self, reply: Mapping[str, Any]) -> None:
        """Take note of what was answered, or would have been if no fault had hit."""
        self.results = tuple(reply.get("Results") or ())
        self.unprocessed = len(reply.get("UnprocessedRecords") or ())

    @property
    def verdicts(self) -> dict[str, int]:
        """How many records got each status, "Unprocessed" among them."""
        found = Counter(str(result.get("Status")) for result in self.results)
        if self.unprocessed:
            found["Unprocessed"] = self.unprocessed
        return found


class History:
    """The latest calls, oldest first; those before are forgotten."""

    def __init__(self, most: int) -> None:
        """Keep the latest *most* calls; 0 keeps none. TypeError or ValueError for what is none."""
        require("history", most, int)
        if not 0 <= most <= sys.maxsize:
            raise ValueError(f"history: expected 0 or more calls, got {most}")
        self._calls: deque[Call] = deque(maxlen=most)
        self._last = 0
        self.keeps = most > 0

    def __len__(self) -> int:
        """Return how many calls are kept."""
        return len(self._calls)

    def __iter__(self) -> Iterator[Call]:
        """Iterate over the calls, oldest first."""
        return iter(tuple(self._calls))

    def add(self, call: Call) -> None:
        """Keep a call that has ended, under the next number; no number comes twice."""
        self._last += 1
        call.number = self._last
        self._calls.append(call)

    def since(self, number: int) -> list[Call]:
        """Return the calls after the one with *number*, oldest first."""
        return [call for call in self._calls if call.number > number]

    def clear(self) -> None:
        """Forget all."""
        self._calls.clear()


class ChangeCounter:
    """A counter of changes that can be waited for; any thread may raise it."""

    def __init__(self) -> None:
        self.count = 0
        self.stopped = False
        self._waiting: set[asyncio.Future[None]] = set()

    def bump(self) -> None:
        """Something has changed."""
        self.count += 1
        if self._waiting:
            self._wake()

    def stop(self) -> None:
        """Let nobody wait any longer."""
        self.stopped = True
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for future in waiting:
            future.get_loop().call_soon_threadsafe(_finish, future)

    async def wait_beyond(self, count: int) -> int:
        """Return the count as soon as it is above *count*, or the counter has stopped."""
        while self.count <= count and not self.stopped:
            future = asyncio.get_running_loop().create_future()
            self._waiting.add(future)
            try:
                if self.count <= count:  # nothing has changed since
                    await future
            finally:
                self._waiting.discard(future)
        return self.count


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
