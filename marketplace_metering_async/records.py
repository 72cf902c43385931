"""What is metered: UsageRecord with its allocations and tags, valid by construction."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, NamedTuple, Self, TypeVar

from attrs import field, frozen

from marketplace_metering_async import limits, quantities, rules
from marketplace_metering_async.customers import Customer, exact_text, ids_of, masked
from marketplace_metering_async.errors import InvalidRecordError, Violation

SECONDS_PER_HOUR: Final = 3600
SECONDS_PER_DAY: Final = 86_400
_1970: Final = datetime(1970, 1, 1, tzinfo=UTC)

_shared: Final = lru_cache(maxsize=1024)(int)
"""Returns the one object that stands for a number."""

Key = tuple[str | int | None, ...]
"""What the service counts as one: license or product, customer, dimension, clock hour."""

_Made = TypeVar("_Made")
_Reader = Callable[[Any], Any]


# What is of a wrong type is handed on unchanged, for the rules to name it.


def whole_utc_seconds(value: datetime) -> datetime:
    """
    Floor to the whole seconds that the wire carries; rounding could reach the next hour.

    What is no aware time that UTC can express is handed on unchanged, for the rules to name it.
    """
    if type(value) is datetime and value.tzinfo is UTC and not value.microsecond:
        return value
    if rules.timestamp("", value):
        return value
    utc = datetime.astimezone(value, UTC)
    return datetime(utc.year, utc.month, utc.day, utc.hour, utc.minute, utc.second, tzinfo=UTC)


def utc_of(seconds: float) -> datetime:
    """
    Return the time that is so many seconds since 1970, on every system in all years of a calendar.

    On Windows, `datetime.fromtimestamp()` knows those from 1970 to 3000 alone.

    Raises:
        OverflowError, ValueError: it is in none.
    """
    return _1970 + timedelta(seconds=seconds)


def _tags_tuple(value: "Iterable[Tag]") -> "tuple[Tag, ...]":
    return tuple(value) if isinstance(value, Iterable) else value


def allocations_tuple(value: "Iterable[UsageAllocation]") -> "tuple[UsageAllocation, ...]":
    """Return allocations as a record keeps them; what is none is handed on for the rules."""
    return tuple(value) if type(value) is not tuple and isinstance(value, Iterable) else value


@frozen
class Tag:
    """
    A name and a value that the buyer sees as a cost allocation tag.

    Attributes:
        key: 1 to 100 characters.
        value: 1 to 256 characters.

    Raises:
        InvalidRecordError: (a ValueError) where the service's model would refuse it.
        InvalidRecordTypeError: (a TypeError too) where a member is no text.
    """

    key: str = field(converter=exact_text)
    value: str = field(converter=exact_text)

    def __attrs_post_init__(self) -> None:
        """Refuse what the service would refuse."""
        rules.raise_if_any(rules.tag(self.key, self.value))


@frozen
class UsageAllocation:
    """
    A part of a record's quantity, and the tags that it is booked under.

    Attributes:
        allocated_usage_quantity: As the quantity of a record.
        tags: At most five; none is the untagged part.

    Raises:
        InvalidRecordError: (a ValueError) where the service's model would refuse it.
        InvalidRecordTypeError: (a TypeError too) where a member is of a wrong type.
    """

    allocated_usage_quantity: int | Decimal = field(converter=quantities.kept)
    tags: tuple[Tag, ...] = field(default=(), converter=_tags_tuple)

    def __attrs_post_init__(self) -> None:
        """Refuse what the service would refuse."""
        rules.raise_if_any(self._violations())

    def _violations(self) -> tuple[Violation, ...]:
        found = rules.quantity("allocated_usage_quantity", self.allocated_usage_quantity)
        if not isinstance(self.tags, tuple) or not all(isinstance(t, Tag) for t in self.tags):
            wrong = Violation("tags", "Tag objects", rules.describe(self.tags), wrong_type=True)
            return (*found, wrong)
        if len(self.tags) > limits.MAX_TAGS:
            most = f"at most {limits.MAX_TAGS} tags"
            return (*found, Violation("tags", most, str(len(self.tags))))
        return found

    def tag_set(self) -> frozenset[tuple[str, str]]:
        """Return the tags without their order: no two allocations of a record share a tag set."""
        return frozenset((tag.key, tag.value) for tag in self.tags)


@frozen(kw_only=True)
class UsageRecord:
    """
    One metered quantity of one customer, dimension and hour, as the seller states it.

    Attributes:
        timestamp: When it was used; aware; kept in UTC and floored to whole seconds.
        dimension: One of the product's dimensions; letter case counts.
        quantity: 0 to 9999999999.999999, as an int, a Decimal or a text as "17.42", in steps of a
            millionth; kept as an int where it is whole, else as a Decimal. A float is refused: it
            is not what was written. Required, since a zero locks its hour at zero.
        customer_aws_account_id: The buyer's AWS account, digits.
        customer_identifier: The buyer in legacy integrations, in place of the account.
        license_arn: The buyer's license (Concurrent Agreements), together with the account.
        product_code: The product; with a license it only groups, and is never sent.
        usage_allocations: How the quantity splits by tags; they add up to it.
        epoch: The timestamp in whole seconds since 1970, as the wire carries it.

    `customer=` stands for the four members that say whose usage it is.

    Raises:
        InvalidRecordError: (a ValueError) with every rule of the service that it breaks.
        InvalidRecordTypeError: (a TypeError too) where a member is of a wrong type.
    """

    timestamp: datetime
    dimension: str
    quantity: int | Decimal = field(converter=quantities.kept)
    customer_aws_account_id: str | None = field(default=None, repr=masked)
    customer_identifier: str | None = field(default=None, repr=masked)
    license_arn: str | None = field(default=None, repr=masked)
    product_code: str | None = None
    usage_allocations: tuple[UsageAllocation, ...] = field(default=(), converter=allocations_tuple)
    epoch: int = field(init=False, repr=False, eq=False)
    _travels_whole: bool = field(init=False, repr=False, eq=False)
    _given_customer: Customer | None = field(default=None, alias="customer", repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        """Refuse what the service would refuse, then note the timestamp as the wire has it."""
        note = object.__setattr__.__get__(self)
        if self._given_customer is not None:
            given = {name: getattr(self, name) for name in _CUSTOMER_MEMBERS}
            for name, value in ids_of(self._given_customer, **given).items():
                note(name, value)
            note("_given_customer", None)  # from now on its members speak for it
        if not self._is_plain():
            note("timestamp", whole_utc_seconds(self.timestamp))
            for name in _TEXTS:
                note(name, exact_text(getattr(self, name)))
            rules.raise_if_any(self._violations())
        since = self.timestamp - _1970
        # There are few hours and dimensions, and many records: they share those objects.
        note("epoch", _shared(since.days * SECONDS_PER_DAY + since.seconds))
        note("dimension", sys.intern(self.dimension))
        note("_travels_whole", self._is_whole())

    def _is_plain(self) -> bool:
        """Fast check: True means a record of the usual kind that keeps every rule."""
        when, identifier = self.timestamp, self.customer_identifier
        return (
            type(when) is datetime
            and when.tzinfo is UTC
            and not when.microsecond
            and rules.is_plain_text(self.dimension)
            and quantities.is_plain(self.quantity)
            and (
                rules.is_account_id(self.customer_aws_account_id)
                if identifier is None
                else self.customer_aws_account_id is None and rules.is_plain_text(identifier)
            )
            and self.license_arn is None
            and self.product_code is None
            and self.usage_allocations == ()
        )

    def _violations(self) -> tuple[Violation, ...]:
        found = (
            rules.timestamp("timestamp", self.timestamp)
            + rules.text("dimension", self.dimension)
            + rules.quantity("quantity", self.quantity)
            + rules.identity(
                self.customer_aws_account_id, self.customer_identifier, self.license_arn
            )
        )
        if self.product_code is not None:
            found += rules.product_code(self.product_code)
        return found + allocation_violations(self.quantity, self.usage_allocations)

    @classmethod
    def from_boto(cls, mapping: Mapping[str, Any]) -> Self:
        """
        Make a record of what boto3's `batch_meter_usage` takes as one of its `UsageRecords`.

        A quantity may be under either of its members, not under both. `ProductCode` is taken too,
        for batches of several products. `Timestamp` may be an aware
        datetime, an ISO 8601 text with a time zone, or whole seconds since 1970.

        Raises:
            InvalidRecordError: (a ValueError) with every rule of the service that it breaks,
                unknown and missing members among them.
            InvalidRecordTypeError: (a TypeError too) where a member is of a wrong type.
        """
        return _read(cls, mapping, _RECORD)

    def to_boto(self) -> dict[str, Any]:
        """
        Return the record as boto3 takes it; without the product code, which is the request's.

        Before 1.44.1 boto3 knows no `QuantityAsDecimal`, which fractions and what is above
        2147483647 travel as.
        """
        return {**self.to_wire(), "Timestamp": self.timestamp}

    def to_wire(self) -> dict[str, Any]:
        """Return the same with the timestamp in seconds since 1970, as a request carries it."""
        members: dict[str, Any] = {"Timestamp": self.epoch, "Dimension": self.dimension}
        if self._travels_whole and not self.usage_allocations:  # as most
            members["Quantity"] = self.quantity
        else:
            members |= quantity_members(
                "Quantity", self.quantity, self.usage_allocations, whole=self._travels_whole
            )
        if self.customer_aws_account_id is not None:
            members["CustomerAWSAccountId"] = self.customer_aws_account_id
        if self.customer_identifier is not None:
            members["CustomerIdentifier"] = self.customer_identifier
        if self.license_arn is not None:
            members["LicenseArn"] = self.license_arn
        return members

    def _is_whole(self) -> bool:  # the ledger's records know better
        return travel_whole(self.quantity, self.usage_allocations)

    @property
    def customer(self) -> Customer:
        """Whose usage it is, with the product."""
        return Customer(**{name: getattr(self, name) for name in _CUSTOMER_MEMBERS})

    def key(self, product_code: str | None = None) -> Key:
        """
        Return what the service counts as one: license or product, customer, dimension, clock hour.

        *product_code* stands in where the record has none.
        """
        return (
            self.license_arn,
            None if self.license_arn else (self.product_code or product_code),
            self.customer_aws_account_id,
            self.customer_identifier,
            self.dimension,
            self.epoch // SECONDS_PER_HOUR,
        )


def allocation_violations(quantity: object, parts: object) -> tuple[Violation, ...]:
    """Return what is wrong with the allocations of *quantity*, as `allocations_tuple` has them."""
    if not isinstance(parts, tuple) or not all(isinstance(p, UsageAllocation) for p in parts):
        wanted, came = "UsageAllocation objects", rules.describe(parts)
        return (Violation("usage_allocations", wanted, came, wrong_type=True),)
    sets = [(part.allocated_usage_quantity, part.tag_set()) for part in parts]
    return rules.allocated("usage_allocations", quantity, sets) if sets else ()


def record_of(given: object) -> UsageRecord:
    """
    Return the record that was *given*: itself, or made of a mapping as boto3 takes it.

    Raises:
        InvalidRecordError: as `UsageRecord.from_boto`, and for what is neither.
    """
    if isinstance(given, UsageRecord):
        return given
    if not isinstance(given, Mapping):
        raise _of_another_type("a UsageRecord or a mapping", given)
    try:
        return UsageRecord.from_boto(given)
    except InvalidRecordError:
        raise
    except Exception as error:
        raise unreadable(error) from error


def unreadable(error: Exception) -> InvalidRecordError:
    """Return what is wrong with a mapping, which is anybody's code: rows of a database, for one."""
    return InvalidRecordError([Violation("", "a mapping that can be read", type(error).__name__)])


