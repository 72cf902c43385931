"""Scripted misbehaviour: which request goes wrong, and how."""

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from random import Random
from types import NoneType
from typing import Any, Final, Self

from attrs import define, evolve, field, frozen
from attrs.validators import ge, le, optional

from marketplace_metering_async.sandbox.expected import of, one_of, require, several

OPERATIONS: Final = ("BatchMeterUsage", "MeterUsage", "RegisterUsage", "ResolveCustomer")
"""What may go wrong."""


class FaultKind(StrEnum):
    """
    What goes wrong.

    Attributes:
        means: What it does, in a line for people.
    """

    _value_: str
    means: str

    def __new__(cls, value: str, means: str) -> Self:
        """Let the word be the value."""
        kind = str.__new__(cls, value)
        kind._value_ = value
        kind.means = means
        return kind

    @classmethod
    def _missing_(cls, value: object) -> Self:
        raise ValueError(f"kind: expected one of {', '.join(cls)}, got {value!r}")

    THROTTLE = "throttle", "Refused: too many calls"
    """400 ThrottlingException."""
    ERROR_500 = "error-500", "An internal error; nothing was applied"
    """500 InternalServiceErrorException, nothing applied."""
    ERROR_500_AFTER = "error-500-after", "An internal error, after all was applied"
    """The same, after everything was applied."""
    ERROR_503 = "error-503", "A load balancer's page instead of an answer"
    """503 with an HTML page, as a load balancer answers."""
    UNPROCESSED = "unprocessed", "Part of the records is left unprocessed"
    """Some of the records are left in UnprocessedRecords."""
    RESET_BEFORE = "reset-before", "The connection breaks before anything is applied"
    """The connection is reset before anything is applied."""
    RESET_AFTER = "reset-after", "All is applied, and the answer is lost"
    """The connection is reset after everything was applied: the answer is lost."""
    TRUNCATED = "truncated", "All is applied, and the answer is cut short"
    """Applied, and the answer is cut short."""
    SLOW = "slow", "The answer comes late"
    """Applied after some seconds."""
    STALL = "stall", "The answer stops half-way"
    """Applied, and the answer stops half-way for some seconds, then the connection ends."""
    DRIP = "drip", "The answer comes in drops"
    """Applied, and the answer comes in twenty pieces over some seconds."""
    GARBAGE = "garbage", "The answer is no JSON"
    """Applied, and the body of the 200 is no JSON."""
    WRONG_CONTENT = "wrong-content", "The answer is JSON of another shape"
    """Applied, and the 200 has JSON of another shape."""
    HTML = "html", "A captive portal's page; nothing was applied"
    """Nothing applied, and 200 with a page, as a captive portal answers."""
    EMPTY = "empty", "The answer is empty"
    """Applied, and 200 with an empty body."""
    REDIRECT = "redirect", "A redirect to another host"
    """307 to another host."""
    SHUFFLE = "shuffle", "Results in another order"
    """Applied, and the results come in another order."""
    DROP = "drop", "One result is missing"
    """Applied, and one result is missing."""
    DUPLICATE = "duplicate", "One result is there twice"
    """Applied, and one result is there twice."""
    ALTER = "alter", "One result echoes another quantity"
    """Applied, and one result echoes another quantity."""
    FOREIGN = "foreign", "A result for a record that nobody sent"
    """Applied, and there is a result for a record that nobody sent."""
    DISAGREE = "disagree", "Two results for one record disagree"
    """Applied, and one record has two results that disagree."""
    UNKNOWN_STATUS = "unknown-status", "A status that nobody knows"
    """Applied, and one status is a word that nobody knows."""
    REFUSE = "refuse", "Access denied"
    """A refusal with `code`, such as AccessDeniedException."""


_COUNT: Final[Any] = [of(int), ge(0)]
_TEXT: Final[Any] = of(str, NoneType)
_SHARE: Final[Any] = [of(float), ge(0), le(1)]


def _indices(value: Iterable[int] | None) -> tuple[int, ...] | None:
    return None if value is None else several("records", value, int, what="whole numbers")


