"""The words of the ledger: what may become of usage, and the values that its parts hand around."""

import json
from enum import StrEnum
from functools import lru_cache
from typing import Final, NamedTuple

from attrs import frozen

from marketplace_metering_async.errors import mask
from marketplace_metering_async.records import UsageRecord


class HourState(StrEnum):
    """What has become of usage: of a whole hour of a key, or of what no hour could carry."""

    OPEN = "open"
    """Usage still adds to it."""
    FROZEN = "frozen"
    """Closed permanently; its record is sent, the same each time, until it has a verdict."""
    METERED = "metered"
    """The service has taken the record."""
    NOT_SUBSCRIBED = "not_subscribed"
    """The service said CustomerNotSubscribed."""
    CONFLICT = "conflict"
    """The service has a record of this hour that is not ours: something else meters it."""
    PROBABLY_METERED = "probably_metered"
    """The service has a record of this hour, most likely ours: an attempt had no answer."""
    REJECTED = "rejected"
    """The service, or a rule of it, refused the record."""
    TOO_LATE = "too_late"
    """The service takes no records of this hour any more."""
    MONTH_OVER = "month_over"
    """Late usage that only another month's hour could have carried."""
    SUBSCRIPTION_OVER = "subscription_over"
    """Usage after a subscription had ended, or too late for its last hour."""
    OTHER_SCHEME = "other_scheme"
    """
    Usage by product code in an hour that the same customer has by license, or the other way round:
    the service would bill both. Whatever came first is sent.
    """
    DAMAGED = "damaged"
    """The stored record does not match its digest, and is not sent."""
    QUARANTINED = "quarantined"
    """Relay after relay died with this record in its hands."""
    UNCONFIRMED = "unconfirmed"
    """It may have been metered or not, and nothing proves either."""
    NOT_METERED = "not_metered"
    """A person has found that the service does not have the record."""
    WRITTEN_OFF = "written_off"
    """A person has decided that nobody is billed for it."""
    REOPENED = "reopened"
    """A person has moved the usage to another hour, which bills it."""


ENDED: Final = tuple(
    state
    for state in HourState
    if state not in (HourState.OPEN, HourState.FROZEN, HourState.METERED, HourState.REOPENED)
)
"""The states of usage that is not metered and that nobody sends any more."""

STRANDED: Final = (
    HourState.MONTH_OVER,
    HourState.SUBSCRIPTION_OVER,
    HourState.OTHER_SCHEME,
)
"""The states of usage that no hour carries."""

DECIDED: Final = (*STRANDED, HourState.UNCONFIRMED, HourState.WRITTEN_OFF)
"""End states of which a person has to decide: nothing moves them on but by their name."""


class UsageKey(NamedTuple):
    """What the service counts as one, but for the hour; '' for what a scheme does not have."""

    product_code: str
    customer_aws_account_id: str
    customer_identifier: str
    license_arn: str
    dimension: str

    @classmethod
    def of(cls, record: UsageRecord) -> "UsageKey":
        """Return the key of *record*: a license's has no product code in it."""
        return cls(
            "" if record.license_arn else record.product_code or "",
            record.customer_aws_account_id or "",
            record.customer_identifier or "",
            record.license_arn or "",
            record.dimension,
        )

    @property
    def customer(self) -> "CustomerKey":
        """The customer of a product or license, whatever the dimension."""
        return CustomerKey(*self[:4])

    def summed_under(self, license_product: str) -> "ProductDimension":
        """Return where its usage is summed up; a license's under *license_product*."""
        product = license_product if self.license_arn else self.product_code
        return _product_dimension(product, self.dimension)

    def lane(self, license_product: str) -> str:
        """
        Return what is left alone where the service refuses its product: all that shares its lane.

        A license of a product that is not known (*license_product* is '') has one of its own. A
        store's statements that claim have the same words.
        """
        if not self.license_arn:
            return self.product_code
        return f"license {license_product}" if license_product else self.license_arn

    def billed_as(self, license_product: str) -> str | None:
        """
        Return what is the same in a key by product code and one by license that are billed twice.

        None where the product (of a license: *license_product*) or the account is not known.
        """
        product = license_product if self.license_arn else self.product_code
        if not product or not self.customer_aws_account_id:
            return None
        return json.dumps([product, self.customer_aws_account_id, self.dimension])

    def __repr__(self) -> str:
        """Return it with ids masked."""
        who = self.license_arn or self.customer_aws_account_id or self.customer_identifier
        return f"<UsageKey {self.product_code or 'license'} {mask(who)} {self.dimension}>"