_CUSTOMER_MEMBERS: Final = (
    "customer_aws_account_id",
    "customer_identifier",
    "license_arn",
    "product_code",
)
_TEXTS: Final = ("dimension", *_CUSTOMER_MEMBERS)


def travel_whole(quantity: quantities.Quantity, allocations: Sequence[UsageAllocation]) -> bool:
    """Return whether the integer members carry *quantity* with its *allocations*."""
    parts = [part.allocated_usage_quantity for part in allocations] if allocations else ()
    return quantities.travels_whole(quantity, parts)


def quantity_members(
    name: str,
    quantity: quantities.Quantity,
    allocations: Sequence[UsageAllocation],
    *,
    whole: bool,
) -> dict[str, Any]:
    """
    Return the members that say how much, as boto3 takes them and the wire carries them.

    The quantity is under *name* where they travel *whole*, else under its decimal sister, and its
    allocations are of the same kind.
    """
    members = _amount(name, quantity, whole=whole)
    if allocations:
        members["UsageAllocations"] = [_allocation_members(one, whole=whole) for one in allocations]
    return members


def _allocation_members(allocation: UsageAllocation, *, whole: bool) -> dict[str, Any]:
    quantity = allocation.allocated_usage_quantity
    members = _amount("AllocatedUsageQuantity", quantity, whole=whole)
    if allocation.tags:
        members["Tags"] = [{"Key": tag.key, "Value": tag.value} for tag in allocation.tags]
    return members


