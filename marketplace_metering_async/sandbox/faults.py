"""Scripted misbehaviour: which request goes wrong, and how."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from random import Random
from typing import Any

from attrs import define, field


class Kind(StrEnum):
    """What goes wrong."""

    THROTTLE = "throttle"
    """400 ThrottlingException."""
    ERROR_500 = "error-500"
    """500 InternalServiceErrorException, nothing applied."""
    ERROR_500_AFTER = "error-500-after"
    """The same, after everything was applied."""
    ERROR_503 = "error-503"
    """503 with an HTML page, as a load balancer answers."""
    UNPROCESSED = "unprocessed"
    """A share of the records is left in UnprocessedRecords."""
    RESET_BEFORE = "reset-before"
    """The connection is reset before anything is applied."""
    RESET_AFTER = "reset-after"
    """The connection is reset after everything was applied: the answer is lost."""
    TRUNCATED = "truncated"
    """Applied, and the answer is cut short."""
    SLOW = "slow"
    """Applied after some seconds."""
    STALL = "stall"
    """Applied, and the answer stops half-way for some seconds, then the connection ends."""
    GARBAGE = "garbage"
    """Applied, and the body of the 200 is no JSON."""
    HTML = "html"
    """Nothing applied, and 200 with a page, as a captive portal answers."""
    EMPTY = "empty"
    """Applied, and 200 with an empty body."""
    REDIRECT = "redirect"
    """307 to another host."""
    SHUFFLE = "shuffle"
    """Applied, and the results come in another order."""
    DROP = "drop"
    """Applied, and one result is missing."""
    ALTER = "alter"
    """Applied, and one result echoes another quantity."""
    FOREIGN = "foreign"
    """Applied, and there is a result for a record that nobody sent."""
    DISAGREE = "disagree"
    """Applied, and one record has two results that disagree."""
    UNKNOWN_STATUS = "unknown-status"
    """Applied, and one status is a word that nobody knows."""
    REFUSE = "refuse"
    """A refusal with `code`, such as AccessDeniedException."""


@define(kw_only=True)
class Fault:
    """
    A rule of misbehaviour: the requests it is about, how often, and what goes wrong.

    Attributes:
        kind: What goes wrong.
        operation: Only in this operation.
        product_code: Only for this product.
        customer: Only where this customer is among the records.
        skip: Leave so many matching requests alone first.
        times: Strike at most so often; None: always.
        share: The chance that a matching request is struck.
        seconds: How slow, for SLOW and STALL.
        part: The share of the records that UNPROCESSED leaves.
        code: The code, for REFUSE.
        status: The HTTP status, for REFUSE.
    """

    kind: Kind = field(converter=Kind)
    operation: str | None = "BatchMeterUsage"
    product_code: str | None = None
    customer: str | None = None
    skip: int = 0
    times: int | None = None
    share: float = 1.0
    seconds: float = 1.0
    part: float = 0.2
    code: str = "AccessDeniedException"
    status: int = 400

    def concerns(self, operation: str, request: Mapping[str, Any]) -> bool:
        """Return whether the rule is about this request."""
        if self.operation not in (None, operation):
            return False
        if self.product_code not in (None, request.get("ProductCode")):
            return False
        if self.customer is None:
            return True
        records = request.get("UsageRecords")
        return isinstance(records, list) and any(
            isinstance(record, dict)
            and self.customer
            in (record.get("CustomerAWSAccountId"), record.get("CustomerIdentifier"))
            for record in records
        )


FaultFunction = Callable[[str, Mapping[str, Any]], Fault | None]
"""Is asked about a request (operation, body); returns what goes wrong with it, or None."""


class Faults:
    """The rules in force, asked in their order; the first that strikes decides."""

    def __init__(self, rules: list[Fault | FaultFunction] | None = None, *, seed: int = 0) -> None:
        self.rules: list[Fault | FaultFunction] = list(rules or ())
        self.random = Random(seed)

    def strike(self, operation: str, request: Mapping[str, Any]) -> Fault | None:
        """Return what goes wrong with this request, if anything."""
        for rule in self.rules:
            if not isinstance(rule, Fault):
                if (fault := rule(operation, request)) is not None:
                    return fault
            elif rule.concerns(operation, request) and self._hits(rule):
                return rule
        return None

    def _hits(self, fault: Fault) -> bool:
        if fault.skip > 0:
            fault.skip -= 1
            return False
        if fault.times == 0 or self.random.random() >= fault.share:
            return False
        if fault.times is not None:
            fault.times -= 1
        return True
