"""A refused chunk on its way to verdicts: which part goes next, and what each part showed."""

from collections.abc import Sequence

from marketplace_metering_async.delivery.isolation import Isolation, Part, named_in
from marketplace_metering_async.delivery.model import Chunk, PendingRecord
from marketplace_metering_async.errors import MarketplaceMeteringException


class Search:
    """
    The search through one refused chunk.

    Take `next_part()` to the service, and say what came of it, until there is none. What was
    neither taken nor refused says nothing: its records are sent again with others.

    Attributes:
        chunk: What was refused.
        error: The refusal.
        parts_taken: What the service took of it, part by part.
        refused_alone: How many records were refused alone.
    """

    def __init__(
        self, chunk: Chunk, error: MarketplaceMeteringException, *, by_license: bool
    ) -> None:
        """Search *chunk*; *by_license*: try records of one license together."""
        self.chunk = chunk
        self.error = error
        self.parts_taken: list[Chunk] = []
        self.refused_alone = 0
        self._by_index = chunk.entries
        self._trying = Part(())
        labels = [record.license_arn for record in chunk.records] if by_license else None
        hinted = named_in(error.message, chunk.records)
        self._isolation = Isolation(len(chunk), hinted, labels)

    @property
    def tried(self) -> int:
        """How many parts were handed out."""
        return self._isolation.tried

    def next_part(self) -> Chunk | None:
        """Return the records to send next, or None when nothing is left to be tried."""
        part = self._isolation.next_part()
        if part is None:
            return None
        self._trying = part
        return self.chunk.advanced(self._by_index).part(part.indices)

    def taken(self, part: Chunk) -> None:
        """Note that the service took the last part."""
        self.parts_taken.append(part)
        self._isolation.taken(self._trying)

    def refused(self, entries: Sequence[PendingRecord]) -> PendingRecord | None:
        """Note that it refused the last part, now *entries*; return a record refused alone."""
        for index, entry in zip(self._trying.indices, entries, strict=True):
            self._by_index[index] = entry
        self._isolation.refused(self._trying)
        if len(entries) > 1:
            return None
        self.refused_alone += 1
        return entries[0]

    def waiting(self) -> list[PendingRecord]:
        """Return the records that wait for their part to be tried."""
        return [self._by_index[index] for index in self._isolation.remaining()]

    def remove(self, entries: Sequence[PendingRecord]) -> None:
        """Leave records out that are settled otherwise."""
        gone = {entry.position for entry in entries}
        self._isolation.remove(
            index for index, entry in enumerate(self._by_index) if entry.position in gone
        )
