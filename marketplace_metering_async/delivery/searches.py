"""The searches of a delivery: one a lane at a time, and what they teach of other records."""

from collections import defaultdict, deque
from typing import Final

from attrs import Factory, define

from marketplace_metering_async.delivery import verdicts
from marketplace_metering_async.delivery.backlog import Backlog
from marketplace_metering_async.delivery.decisions import Decision, Refusal
from marketplace_metering_async.delivery.isolation import Search
from marketplace_metering_async.delivery.model import Chunk, Lane, PendingRecord
from marketplace_metering_async.delivery.refusals import REMEMBERED, LicenseGroups, SimilarRefusals
from marketplace_metering_async.error_kinds import classify
from marketplace_metering_async.errors import MarketplaceMeteringException
from marketplace_metering_async.events import Isolated, Isolating, Observer, emit
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.results import SettledRecords
from marketplace_metering_async.service_codes import ErrorKind

_WHOLE_REFUSALS: Final = 3
"""Chunks refused to the last record by an unknown code, after which their lane stops."""
_INVALID_LICENSE: Final = "InvalidLicenseException"


@define
class Findings:
    """
    What a step of the searches leads to.

    Attributes:
        moment: Monotonic time of the step.
        settled: Verdicts.
        returned: Records that are sent again.
        stop: Why their lane starts nothing new any more, if so.
    """

    moment: float
    settled: list[SettledRecords] = Factory(list)
    returned: list[PendingRecord] = Factory(list)
    stop: MarketplaceMeteringException | None = None


