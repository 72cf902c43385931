"""What all deliveries of one client have in common."""

from random import Random

from attrs import frozen

from marketplace_metering_async.aws.connection import ServiceConnection
from marketplace_metering_async.clock import Clock
from marketplace_metering_async.events import Observer
from marketplace_metering_async.flow.loop_budget import LoopBudget
from marketplace_metering_async.flow.permits import CallPermits
from marketplace_metering_async.flow.retries import RetryPolicy


@frozen(eq=False, kw_only=True)
class Shared:
    """
    What all deliveries of one client have in common.

    Attributes:
        connection: Makes the calls.
        permits: Say when a call may start.
        turns: Spread the handling of responses over turns of the event loop.
        policy: When to send again and when to give up.
        random: Where jitter comes from.
        max_concurrency: The most requests on the wire at once.
    """

    connection: ServiceConnection
    permits: CallPermits
    turns: LoopBudget
    policy: RetryPolicy
    random: Random
    max_concurrency: int

    @property
    def clock(self) -> Clock:
        """Where the time comes from."""
        return self.connection.clock

    @property
    def observer(self) -> Observer:
        """Who gets the events."""
        return self.connection.observer
