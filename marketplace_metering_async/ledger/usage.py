"""From what a caller says to Usage: a record's rules, and a memory for keys that keep them."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from math import floor
from typing import Any, Final, Required, TypedDict

from marketplace_metering_async.customers import Customer, ids_of
from marketplace_metering_async.errors import InvalidRecordError, Violation
from marketplace_metering_async.ledger.frozen_record import digest_of_event, number_of
from marketplace_metering_async.ledger.hours import hour_of
from marketplace_metering_async.ledger.model import CustomerKey, Usage, UsageKey
from marketplace_metering_async.ledger.posting import MOST_AHEAD
from marketplace_metering_async.limits import MAX_TEXT
from marketplace_metering_async.quantities import Quantity, millionths, read
from marketplace_metering_async.records import UsageRecord, unreadable, whole_utc_seconds
from marketplace_metering_async.rules import (
    describe,
    is_plain_text,
    raise_if_any,
    text,
    timestamp,
    truncate,
)

_MOST_AHEAD: Final = timedelta(seconds=MOST_AHEAD)
_REMEMBERED: Final = 20_000
"""
Keys whose texts are not looked at again: the rules cost more than all else a call does. Beyond
that, no more are remembered before the next clock hour, when all may be forgotten.
"""


class UsageToAdd(TypedDict, total=False):
    """
    A piece of usage for `add_many`: a mapping of what `add_usage` takes, by the same names.

    A dict, or any other mapping; only a connection has no place in it.
    """

    dimension: Required[str]
    quantity: Required[Quantity | str]
    customer: Customer | None
    customer_aws_account_id: str | None
    customer_identifier: str | None
    license_arn: str | None
    product_code: str | None
    at: datetime | None
    event_id: str | None


_Known = tuple[UsageKey, str, int]
"""A key, with whom a license record may share a request, and what stands for it in a digest."""
_NAMES: Final = UsageToAdd.__annotations__.keys()


class UsageReader:
    """Reads what callers of add_usage() say."""

    def __init__(self) -> None:
        """Begin with no key in mind."""
        self._known: dict[tuple[str | None, ...], _Known] = {}
        self._since = 0

    def usage(
        self,
        now: datetime,
        *,
        dimension: str,
        quantity: Quantity | str,
        customer: Customer | None = None,
        customer_aws_account_id: str | None = None,
        customer_identifier: str | None = None,
        license_arn: str | None = None,
        product_code: str | None = None,
        at: datetime | None = None,
        event_id: str | None = None,
    ) -> Usage:
        """
        Return the usage that a caller means.

        Raises:
            InvalidRecordError: with all that is wrong with it.
        """
        if customer is not None:
            ids = ids_of(
                customer,
                customer_aws_account_id=customer_aws_account_id,
                customer_identifier=customer_identifier,
                license_arn=license_arn,
                product_code=product_code,
            )
            customer_aws_account_id = ids["customer_aws_account_id"]
            customer_identifier = ids["customer_identifier"]
            license_arn, product_code = ids["license_arn"], ids["product_code"]
        moment = None if at is None else whole_utc_seconds(at)
        who = (
            dimension,
            customer_aws_account_id,
            customer_identifier,
            license_arn,
            product_code,
        )
        try:
            known = self._known.get(who)
        except TypeError:  # something that is no text, which the rules will name
            known = None
        exact = read(quantity)
        if known is not None and exact is not None and _is_plain(moment, now, event_id):
            epoch, amount = floor((moment or now).timestamp()), millionths(exact)
        else:
            record = _record(
                timestamp=moment or now,
                dimension=dimension,
                quantity=quantity,
                customer_aws_account_id=customer_aws_account_id,
                customer_identifier=customer_identifier,
                license_arn=license_arn,
                product_code=product_code,
            )
            raise_if_any(_violations(record, now, event_id))
            known = self._remember(who, record, now)
            epoch, amount = record.epoch, millionths(record.quantity)
        key, license_product, number = known
        digest = b""
        if event_id is not None:
            digest = digest_of_event(number, None if at is None else epoch, amount)
        return Usage(key, license_product, epoch, amount, event_id, digest)

    def one_of_many(self, now: datetime, position: int, given: Any) -> Usage | InvalidRecordError:  # noqa: ANN401
        """Return the usage that a caller means by a mapping, or the error that names its place."""
        try:
            try:
                return self.usage(now, **given)
            except InvalidRecordError:
                raise
            except TypeError:  # no mapping, or one with too few names or others
                return self.usage(now, **_arguments(given))
        except InvalidRecordError as error:
            return error.under(f"usages[{position}]")
        except Exception as error:  # noqa: BLE001 - of the mapping: it refuses no others
            return unreadable(error).under(f"usages[{position}]")

    def _remember(self, who: tuple[str | None, ...], record: UsageRecord, now: datetime) -> _Known:
        product = record.product_code or "" if record.license_arn else ""
        key = UsageKey.of(record)
        known = (key, product, number_of(key))
        this = hour_of(int(now.timestamp()))
        if len(self._known) >= _REMEMBERED and this != self._since:
            self._known.clear()
            self._since = this
        if len(self._known) < _REMEMBERED:
            self._known[who] = known
        return known


def _arguments(given: object) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        wanted = "a mapping of what add_usage() takes"
        raise InvalidRecordError.of([Violation("", wanted, describe(given), wrong_type=True)])
    if unknown := [name for name in given if name not in _NAMES]:
        wanted = f"one of {', '.join(_NAMES)}"
        raise InvalidRecordError(
            [Violation(truncate(str(name)), wanted, "an unknown name") for name in unknown]
        )
    return {"dimension": None, "quantity": None, **given}


def _is_plain(moment: datetime | None, now: datetime, event_id: str | None) -> bool:
    """Whether these surely keep the rules; others are looked at more closely."""
    is_past = moment is None or (
        type(moment) is datetime and moment.tzinfo is UTC and moment <= now
    )
    return is_past and (event_id is None or (is_plain_text(event_id) and "\0" not in event_id))


def customer_of(now: datetime, customer: Customer | None, **ids: str | None) -> CustomerKey:
    """
    Return the customer that a caller means.

    Raises:
        InvalidRecordError: if no such customer can be.
    """
    record = _record(timestamp=now, dimension="any", quantity=0, **ids_of(customer, **ids))
    raise_if_any(_no_product(record))
    return UsageKey.of(record).customer


def moment_of(path: str, value: datetime) -> datetime:
    """
    Return a caller's time in UTC and whole seconds.

    Raises:
        InvalidRecordError: (a ValueError) if it is no aware time that UTC can express.
    """
    raise_if_any(timestamp(path, value))
    return whole_utc_seconds(value)


def _record(**members: Any) -> UsageRecord:  # noqa: ANN401
    """Return a record of *members*, with the rules' complaints in the words of add_usage()."""
    try:
        return UsageRecord(**members)
    except InvalidRecordError as error:
        renamed = [
            Violation("at", v.expected, v.got, v.wrong_type) if v.path == "timestamp" else v
            for v in error.violations
        ]
        raise InvalidRecordError.of(renamed) from None


def _violations(record: UsageRecord, now: datetime, event_id: str | None) -> tuple[Violation, ...]:
    """What the ledger asks beyond the rules of a record."""
    found = _no_product(record) + _without_nul(
        dimension=record.dimension,
        customer_identifier=record.customer_identifier,
        event_id=event_id,
    )
    if record.timestamp > now + _MOST_AHEAD:
        ahead = f"at most {_MOST_AHEAD} ahead of now"
        found += (Violation("at", ahead, record.timestamp.isoformat()),)
    if event_id is not None:
        found += text("event_id", event_id, longest=MAX_TEXT)
    return found


def _no_product(record: UsageRecord) -> tuple[Violation, ...]:
    if record.license_arn or record.product_code:
        return ()
    return (Violation("product_code", "the product's code", "None"),)


def _without_nul(**texts: str | None) -> tuple[Violation, ...]:
    """Databases end a text at a NUL character, or refuse it with all that shares its commit."""
    return tuple(
        Violation(name, "text without NUL characters", describe(value))
        for name, value in texts.items()
        if isinstance(value, str) and "\0" in value
    )
