"""One call of a delivery: what it carries, and what follows from how it went."""

import asyncio
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Final

from attrs import define

from marketplace_metering_async.aws import wire
from marketplace_metering_async.aws.connection import RepairedError
from marketplace_metering_async.delivery import decisions
from marketplace_metering_async.delivery.decisions import Decision
from marketplace_metering_async.delivery.isolation import Search
from marketplace_metering_async.delivery.model import Chunk
from marketplace_metering_async.delivery.shared import Shared
from marketplace_metering_async.errors import MeteringError
from marketplace_metering_async.events import Observer, WarningIssued, emit
from marketplace_metering_async.flow.permits import Permit

_OPERATION: Final = "BatchMeterUsage"


@define(eq=False)
class Call:
    """
    A call that is being made.

    Attributes:
        chunk: What it carries.
        search: The search that the chunk is a part of.
        permit: The right to make it; it knows whether the request was handed to the transport.
        begun: Monotonic time.
        task: What makes it.
    """

    chunk: Chunk
    search: Search | None
    permit: Permit
    begun: float
    task: "asyncio.Task[None] | None" = None

    async def make(
        self,
        shared: Shared,
        leaving: Callable[[Sequence[int]], None],
        callers: Callable[[Sequence[int]], Sequence[Context]] | None,
    ) -> Decision:
        """
        Make it, and decide.

        *leaving* takes the positions when the request leaves; *callers* returns who gave them.
        """
        chunk, connection, policy = self.chunk, shared.connection, shared.policy

        def leaves() -> None:
            self.permit.sent = True
            self.begun = shared.clock.monotonic()
            leaving(chunk.positions)

        try:
            answer = await connection.call(
                _OPERATION,
                chunk.body,
                carried=chunk.records,
                callers=None if callers is None else callers(chunk.positions),
                attempt=chunk.histories[0].attempts + 1,
                leaving=leaves,
            )
            await shared.turns.wait()
            reply = wire.read_reply(chunk.members, answer.body)
        except RepairedError as repaired:
            return decisions.on_repaired(chunk, repaired.error, self.begun)
        except MeteringError as error:
            return decisions.on_error(
                chunk,
                error,
                self.begun,
                policy,
                sent=self.permit.sent,
                service_time=connection.service_time(),
            )
        if reply.oddities:
            oddities = "; ".join(dict.fromkeys(reply.oddities))
            text = f"odd response to request {answer.request_id}: {oddities}"
            emit(shared.observer, WarningIssued(text=text))
        return decisions.on_reply(chunk, reply, answer.request_id, self.begun, policy)

    def return_permit(self, observer: Observer, decision: Decision | None = None) -> None:
        """Say how the call ended, if nobody did; what the pacer makes of it changes no verdict."""
        try:
            if decision is not None and self.permit.sent:
                retry_after = getattr(decision.error, "retry_after", None)
                self.permit.end(decision.ended, retry_after=retry_after)
            else:
                self.permit.release()
        except Exception as error:  # noqa: BLE001 - the pacer may be the caller's
            text = f"the pacer raised {type(error).__name__} when a call had ended"
            emit(observer, WarningIssued(text=text))