def _amount(name: str, quantity: quantities.Quantity, *, whole: bool) -> dict[str, Any]:
    return {name: quantity} if whole else {f"{name}{quantities.AS_DECIMAL}": str(quantity)}


def usage_timestamp(value: object) -> datetime:
    """
    Read a timestamp as mappings and files carry it.

    An aware datetime, an ISO 8601 text with a time zone (`Z` or an offset), or whole seconds
    since 1970. What is none of these is handed on for the record's rules to refuse.

    Raises:
        InvalidRecordError: for a text or a number that is no such time.
    """
    if isinstance(value, str):
        try:
            time = datetime.fromisoformat(value)
        except ValueError:
            pass
        else:
            if time.tzinfo is None:
                return time  # the record's rules say what is wrong with it
            # .NET's word for no time is 0001-01-01T00:00:00+01:00, which in UTC was in no year.
            rules.raise_if_any(rules.timestamp("", time))
            return time.astimezone(UTC)
    elif isinstance(value, int) and not isinstance(value, bool):
        try:
            return utc_of(value)
        except (ValueError, OverflowError):
            pass
    else:
        return value  # type: ignore[return-value]  # the record's rules say what is wrong with it
    expected = "an ISO 8601 time with a time zone, or whole seconds since 1970"
    raise InvalidRecordError([Violation("", expected, rules.describe(value))])


