"""The searches of a delivery: one a lane at a time, and what they teach of other records."""

from collections import defaultdict, deque
from typing import Final

from attrs import Factory, define

from marketplace_metering_async.delivery import decisions, verdicts
from marketplace_metering_async.delivery.decisions import Decision, Refusal
from marketplace_metering_async.delivery.model import Chunk, Lane, PendingRecord
from marketplace_metering_async.delivery.refusals import LicenseGroups, SimilarRefusals
from marketplace_metering_async.delivery.search import Search
from marketplace_metering_async.error_kinds import classify
from marketplace_metering_async.errors import MarketplaceMeteringException
from marketplace_metering_async.events import Event, Isolated, Isolating
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.results import SettledRecords, unmetered
from marketplace_metering_async.service_codes import ErrorKind

_WHOLE_REFUSALS: Final = 3
"""Chunks refused to the last record by an unknown code, after which their lane stops."""
_INVALID_LICENSE: Final = "InvalidLicenseException"


@define
class Findings:
    """
    What a step of the searches leads to.

    Attributes:
        settled: Verdicts.
        returned: Records that are sent again.
        stop: A lane that starts nothing new any more, and why.
        begun: Chunks whose search begins.
        ended: Lanes whose search has ended.
        events: What the observer is to know.
    """

    settled: list[SettledRecords] = Factory(list)
    returned: list[PendingRecord] = Factory(list)
    stop: tuple[Lane, MarketplaceMeteringException] | None = None
    begun: list[Refusal] = Factory(list)
    ended: list[Lane] = Factory(list)
    events: list[Event] = Factory(list)


