"""
Every exception of the package, and whose fault an error is.

    MeteringError
    ├── SdkClientError                          our own side
    │   ├── InvalidRecordError                  (also a ValueError)
    │   │   ├── InvalidRecordTypeError          (also a TypeError)
    │   │   └── OutOfWindowError                too old or too new for the service
    │   ├── ConflictingRecordsError             two records of one key in a batch
    │   │   ├── KeyAlreadySentError             one of them went out before
    │   │   └── BothSchemesError                one by product code, one by license
    │   ├── QuantityOverflowError               (also an OverflowError) a sum above all quantities
    │   ├── SimilarRecordRefusedError           the service refused its like earlier in the batch
    │   ├── ConfigurationError                  region, credentials, endpoint, arguments
    │   │   ├── NoRegionError
    │   │   └── NoCredentialsError
    │   ├── ClientClosedError                   used after aclose(), or from another event loop
    │   ├── TransportError                      no response came
    │   ├── InvalidResponseError                a response came, but none the service gives
    │   ├── InvalidRegistrationError            RegisterUsage was not signed by that key, or for us
    │   ├── NotProcessedError                   the service did not get to the record
    │   ├── DeliveryTimeoutError                the time allowed for delivery is over
    │   ├── UnexpectedError                     something broke that should not
    │   ├── LedgerError                         the ledger could not do it; nothing was stored
    │   │   ├── LedgerOutcomeUnknownError       whether it was stored is unknown
    │   │   ├── LedgerClosedError               used after aclose()
    │   │   ├── LedgerUnusableError             damaged, too new, or where it must not be
    │   │   │   └── LedgerMissingError          there is none, and none was to be made
    │   │   ├── LedgerRegionMismatchError       (also a ConfigurationError) for another region
    │   │   ├── CannotResolveError              the ledger's usage is not as was said of it
    │   │   ├── EventConflictError              a known event id with other content
    │   │   ├── EventTooOldError                usage so old that its id may be forgotten
    │   │   ├── UsageRefusedError               usage that the database cannot hold
    │   │   └── LateUsageError                  late usage that was to be refused
    │   └── RecordNotMeteredError               one failed result, as raise_for_failures() shows it
    ├── MarketplaceMeteringException            the service answered, and the answer was no
    │   └── ThrottlingException, … (one for each error of the service's model: `service_errors`)
    └── BatchMeterUsageError                    (also an ExceptionGroup) of RecordNotMeteredError

Facts are attributes; texts are made from them, and hold no secret and no whole customer id.
"""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Self

from attrs import define, evolve, frozen

from marketplace_metering_async.service_codes import advice_on


def mask(text: str) -> str:
    """Hide an id but for its last four characters; a short one is hidden whole."""
    return f"…{text[-4:]}" if len(text) > 4 else "…"


@frozen
class Violation:
    """
    One way in which something given breaks a rule.

    Attributes:
        path: Where: `records[3].quantity`.
        expected: What the rule asks for.
        got: What came, shortened, with customer ids masked.
        wrong_type: Whether it is the type that is wrong, and not the value.
    """

    path: str
    expected: str
    got: str
    wrong_type: bool = False

    def under(self, place: str) -> "Violation":
        """Return the same violation with *place* before its path."""
        joint = "." if self.path and not self.path.startswith("[") else ""
        return evolve(self, path=f"{place}{joint}{self.path}")

    def __str__(self) -> str:
        """`records[3].quantity: expected 0 to 2147483647, got -1`."""
        return f"{self.path}: expected {self.expected}, got {self.got}"


class MeteringError(Exception):
    """
    Base of everything that this package raises on purpose.

    Attributes:
        advice: What to do next, in words.
    """

    advice: str = "Read the text of the error."

    def unraised(self) -> Self:
        """Return the same error without its traceback, which would keep alive all that was read."""
        own = self.__class__.__new__(self.__class__, *self.args)
        own.__dict__.update(self.__dict__)
        own.__cause__ = self.__cause__
        return own


class SdkClientError(MeteringError):
    """Something on our own side of the wire, not a response of the service."""


class InvalidRecordError(SdkClientError, ValueError):
    """
    A record, or what should have become one, breaks the service's rules.

    Attributes:
        violations: All of them, not the first alone.
    """

    advice = "Fix what the text names, and give the record again: it was neither sent nor stored."

    def __init__(self, violations: Sequence[Violation]) -> None:
        self.violations = tuple(violations)
        super().__init__(self.violations)

    @classmethod
    def of(cls, violations: Sequence[Violation]) -> "InvalidRecordError":
        """Return the error for *violations*: a TypeError too when a type is among them."""
        if any(violation.wrong_type for violation in violations):
            return InvalidRecordTypeError(violations)
        return InvalidRecordError(violations)

    def under(self, place: str) -> "InvalidRecordError":
        """Return the same error with *place* before every path."""
        return type(self)([violation.under(place) for violation in self.violations])

    def __str__(self) -> str:
        """Return the first violation in full and the number of the others."""
        first, *rest = self.violations
        more = f" (and {len(rest)} more)" if rest else ""
        return f"{first}{more}"


