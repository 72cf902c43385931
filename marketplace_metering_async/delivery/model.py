"""What travels together: lanes, chunks, and what each record in them has been through."""

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from attrs import define, evolve, field, frozen

from marketplace_metering_async.aws import wire
from marketplace_metering_async.errors import MeteringError
from marketplace_metering_async.records import UsageRecord


class Lane(NamedTuple):
    """
    What shares requests: the records of one product and identity scheme.

    Attributes:
        product_code: The product; None for licenses whose product nobody named.
        licensed: Whether the records name a license, so that no product code is sent.
        group: Which of the licenses of unnamed products these are, once some turned out not to mix.
    """

    product_code: str | None
    licensed: bool = False
    group: int | None = None

    @property
    def sent_product_code(self) -> str | None:
        """The `ProductCode` of the lane's requests."""
        return None if self.licensed else self.product_code

    @property
    def is_unnamed(self) -> bool:
        """Whether these are licenses whose product nobody named, so that they may be of several."""
        return self.licensed and self.product_code is None

    @property
    def whole(self) -> "Lane":
        """The lane with all its groups."""
        return self if self.group is None else self._replace(group=None)


@frozen(kw_only=True)
class AttemptHistory:
    """
    What a record has been through; shared by all records that went through it together.

    Attributes:
        attempts: Calls that carried the record.
        failures: Those that failed for the service's fault, throttles apart.
        repairs: The latest in a row after which credentials or clock were corrected.
        doubt: Whether one of them may have been acted upon though no response says so.
        rested: Whether the record has waited for the service's clock to reach its timestamp.
        first_attempt_at: Monotonic time of the first attempt that was not throttled, or None.
        error: Why the last attempt settled nothing.
        request_id: The service's id of the last attempt.
    """

    attempts: int = 0
    failures: int = 0
    repairs: int = 0
    doubt: bool = False
    rested: bool = False
    first_attempt_at: float | None = None
    error: MeteringError | None = None
    request_id: str | None = None


NO_ATTEMPTS: Final = AttemptHistory()


class PendingRecord(NamedTuple):
    """A record without a verdict: its position in what was given, itself, and its history."""

    position: int
    record: UsageRecord
    history: AttemptHistory


@define
class Chunk:
    """
    Records that travel in one request, in columns: most chunks are settled as a whole.

    Attributes:
        lane: Whose records they are.
        positions: Where they stand in what was given.
        records: The records.
        histories: What each has been through.
        members: The records as the wire carries them.
    """

    lane: Lane
    positions: list[int]
    records: list[UsageRecord]
    histories: list[AttemptHistory]
    members: list[wire.Members] = field(repr=False)

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.positions)

    @property
    def body(self) -> bytes:
        """The body of the request; the bytes of a record are the same in every chunk."""
        return wire.encode_batch(self.lane.sent_product_code, self.members)

    @property
    def entries(self) -> list[PendingRecord]:
        """The records with their positions and histories."""
        return list(map(PendingRecord, self.positions, self.records, self.histories))

    def part(self, indices: Iterable[int]) -> "Chunk":
        """Return a chunk of some of the records."""
        chosen = list(indices)
        return Chunk(
            self.lane,
            [self.positions[i] for i in chosen],
            [self.records[i] for i in chosen],
            [self.histories[i] for i in chosen],
            [self.members[i] for i in chosen],
        )

    def after(self, step: Callable[[AttemptHistory], AttemptHistory]) -> "Chunk":
        """Return the chunk with each history after one *step*, shared as before."""
        before = {id(history): history for history in self.histories}
        after = {key: step(history) for key, history in before.items()}
        return evolve(self, histories=[after[id(history)] for history in self.histories])
