"""One call of a delivery: what it carries and shares, for whom, and what follows from it."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextvars import Context
from random import Random

from attrs import define, frozen

from marketplace_metering_async.aws import wire
from marketplace_metering_async.aws.connection import RepairedError, ServiceConnection
from marketplace_metering_async.delivery import decisions
from marketplace_metering_async.delivery.decisions import Decision
from marketplace_metering_async.delivery.isolation import Search
from marketplace_metering_async.delivery.model import Chunk
from marketplace_metering_async.errors import MeteringError
from marketplace_metering_async.events import WarningIssued, emit
from marketplace_metering_async.flow.pacing import CallEnd
from marketplace_metering_async.flow.permits import CallPermits
from marketplace_metering_async.flow.retries import RetryPolicy
from marketplace_metering_async.results import SettledRecords, Verdict


@frozen(eq=False, kw_only=True)
class Shared:
    """
    What all deliveries of one client have in common.

    Attributes:
        connection: Makes the calls.
        permits: Say when a call may start.
        policy: When to send again and when to give up.
        random: Where jitter comes from.
    """

    connection: ServiceConnection
    permits: CallPermits
    policy: RetryPolicy
    random: Random


class Door(ABC):
    """
    Who gave the records of a delivery, and gets their verdicts.

    Attributes:
        goes_on: Whether records may come later, so that what is stopped is tried again after a
            minute.
        screen: Returns the verdict on a PendingRecord whose turn has come, if there is one already.
    """

    goes_on = False
    screen: Callable[..., Verdict | None] | None = None

    @abstractmethod
    def settle(self, outcomes: Sequence[SettledRecords]) -> None:
        """Take verdicts as they come; each position gets one."""

    @abstractmethod
    def unsettled(self, among: Sequence[int] | None) -> Sequence[int]:
        """Return which of some positions, or of all, have no verdict: the net below a bug."""

    def leaving(self, positions: Sequence[int]) -> None:  # noqa: B027 - it need not care
        """Take note that records at *positions* are about to be sent."""

    def callers(self, positions: Sequence[int]) -> Sequence[Context] | None:  # noqa: ARG002
        """
        Return the contexts of those who gave the records at *positions*.

        None where all are of one caller, in whose context the delivery runs.
        """
        return None


@define(eq=False)
class Call:
    """
    A call that is being made.

    Attributes:
        shared: What it has in common with the client's other calls.
        door: Who gave the records.
        chunk: What it carries.
        search: The search that the chunk is a part of.
        begun: Monotonic time.
        sent: Whether the request was handed to the transport.
    """

    shared: Shared
    door: Door
    chunk: Chunk
    search: Search | None
    begun: float
    sent: bool = False

    async def make(self) -> Decision:
        """Make it, and decide."""
        chunk, connection, policy = self.chunk, self.shared.connection, self.shared.policy
        try:
            answer = await connection.call(
                "BatchMeterUsage",
                chunk.body,
                carried=chunk.records,
                callers=self.door.callers(chunk.positions),
                attempt=chunk.histories[0].attempts + 1,
                leaving=self._leave,
            )
            reply = wire.read_reply(chunk.members, answer.body)
        except RepairedError as repaired:
            return decisions.on_repaired(chunk, repaired.error, self.begun)
        except MeteringError as error:
            time = connection.service_time()
            _drop_tracebacks(error)
            return decisions.on_error(
                chunk, error, self.begun, policy, sent=self.sent, service_time=time
            )
        if reply.oddities:
            oddities = "; ".join(dict.fromkeys(reply.oddities))
            text = f"odd response to request {answer.request_id}: {oddities}"
            emit(connection.observer, WarningIssued(text=text))
        return decisions.on_reply(chunk, reply, answer.request_id, self.begun, policy)

    def _leave(self) -> None:
        self.sent = True
        self.begun = self.shared.connection.clock.monotonic()
        self.door.leaving(self.chunk.positions)

    def return_permit(self, decision: Decision | None = None) -> None:
        """Say how the call ended; what the pacer makes of it changes no verdict."""
        how, retry_after = CallEnd.CANCELLED if self.sent else CallEnd.ABANDONED, None
        if decision is not None and self.sent:
            how, retry_after = decision.ended, getattr(decision.error, "retry_after", None)
        try:
            self.shared.permits.end(how, retry_after)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - of the caller's pacer
            text = f"the pacer raised {type(error).__name__} when a call had ended"
            emit(self.shared.connection.observer, WarningIssued(text=text))


def _drop_tracebacks(error: BaseException | None) -> None:
    """Take them from *error* and its causes: as a verdict it would keep alive all that was sent."""
    while error is not None and error.__traceback__ is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