class Searches:
    """
    Finds the records for whose sake chunks were refused.

    Attributes:
        similar: What was refused within the last minute.
        licenses: Which licenses of unnamed products share no request.
        parts: The parts that may be tried now, and their searches.
    """

    def __init__(self, product_code: str | None) -> None:
        """Know nothing; *product_code* stands in where a record names none."""
        self.similar = SimilarRefusals(product_code)
        self.licenses = LicenseGroups()
        self.parts: deque[tuple[Search, Chunk]] = deque()
        self._searches: dict[Lane, Search] = {}
        self._waiting: defaultdict[Lane, list[Refusal]] = defaultdict(list)  # for those to end
        self._mixing: set[Lane] = set()  # whose licenses turned out to be of several products
        self._whole_refusals: dict[Lane, list[frozenset[object]]] = {}  # their customers

    def refused(self, refusal: Refusal, moment: float) -> Findings:
        """Search a refused chunk; where its lane is being searched, later."""
        findings = Findings()
        self._refused(refusal, moment, findings)
        return findings

    def advance(self, search: Search, part: Chunk, decision: Decision, moment: float) -> Findings:
        """Note what came of a *part* of *search*, and go on with it."""
        findings = Findings()
        if not self._is_current(search):  # given up meanwhile
            if decision.refusal is not None:
                chunk, error = decision.refusal
                if len(chunk) == 1:
                    self._refused_alone(chunk.lane, chunk.entries[0], error, moment, findings)
                else:
                    findings.returned += chunk.entries
            return findings
        if decision.refusal is not None:
            alone = search.refused(decision.refusal.chunk.entries)
            if alone is not None:
                self._refused_alone(part.lane, alone, decision.refusal.error, moment, findings)
                self._settle_similar(search, findings)
        elif decision.taken:
            search.taken(part)
        self._go_on(search, moment, findings)
        return findings

    def note_taken(self, lane: Lane) -> None:
        """Note that the service took records of a lane."""
        self._whole_refusals.pop(lane.whole, None)

    def drop(self, lane: Lane | None) -> Findings:
        """Give up the searches of a lane, or all; what they hold is returned."""
        findings = Findings()
        for key in [key for key in self._searches if lane in (None, key)]:
            search = self._searches.pop(key)
            for part in [part for of, part in self.parts if of is search]:
                self.parts.remove((search, part))
                findings.returned += part.entries
            findings.returned += search.waiting()
            for refusal in self._waiting.pop(key, ()):
                findings.returned += refusal.chunk.entries
            findings.ended.append(search.chunk.lane)
        return findings

    def positions(self) -> set[int]:
        """Return the positions of all that wait here."""
        chunks = [part for _, part in self.parts]
        chunks += [refusal.chunk for waiting in self._waiting.values() for refusal in waiting]
        found = {position for chunk in chunks for position in chunk.positions}
        for search in self._searches.values():
            found.update(entry.position for entry in search.waiting())
        return found

    def _is_current(self, search: Search) -> bool:
        return self._searches.get(search.chunk.lane.whole) is search

    def _refused(self, refusal: Refusal, moment: float, findings: Findings) -> None:
        chunk, error = refusal
        lane = chunk.lane.whole
        if len(chunk) == 1:
            self._refused_alone(lane, chunk.entries[0], error, moment, findings)
            self._count_whole_refusal(chunk, error, findings)
        elif lane in self._mixing and _may_be_mixed(refusal):
            if not self.licenses.explain(chunk.records):
                self.licenses.separate([record] for record in chunk.records)
            findings.returned += chunk.entries
        elif lane in self._searches:
            self._waiting[lane].append(refusal)
        elif self.similar and any(self.similar.find(record) for record in chunk.records):
            findings.returned += chunk.entries  # and are looked at before they go again
        else:
            by_license = lane.licensed and lane.product_code is None
            search = Search(chunk, error, by_license=by_license)
            self._searches[lane] = search
            findings.begun.append(refusal)
            findings.events.append(Isolating(records=len(chunk), code=error.code))
            self._go_on(search, moment, findings)

    def _go_on(self, search: Search, moment: float, findings: Findings) -> None:
        """Line up the next part of *search*, or end it."""
        part = search.next_part()
        if part is not None:
            self.parts.append((search, part))
            return
        chunk, error = search.chunk, search.error
        lane = chunk.lane.whole
        ended = Isolated(code=error.code, calls=search.tried, refused=search.refused_alone)
        findings.events.append(ended)
        findings.ended.append(chunk.lane)
        del self._searches[lane]
        waiting = self._waiting.pop(lane, ())
        if search.refused_alone == len(chunk):
            self._count_whole_refusal(chunk, error, findings)
        taken = search.parts_taken
        if _may_be_mixed(Refusal(chunk, error)) and not search.refused_alone and len(taken) > 1:
            self._mixing.add(lane)
            self.licenses.separate(part.records for part in taken)
        for refusal in waiting:  # the first begins a search, and the others wait for it again
            self._refused(refusal, moment, findings)

    def _refused_alone(
        self,
        lane: Lane,
        entry: PendingRecord,
        error: MarketplaceMeteringException,
        moment: float,
        findings: Findings,
    ) -> None:
        self.similar.note(entry.record, error, moment)
        if error.code == _INVALID_LICENSE:  # which explains the refusal of what it travelled with
            self._mixing.discard(lane.whole)
        findings.settled += decisions.on_refused_alone(entry, error)

    def _settle_similar(self, search: Search, findings: Findings) -> None:
        """Settle what waits in *search* and is similar to what was refused."""
        similar: list[PendingRecord] = []
        for entry in search.waiting():
            if (found := self.similar.find(entry.record)) is not None:
                verdict = verdicts.similar_refused(found.refusal, found.member, entry.history)
                similar.append(entry)
                findings.settled.append(unmetered(verdict, (entry.position,)))
        search.remove(similar)
        search.refused_alone += len(similar)

    def _count_whole_refusal(
        self, chunk: Chunk, error: MarketplaceMeteringException, findings: Findings
    ) -> None:
        """Stop a lane of which three chunks of different customers met an unknown code alone."""
        if classify(error) is not ErrorKind.UNKNOWN:
            return
        lane = chunk.lane.whole
        customers = frozenset(map(_customer, chunk.records))
        known = self._whole_refusals.setdefault(lane, [])
        if not any(customers <= others for others in known):
            known.append(customers)
        if len(known) >= _WHOLE_REFUSALS:
            del self._whole_refusals[lane]
            findings.stop = (lane, error)


def _may_be_mixed(refusal: Refusal) -> bool:
    """Licenses of unnamed products may be of several, which refuses each request they share."""
    lane = refusal.chunk.lane
    if refusal.error.code != _INVALID_LICENSE or not lane.licensed or lane.product_code:
        return False
    return len({record.license_arn for record in refusal.chunk.records}) > 1


def _customer(record: UsageRecord) -> object:
    return (record.customer_aws_account_id, record.customer_identifier, record.license_arn)