class InvalidRecordTypeError(InvalidRecordError, TypeError):
    """As InvalidRecordError, and at least one value is of a wrong type."""


class OutOfWindowError(InvalidRecordError):
    """
    The timestamp lies outside the window in which the service takes records.

    Attributes:
        is_early: Whether it is ahead of the service's clock: the record can be sent later.
    """

    is_early: bool = False
    advice = (
        "A record that is too old cannot be metered any more; ask AWS Support, or meter the usage "
        "in the current hour. One from the future can be sent once its time has come."
    )

    def __str__(self) -> str:
        """Return the violations' text; the record may have been sent before its window closed."""
        return "; ".join(map(str, self.violations))


class ConflictingRecordsError(SdkClientError):
    """
    Records of one key (license or product, customer, dimension, hour) differ.

    The service would keep whichever came first and refuse the others, so none was sent.

    Attributes:
        positions: Where the records of the key stand in what was given.
    """

    advice = (
        "Add the records of one hour up with coalesce(), or decide which one is right, and send "
        "that one."
    )
    _why = (
        "have one key (product or license, customer, dimension, hour) but differ; the service "
        "keeps only the first of a key, so none was sent"
    )

    def __init__(self, positions: Sequence[int]) -> None:
        self.positions = tuple(positions)
        super().__init__(self.positions)

    def __str__(self) -> str:
        """Name the positions."""
        return f"records[{_some([str(position) for position in self.positions])}] {self._why}"

    def at(self, places: Sequence[str]) -> str:
        """Return the text with *places*, such as the lines of a file, instead of the positions."""
        return f"{_some(places)} {self._why}"


def _some(places: Sequence[str]) -> str:
    return ", ".join(places[:10]) + (", …" if len(places) > 10 else "")


class KeyAlreadySentError(ConflictingRecordsError):
    """
    A record of the same key (license or product, customer, dimension, hour) went out before.

    The service keeps the first, so this one, which differs, was not sent.

    Attributes:
        positions: Of the record that went out, and of this one, as the batcher counts them.
    """

    advice = (
        "Meter one finished record an hour: add usage up with coalesce(), or keep it in a "
        "UsageLedger, which does so. What went out first stands."
    )

    def __str__(self) -> str:
        """Name the positions."""
        return self.at([f"record {position}" for position in self.positions])

    def at(self, places: Sequence[str]) -> str:
        """Return the text with *places*, such as the lines of a file, instead of the positions."""
        first, this = places
        return (
            f"{this} has the key (product or license, customer, dimension, hour) of {first}, "
            "which went out before, but differs from it"
        )


class BothSchemesError(ConflictingRecordsError):
    """
    A customer's hour of one dimension came both by product code and by license.

    The service would take both and bill the customer twice (service model, LicenseArn), so this
    one was not sent.

    Attributes:
        positions: Where the records stand in what was given.
    """

    advice = "If neither is metered, send one of them: with the license where the listing has any."
    _why = (
        "name one customer's hour and dimension, by product code and by license; the service would "
        "bill both, so this one was not sent"
    )


@define(slots=False, repr=False)
class QuantityOverflowError(SdkClientError, OverflowError):
    """
    A sum is greater than the 9999999999.999999 units that a record can hold.

    Attributes:
        place: Whose sum it is.
        total: The sum.
    """

    advice = "Meter in a larger unit, or meter the excess in a later hour."

    place: str
    total: int | Decimal

    def __str__(self) -> str:
        """Name the place and the sum."""
        return (
            f"{self.place}: the sum {self.total} is above 9999999999.999999, the greatest quantity"
        )


@define(slots=False, repr=False)
class SimilarRecordRefusedError(SdkClientError):
    """
    Not sent, since the service has just refused a record with the same customer or dimension.

    That holds for the same product, within one call, for a minute. The record may be sent again.

    Attributes:
        cause_code: The service's code for the first one.
        member: What they share, such as `dimension`.
    """

    advice = "Fix what the service refused in the first record, and send this one again."

    cause_code: str
    member: str

    def __str__(self) -> str:
        """Name the code and what is shared."""
        return f"not sent: the service has just refused a record of the same {self.member}"


class ConfigurationError(SdkClientError):
    """What the client was given, or found in the environment, does not let it send."""

    advice = "Fix the configuration that the text names; `marketplace-metering doctor` checks it."