@frozen(kw_only=True)
class Fault:
    """
    A rule of misbehaviour: the requests it is about, how often, and what goes wrong.

    Attributes:
        kind: What goes wrong.
        operation: Only in this operation; None: in all.
        product_code: Only for this product.
        customer: Only where this customer is among the records; UNPROCESSED leaves only those.
        dimension: The same, of a dimension.
        after: How many matching requests are left alone first.
        every_nth: Then only each n-th of them is hit.
        max_hits: How often the rule hits at most; None: always.
        probability: The chance that a matching request is hit.
        seconds: How slow, for SLOW, STALL and DRIP.
        unprocessed_share: The share of the records that UNPROCESSED leaves.
        records: Which records UNPROCESSED leaves, by index, whatever the share.
        max_unprocessed: How many records UNPROCESSED leaves at most.
        code: The code, for REFUSE.
        status: The HTTP status, for REFUSE; None: the one that the service has for `code`.
    """

    kind: FaultKind = field(converter=FaultKind)  # type: ignore[arg-type]  # by its value
    operation: str | None = field(
        default="BatchMeterUsage", validator=[_TEXT, one_of(*OPERATIONS, None)]
    )
    product_code: str | None = field(default=None, validator=_TEXT)
    customer: str | None = field(default=None, validator=_TEXT)
    dimension: str | None = field(default=None, validator=_TEXT)
    after: int = field(default=0, validator=_COUNT)
    every_nth: int = field(default=1, validator=[of(int), ge(1)])
    max_hits: int | None = field(default=None, validator=optional(_COUNT))
    probability: float = field(default=1.0, validator=_SHARE)
    seconds: float = field(default=1.0, validator=[of(float), ge(0), le(3600)])
    unprocessed_share: float = field(default=0.2, validator=_SHARE)
    records: tuple[int, ...] | None = field(default=None, converter=_indices)
    max_unprocessed: int | None = field(default=None, validator=optional(_COUNT))
    code: str = field(default="AccessDeniedException", validator=of(str))
    status: int | None = field(default=None, validator=optional([of(int), ge(400), le(599)]))

    def concerns(self, operation: str, request: Mapping[str, Any]) -> bool:
        """Return whether the rule is about this request."""
        if self.operation not in (None, operation):
            return False
        if self.product_code not in (None, request.get("ProductCode")):
            return False
        if self.customer is None and self.dimension is None:
            return True
        return any(map(self.concerns_record, records_of(request)))

    def concerns_record(self, record: Mapping[str, Any]) -> bool:
        """Return whether the rule is about this record of a request."""
        ids = (record.get("CustomerAWSAccountId"), record.get("CustomerIdentifier"))
        dimension = record.get("Dimension")
        return (self.customer is None or self.customer in ids) and (
            self.dimension is None or self.dimension == dimension
        )


@frozen
class ScriptedResponse:
    """
    A response of one's own, word for word; nothing is applied.

    Attributes:
        status: The HTTP status.
        body: Its bytes.
        headers: Its headers.
    """

    status: int = field(default=200, validator=[of(int), ge(200), le(599)])
    body: bytes = field(default=b"", validator=of(bytes))
    headers: Mapping[str, str] = field(factory=dict)


FaultFunction = Callable[[str, Mapping[str, Any]], Fault | FaultKind | ScriptedResponse | None]
"""Is asked about a request (operation, body); returns what goes wrong with it, or None."""
_RULES: Final[Any] = (Fault, Callable)
_FAULTS: Final = "of Fault, or functions"


@frozen
class FaultHit:
    """
    A fault, or a response of one's own, that hits a request.

    Attributes:
        fault: What goes wrong.
        random: For what is left to chance.
    """

    fault: Fault | ScriptedResponse
    random: Random

    @property
    def name(self) -> str:
        """What to count it as."""
        return self.fault.kind.value if isinstance(self.fault, Fault) else "answer"

    def left(self, request: Mapping[str, Any]) -> list[int]:
        """Return the indices of the records that are left unprocessed."""
        fault = self.fault
        if not isinstance(fault, Fault) or fault.kind is not FaultKind.UNPROCESSED:
            return []
        found = [
            index
            for index, record in enumerate(records_of(request))
            if (
                index in fault.records
                if fault.records is not None
                else fault.concerns_record(record)
                and self.random.random() < fault.unprocessed_share
            )
        ]
        return found[: fault.max_unprocessed]