class Searches:
    """
    Finds the records for whose sake chunks were refused.

    Attributes:
        similar: What was refused within the last minute.
        licenses: Which licenses of unnamed products share no request.
        parts: The parts that may be tried now, and their searches.
    """

    def __init__(self, backlog: Backlog, observer: Observer) -> None:
        """Know nothing; *backlog* has the other records."""
        self.similar = SimilarRefusals(backlog.product_code)
        self.licenses = LicenseGroups()
        self.parts: deque[tuple[Search, Chunk]] = deque()
        self._backlog = backlog
        self._observer = observer
        self._searches: dict[Lane, Search] = {}
        self._waiting: defaultdict[Lane, list[Refusal]] = defaultdict(list)  # for those to end
        self._mixing: set[Lane] = set()  # whose licenses turned out to be of several products
        self._whole_refusals: dict[Lane, list[frozenset[object]]] = {}  # their customers
        backlog.group_of = self.licenses.group_of

    def refused(self, refusal: Refusal, moment: float) -> Findings:
        """Search a refused chunk; where its lane is being searched, later."""
        found = Findings(moment)
        self._refused(refusal, found)
        return found

    def advance(self, search: Search, part: Chunk, decision: Decision, moment: float) -> Findings:
        """Note what came of a *part* of *search*, and go on with it."""
        found, refusal = Findings(moment), decision.refusal
        is_alone = refusal is not None and len(refusal.chunk) == 1
        if refusal is not None and is_alone:
            self._refused_alone(refusal, found)
        if self._searches.get(search.chunk.lane.whole) is not search:  # given up meanwhile
            if refusal is not None and not is_alone:
                found.returned += refusal.chunk.entries
            return found
        if refusal is not None:
            search.refused(refusal.chunk)
        elif decision.taken:
            search.taken(part)
        if is_alone:
            self._settle_similar(search, found)
        self._go_on(search, found)
        return found

    def note_taken(self, lane: Lane) -> None:
        """Note that the service took records of a lane."""
        self._whole_refusals.pop(lane.whole, None)

    def drop(self, lane: Lane | None, moment: float) -> list[PendingRecord]:
        """Give up the searches of a lane, or all; return what they hold."""
        held: list[PendingRecord] = []
        for key in [key for key in self._searches if lane in (None, key)]:
            search = self._searches.pop(key)
            for part in [part for of, part in self.parts if of is search]:
                self.parts.remove((search, part))
                held += part.entries
            held += search.waiting()
            for refusal in self._waiting.pop(key, ()):
                held += refusal.chunk.entries
            self._backlog.release(search.chunk.lane, moment)
        return held

    def _refused(self, refusal: Refusal, found: Findings) -> None:
        chunk, error = refusal
        lane = chunk.lane.whole
        if len(chunk) == 1:
            self._refused_alone(refusal, found)
            self._count_whole_refusal(refusal, found)
        elif lane in self._mixing and _may_be_mixed(refusal):
            if not self.licenses.explain(chunk.records):
                self.licenses.separate([record] for record in chunk.records)
            found.returned += chunk.entries
        elif lane in self._searches:
            self._waiting[lane].append(refusal)
        elif self.similar and any(self.similar.find(record) for record in chunk.records):
            found.returned += chunk.entries  # and are looked at before they go again
        else:
            search = self._searches[lane] = Search(chunk, error, by_license=lane.is_unnamed)
            emit(self._observer, Isolating(records=len(chunk), code=error.code))
            if self.similar.concerns_others(error.code):  # more of the lane would be refused for it
                self._backlog.hold(chunk.lane, found.moment + REMEMBERED, found.moment)
            self._go_on(search, found)

    def _go_on(self, search: Search, found: Findings) -> None:
        """Line up the next part of *search*, or end it."""
        part = search.next_part()
        if part is not None:
            self.parts.append((search, part))
            return
        refusal = Refusal(search.chunk, search.error)
        lane, code = search.chunk.lane.whole, search.error.code
        emit(self._observer, Isolated(code=code, calls=search.tried, refused=search.refused_alone))
        self._backlog.release(search.chunk.lane, found.moment)
        del self._searches[lane]
        waiting = self._waiting.pop(lane, ())
        if search.refused_alone == len(search.chunk):
            self._count_whole_refusal(refusal, found)
        taken = search.parts_taken
        if _may_be_mixed(refusal) and not search.refused_alone and len(taken) > 1:
            self._mixing.add(lane)
            self.licenses.separate(part.records for part in taken)
        for other in waiting:  # the first begins a search, and the others wait for it again
            self._refused(other, found)

    def _refused_alone(self, refusal: Refusal, found: Findings) -> None:
        (entry,), error = refusal.chunk.entries, refusal.error
        self.similar.note(entry.record, error, found.moment)
        if error.code == _INVALID_LICENSE:  # which explains the refusal of what it travelled with
            self._mixing.discard(refusal.chunk.lane.whole)
        verdict = verdicts.refused_alone(error, entry.history)
        found.settled.append(verdicts.outcome(entry, verdict))

    def _settle_similar(self, search: Search, found: Findings) -> None:
        """Settle what waits in *search* and is similar to what was refused."""
        gone: list[PendingRecord] = []
        for entry in search.waiting():
            if (similar := self.similar.find(entry.record)) is not None:
                gone.append(entry)
                verdict = verdicts.similar_refused(similar, entry.history)
                found.settled.append(verdicts.outcome(entry, verdict))
        search.remove(gone)
        search.refused_alone += len(gone)

    def _count_whole_refusal(self, refusal: Refusal, found: Findings) -> None:
        """Stop a lane of which three chunks of different customers met an unknown code alone."""
        chunk, error = refusal
        if classify(error) is not ErrorKind.UNKNOWN:
            return
        lane = chunk.lane.whole
        customers = frozenset(map(_customer, chunk.records))
        known = self._whole_refusals.setdefault(lane, [])
        if not any(customers <= others for others in known):
            known.append(customers)
        if len(known) >= _WHOLE_REFUSALS:
            del self._whole_refusals[lane]
            found.stop = error


def _may_be_mixed(refusal: Refusal) -> bool:
    """Licenses of unnamed products may be of several, which refuses each request they share."""
    chunk, error = refusal
    if error.code != _INVALID_LICENSE or not chunk.lane.is_unnamed:
        return False
    return len({record.license_arn for record in chunk.records}) > 1


def _customer(record: UsageRecord) -> object:
    return (record.customer_aws_account_id, record.customer_identifier, record.license_arn)