class NoRegionError(ConfigurationError):
    """No region was given, and neither environment nor shared config names one."""

    advice = "Pass region_name, or set AWS_REGION, or set a region in the profile."

    def __str__(self) -> str:
        """Say where it was looked for."""
        return "no region: none was given, and none is in AWS_REGION or the profile"


class NoCredentialsError(ConfigurationError):
    """No credentials were given, and none were found where AWS SDKs look for them."""

    advice = (
        "Pass keys, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use a role or profile."
    )

    def __str__(self) -> str:
        """Say where they were looked for."""
        return (
            "no credentials: none were given, and none are in the environment, a profile or a role"
        )


class ClientClosedError(SdkClientError):
    """The client was closed, or belongs to another event loop or process."""

    advice = "Make a client, or a batcher, for this event loop and keep it open while it is used."


@define(slots=False, repr=False)
class TransportError(SdkClientError):
    """
    No response came.

    Attributes:
        reason: What happened, without secrets.
        sent: Whether the service may have got the request, and so may have acted upon it.
    """

    advice = "Check the network and the endpoint; sending the identical records again is safe."

    reason: str
    sent: bool

    def __str__(self) -> str:
        """Say what happened, and what it means for the request."""
        fate = "the service may have acted upon it" if self.sent else "the request was not sent"
        return f"{self.reason}; {fate}"


@define(slots=False, repr=False)
class InvalidRegistrationError(SdkClientError):
    """
    What came as RegisterUsage's signature does not prove the registration that was asked for.

    Attributes:
        reason: What is wrong with it.
    """

    advice = "Do not run on it: somebody may answer in the marketplace's place."

    reason: str


@define(slots=False, repr=False)
class InvalidResponseError(SdkClientError):
    """
    A response came that the service does not give: HTML, no JSON, too large, or another's records.

    Attributes:
        reason: What is wrong with it.
        status: Its HTTP status, or None where the body alone was looked at.
        request_id: The service's id of the request, if there was one.
        retry_after: Seconds that it asked to wait, if it did.
    """

    advice = (
        "Something between here and AWS (a proxy, a portal) may answer in its place; sending the "
        "identical records again is safe."
    )

    reason: str
    status: int | None = None
    request_id: str | None = None
    retry_after: float | None = None

    def __str__(self) -> str:
        """Say what is wrong with the response."""
        return self.reason if self.status is None else f"HTTP {self.status}: {self.reason}"


@define(slots=False, repr=False)
class DeliveryTimeoutError(SdkClientError):
    """
    The time allowed for delivery ended before the service had settled the record.

    Attributes:
        reason: Which time is over.
        latest: Why the record's latest attempt settled nothing; None where there was none.
    """

    advice = "Send the identical record again."

    reason: str
    latest: MeteringError | None = None

    def __str__(self) -> str:
        """Say which time is over, and what was wrong until then."""
        return self.reason if self.latest is None else f"{self.reason}; before that: {self.latest}"


class NotProcessedError(SdkClientError):
    """The service answered, but listed the record among those it did not process, every time."""

    advice = "Send the identical record again."

    def __str__(self) -> str:
        """Say what the service did."""
        return "the service left the record unprocessed"


@define(slots=False, repr=False)
class UnexpectedError(SdkClientError):
    """
    Something broke that should not, here or in a part that was handed in; see `__cause__`.

    Attributes:
        cause: What it was: of an exception the class alone, since its text may hold secrets.
    """

    advice = "This is a defect: report it with the cause; sending the identical records is safe."

    cause: str

    @classmethod
    def of(cls, cause: BaseException) -> "UnexpectedError":
        """Return what stands for an exception that nobody expected, and so becomes a verdict."""
        if isinstance(cause, UnexpectedError):
            return cause
        error = cls(type(cause).__name__)
        error.__cause__ = cause
        return error


class LedgerError(SdkClientError):
    """
    The ledger could not do it: its database is locked, full, read-only, or gone.

    Nothing was stored, unless it is a LedgerOutcomeUnknownError.
    """

    advice = "Fix what the text names, and call again with the same event id."


class LedgerOutcomeUnknownError(LedgerError):
    """The database failed, or could not be reached any more, at the commit."""

    advice = (
        "Call again with the same event id, which counts once. Usage without an event id may have "
        "been stored: look at `history()` before you add it again."
    )


class UsageRefusedError(LedgerError):
    """The database cannot hold this very usage, such as a text for which it has no characters."""

    advice = "Nothing was stored. Change what the text names; other usage is stored all the same."


class LedgerClosedError(LedgerError):
    """The ledger is closed, or was never opened."""

    advice = "Open the ledger with `async with`, and finish your calls before it ends."


class LedgerUnusableError(LedgerError):
    """The database cannot hold a ledger, or not one that this version may touch."""

    advice = "Nothing was changed. Do what the text says, or open another ledger."