@define
class RuleInForce:
    """
    A rule with what has become of it.

    Attributes:
        rule: The rule.
        random: Of its own, so that one rule's chances do not depend on another's.
        matched: How many requests it was about.
        hits: How many of them it hits.
    """

    rule: Fault | FaultFunction
    random: Random
    matched: int = 0
    hits: int = 0

    @property
    def left(self) -> Fault | FaultFunction:
        """The rule, less the strikes and skips that it has had."""
        rule = self.rule
        if not isinstance(rule, Fault):
            return rule
        max_hits = None if rule.max_hits is None else rule.max_hits - self.hits
        return evolve(rule, max_hits=max_hits, after=max(0, rule.after - self.matched))

    def hit(self, operation: str, request: Mapping[str, Any]) -> FaultHit | None:
        """Return what goes wrong with a request, if anything."""
        if not isinstance(self.rule, Fault):
            found = self.rule(operation, request)
            fault = Fault(kind=found) if isinstance(found, FaultKind) else found
            returned = "what a function of faults returned"
            require(returned, fault, Fault, ScriptedResponse, NoneType)
        else:
            fault = self.rule if self._is_hit(self.rule, operation, request) else None
        if fault is None:
            return None
        self.hits += 1
        return FaultHit(fault, self.random)

    def _is_hit(self, fault: Fault, operation: str, request: Mapping[str, Any]) -> bool:
        if self.hits == fault.max_hits or not fault.concerns(operation, request):
            return False
        self.matched += 1
        in_turn = (self.matched - fault.after) % fault.every_nth == 0
        if self.matched <= fault.after or not in_turn:
            return False
        return fault.probability >= 1 or self.random.random() < fault.probability


class Faults:
    """The rules in force, asked in their order; the first that strikes decides."""

    def __init__(self, rules: Iterable[Fault | FaultFunction] = (), *, seed: int = 0) -> None:
        self._seed = seed
        self._made = 0
        self._in_force: list[RuleInForce] = []
        self.add(*several("faults", rules, *_RULES, what=_FAULTS))

    @property
    def in_force(self) -> tuple[RuleInForce, ...]:
        """The rules with what has become of them."""
        return tuple(self._in_force)

    @property
    def rules(self) -> list[Fault | FaultFunction]:
        """The rules as they are now: with the strikes and skips that are left to them."""
        return [entry.left for entry in self._in_force]

    def add(self, *rules: Fault | FaultFunction) -> None:
        """Let *rules* strike from now on, after those in force; TypeError for what is none."""
        for rule in several("faults", rules, *_RULES, what=_FAULTS):
            self._made += 1
            self._in_force.append(RuleInForce(rule, Random(f"{self._seed} {self._made}")))

    def replace(self, *rules: Fault | FaultFunction) -> None:
        """Let *rules* strike from now on, and no others."""
        several("faults", rules, *_RULES, what=_FAULTS)  # before any is gone
        self._in_force.clear()
        self.add(*rules)

    def remove(self, index: int) -> None:
        """Let the rule at *index* strike no more; IndexError if there is none."""
        del self._in_force[index]

    def clear(self) -> None:
        """Let nothing go wrong any more; rules to come have the chances of the first ones."""
        self._in_force.clear()
        self._made = 0

    def hit(self, operation: str, request: Mapping[str, Any]) -> FaultHit | None:
        """Return what goes wrong with this request, if anything."""
        for entry in self._in_force:
            hit = entry.hit(operation, request)
            if hit is not None:
                return hit
        return None


def records_of(request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the records of a request of which nothing is known to be right."""
    records = request.get("UsageRecords")
    if not isinstance(records, list):
        return []
    return [record if isinstance(record, dict) else {} for record in records]