class _Form(NamedTuple):
    """
    How boto3 takes something.

    Attributes:
        known: Its members: our name for each, and what reads it, if anything has to.
        required: Our names of those that may not be absent.
    """

    known: Mapping[str, tuple[str, _Reader | None]]
    required: tuple[str, ...]


_TAG: Final = _Form({"Key": ("key", None), "Value": ("value", None)}, required=("key", "value"))
_ALLOCATION: Final = _Form(
    {
        "AllocatedUsageQuantity": ("allocated_usage_quantity", None),
        "AllocatedUsageQuantityAsDecimal": ("allocated_usage_quantity", None),
        "Tags": ("tags", lambda value: _each(Tag, value, _TAG)),
    },
    required=("allocated_usage_quantity",),
)
_RECORD: Final = _Form(
    {
        "Timestamp": ("timestamp", usage_timestamp),
        "Dimension": ("dimension", None),
        "Quantity": ("quantity", None),
        "QuantityAsDecimal": ("quantity", None),
        "CustomerAWSAccountId": ("customer_aws_account_id", None),
        "CustomerIdentifier": ("customer_identifier", None),
        "LicenseArn": ("license_arn", None),
        "ProductCode": ("product_code", None),
        "UsageAllocations": ("usage_allocations", lambda v: _each(UsageAllocation, v, _ALLOCATION)),
    },
    required=("timestamp", "dimension", "quantity"),
)


def _read(kind: Callable[..., _Made], mapping: object, form: _Form) -> _Made:
    """Make a *kind* of boto's members, or raise with every unknown, missing or broken one."""
    members: dict[str, Any] = {}
    known = form.known
    try:
        for name, value in mapping.items():  # type: ignore[attr-defined]
            ours, reader = known[name]
            members[ours] = value if reader is None else reader(value)
        if len(members) == len(mapping):  # type: ignore[arg-type]
            return kind(**members)
    except (AttributeError, KeyError, TypeError, InvalidRecordError):
        pass
    return _read_closely(kind, mapping, form)


def _read_closely(kind: Callable[..., _Made], mapping: object, form: _Form) -> _Made:
    """Do the same, member by member, so that all that is wrong can be named."""
    if not isinstance(mapping, Mapping):
        raise _of_another_type("a mapping", mapping)
    known, required = form
    members: dict[str, Any] = dict.fromkeys(required)
    violations: list[Violation] = []
    for name, value in mapping.items():
        if name not in known:
            expected = f"one of {', '.join(known)}"
            violations.append(Violation(rules.truncate(str(name)), expected, "an unknown member"))
            continue
        ours, reader = known[name]
        if value is None:
            continue
        if members.get(ours) is not None:
            one = name.removesuffix(quantities.AS_DECIMAL)
            wanted = f"{one} or {one}{quantities.AS_DECIMAL}"
            violations.append(Violation(ours, wanted, "both"))
            continue
        try:
            members[ours] = value if reader is None else reader(value)
        except InvalidRecordError as error:
            violations += error.under(ours).violations
    unreadable = {violation.path.partition("[")[0] for violation in violations}
    try:
        made = kind(**members)
    except InvalidRecordError as error:
        violations += [v for v in error.violations if v.path not in unreadable]
        raise InvalidRecordError.of(violations) from None
    if violations:
        raise InvalidRecordError.of(violations)
    return made


def _each(kind: Callable[..., _Made], value: object, form: _Form) -> tuple[_Made, ...]:
    if not isinstance(value, list | tuple):
        raise _of_another_type("a list", value)
    made: list[_Made] = []
    violations: list[Violation] = []
    for index, item in enumerate(value):
        try:
            made.append(_read(kind, item, form))
        except InvalidRecordError as error:
            violations += error.under(f"[{index}]").violations
    if violations:
        raise InvalidRecordError.of(violations)
    return tuple(made)


def _of_another_type(wanted: str, value: object) -> InvalidRecordError:
    return InvalidRecordError.of([Violation("", wanted, rules.describe(value), wrong_type=True)])