class LedgerMissingError(LedgerUnusableError):
    """There is no ledger at this place, and whoever opened it wanted none to be made."""

    advice = (
        "Check the URL: a relative path starts from the working directory. The first usage makes a "
        "new ledger: `marketplace-metering ledger add` or `import`, or UsageLedger.open(url)."
    )


class LedgerRegionMismatchError(LedgerError, ConfigurationError):
    """The ledger's records belong to another region or host than the client's."""

    advice = (
        "A record sent in a second region is billed a second time. Use a client of the ledger's "
        "own region and endpoint, and another ledger for another one."
    )


class CannotResolveError(LedgerError):
    """Usage in the ledger is not in a state in which a person may say that of it."""

    advice = "Nothing was changed. Look at history() again: something may have happened since."


@define(slots=False, repr=False)
class EventConflictError(LedgerError):
    """
    A known event id came with other content; what came first stands.

    Attributes:
        event_id: The caller's name for the usage.
    """

    advice = "Give each piece of usage an event id of its own, and repeat it unchanged."

    event_id: str

    def __str__(self) -> str:
        """Name the event."""
        return f"event_id {self.event_id!r} is known with other content; nothing was added"


@define(slots=False, repr=False)
class EventTooOldError(LedgerError):
    """
    An event is so old that its id may have been known and forgotten since.

    Attributes:
        event_id: The caller's name for the usage.
        since: When the oldest event was added whose id is known (UTC).
    """

    advice = (
        "Look at `history()`: if the usage is surely not in it, add it without an event id. Repeat "
        "events within the 32 days for which `prune()` always keeps their ids."
    )

    event_id: str
    since: datetime

    def __str__(self) -> str:
        """Name the event and the time."""
        return (
            f"event_id {self.event_id!r} may be of usage that was added before: ids from before "
            f"{self.since:%Y-%m-%dT%H:%M:%SZ} are forgotten; nothing was added"
        )


@define(slots=False, repr=False)
class LateUsageError(LedgerError):
    """
    The hour of the usage is sealed, and the ledger was opened with `late="refuse"`.

    Attributes:
        at: When it happened (UTC).
    """

    advice = "Meter it in a later hour by giving another `at`, or open the ledger with late=carry."

    at: datetime

    def __str__(self) -> str:
        """Name the time."""
        return f"the hour of {self.at:%Y-%m-%dT%H:%M:%SZ} takes no more usage; nothing was added"


@define(slots=False, repr=False)
class RecordNotMeteredError(SdkClientError):
    """
    One result that is no success, as `raise_for_failures()` shows it.

    Attributes:
        position: Of the record in the batch.
        status: The verdict on it.
        what_to_do: The result's advice.
    """

    position: int
    status: str
    what_to_do: str

    def __str__(self) -> str:
        """Name the record, the verdict and what to do."""
        return f"records[{self.position}]: {self.status}. {self.what_to_do}"


class BatchMeterUsageError(MeteringError, ExceptionGroup[RecordNotMeteredError]):
    """Some records of a batch were not metered for certain; one RecordNotMeteredError for each."""

    advice = (
        "Look at each of the errors; unprocessed_records of the result holds what to send again."
    )

    def derive(self, excs: Sequence[RecordNotMeteredError], /) -> Self:  # type: ignore[override]
        """Keep the class when the group is split."""
        return type(self)(self.message, excs)


@define(slots=False, repr=False)
class MarketplaceMeteringException(MeteringError):  # noqa: N818 - the service's own word
    """
    The service answered with an error. A code without a class of its own comes as this one.

    Attributes:
        code: The service's error code, without namespace.
        operation: The operation that was called.
        message: The service's text. It may name a customer, so the error's own text leaves it out.
        status: The HTTP status.
        request_id: The service's id of the request, for AWS Support.
        retry_after: Seconds that the service asked to wait, if it did.
    """

    code: str
    message: str = ""
    operation: str = "BatchMeterUsage"
    status: int | None = None
    request_id: str | None = None
    retry_after: float | None = None

    def __attrs_post_init__(self) -> None:
        """Say what to do about the code, unless it has a class of its own, which says so."""
        if "advice" not in vars(type(self)):
            self.advice = advice_on(self.code, self.operation, self.status)

    def __str__(self) -> str:
        """Return the code with status and request id; the service's text is in `message`."""
        facts = [f"HTTP {self.status}"] if self.status is not None else []
        facts += [f"request {self.request_id}"] if self.request_id else []
        return f"{self.code} ({', '.join(facts)})" if facts else self.code

    def __repr__(self) -> str:
        """As the text: the service's message may name a customer."""
        return f"{type(self).__name__}({self})"