@lru_cache(maxsize=10_000)
def name_of(key: UsageKey) -> str:
    """Return the name of a key: all of it as a JSON list."""
    return json.dumps(key)


@lru_cache(maxsize=10_000)
def key_of(name: str) -> UsageKey:
    """Return the key of a name."""
    return UsageKey(*json.loads(name))


def name_of_hour(hour_id: int) -> str:
    """Return the name of an hour in history."""
    return f"hour-{hour_id}"


def name_of_arrival(arrival_id: int) -> str:
    """Return the name in history of usage that is not added to its hour yet."""
    return f"arrival-{arrival_id}"


def name_of_stranded(stranded_id: int) -> str:
    """Return the name in history of usage that no hour carries."""
    return f"stranded-{stranded_id}"


class CustomerKey(NamedTuple):
    """A customer of one product or license; '' for what a scheme does not have."""

    product_code: str
    customer_aws_account_id: str
    customer_identifier: str
    license_arn: str

    def __repr__(self) -> str:
        """Return it with ids masked."""
        who = self.license_arn or self.customer_aws_account_id or self.customer_identifier
        return f"<CustomerKey {self.product_code or 'license'} {mask(who)}>"


class ProductDimension(NamedTuple):
    """
    What sums are kept by.

    Attributes:
        product_code: The product; of a license its own, or '' where it is not known.
        dimension: The dimension.
    """

    product_code: str
    dimension: str


@lru_cache(maxsize=1_000)
def _product_dimension(product_code: str, dimension: str) -> ProductDimension:
    return ProductDimension(product_code, dimension)


class Usage(NamedTuple):
    """
    Usage on its way into the ledger.

    Attributes:
        key: Whose.
        license_product: With whom a license record may share a request.
        at: When it happened, in whole seconds since 1970.
        quantity: Millionths of a unit.
        event_id: The caller's name for it, or None.
        digest: Of what the caller said, to tell a repetition from a mistake; empty without a name.
    """

    key: UsageKey
    license_product: str
    at: int
    quantity: int
    event_id: str | None
    digest: bytes


class Note(NamedTuple):
    """
    What stands in the history of what a person said.

    Attributes:
        text: Why.
        at: When it was said, in seconds since 1970.
    """

    text: str
    at: int


@frozen(kw_only=True)
class SealedHour:
    """
    An hour with its record, as its row says.

    Attributes:
        hour_id: Its row.
        key: Whose.
        license_product: With whom a license record may share a request.
        stamp: Its timestamp, in seconds since 1970.
        quantity: Millionths of a unit.
        member: In which member of a record its quantity is sent.
        region_name: Where to.
        digest: Of all that the service counts by.
        in_doubt: Whether an attempt may have been acted upon.
    """

    hour_id: int
    key: UsageKey
    license_product: str
    stamp: int
    quantity: int
    member: str
    region_name: str
    digest: bytes
    in_doubt: bool

    @property
    def of(self) -> ProductDimension:
        """Where it is summed up."""
        return self.key.summed_under(self.license_product)


@frozen(kw_only=True)
class FrozenHour(SealedHour):
    """
    An hour whose record is to be sent: one that nobody holds, or that one relay has claimed.

    Attributes:
        fence: Of the latest claim on it, which no other has: a later one invalidates it.
        attempts: Claims before that had an answer.
        crashes: Claims in a row that ended with their relay.
        lapsed: Whether a claim has run out: it had no answer, and the service may have acted on it.
        urgent: Whether it goes before all others.
        others_sent: Whether the service took any record within the last two leases.
        host: Where it is sent to.
    """

    fence: int
    attempts: int
    host: str
    crashes: int = 0
    lapsed: bool = False
    urgent: bool = False
    others_sent: bool = False


@frozen(kw_only=True)
class Settlement:
    """
    What one claim came to.

    Attributes:
        claim: With the record as it was claimed: after a failover that lost commits, its row may be
            another record's.
        state: FROZEN where it is to be sent again.
        not_before: Whole seconds since 1970; when it may be sent again.
        in_doubt: Whether the service may have acted upon it.
        status: The verdict in the client's words.
        before: The state of the row that it came to.
    """

    claim: FrozenHour
    state: HourState
    not_before: int = 0
    in_doubt: bool = False
    status: str
    error: str | None = None
    request_id: str | None = None
    metering_record_id: str | None = None
    before: HourState = HourState.FROZEN
