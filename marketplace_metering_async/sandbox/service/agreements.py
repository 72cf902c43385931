"""A buyer's agreement over a product, and what it is at a moment."""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from attrs import Attribute, field, frozen
from attrs.validators import optional

from marketplace_metering_async.sandbox.service.rules import Rules

_NEVER: Final = datetime.max.replace(tzinfo=UTC)


class AgreementState(StrEnum):
    """What an agreement is at a moment."""

    COMING = "coming"
    """It begins later."""
    ACTIVE = "active"
    """It is in force."""
    CLOSING = "closing"
    """It has ended, and the seller may still meter."""
    ENDED = "ended"
    """It is over, and its closing hour, too."""


def whole_second(value: Any) -> Any:  # noqa: ANN401 - whatever was given
    """Return a moment as the clients can say it that stamp usage with whole seconds."""
    return value.replace(microsecond=0) if isinstance(value, datetime) else value


def _aware(_: object, attribute: "Attribute[Any]", value: object) -> None:
    if not isinstance(value, datetime):
        raise TypeError(f"{attribute.name}: expected a datetime, got {value!r}")
    if value.tzinfo is None:
        raise ValueError(f"{attribute.name}: expected a datetime with a time zone, got a naive one")


def _text(_: object, attribute: "Attribute[Any]", value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{attribute.name}: expected a text, got {value!r}")
    if not value:
        raise ValueError(f"{attribute.name}: expected a text, got an empty one")


def _after_begin(agreement: "Agreement", attribute: "Attribute[Any]", value: datetime) -> None:
    _aware(agreement, attribute, value)
    if value < agreement.begins:
        raise ValueError(f"{attribute.name}: expected no moment before the agreement begins")


@frozen(kw_only=True)
class Agreement:
    """
    One buyer's agreement over one product.

    Attributes:
        agreement_id: Its id, as ResolveCustomer tells it.
        product_code: Of which product.
        customer_aws_account_id: The buyer's account.
        customer_identifier: The buyer's legacy id, for products that have such.
        license_arn: The license that it grants.
        begins: From when on usage may be metered, to the second.
        ends: When it ended, or will end; None: open.
        free_until: Until when usage costs the buyer nothing (a free trial).
        reason: Why it ended: "cancelled", "expired" or "".
    """

    agreement_id: str = field(validator=_text)
    product_code: str = field(validator=_text)
    customer_aws_account_id: str = field(validator=_text)
    customer_identifier: str | None = field(default=None, validator=optional(_text))
    license_arn: str | None = field(default=None, validator=optional(_text))
    begins: datetime = field(converter=whole_second, validator=_aware)
    ends: datetime | None = field(default=None, validator=optional(_after_begin))
    free_until: datetime | None = field(default=None, validator=optional(_after_begin))
    reason: str = ""

    def state(self, now: datetime, closing: timedelta) -> AgreementState:
        """Return what the agreement is at *now*, where its usage is taken *closing* longer."""
        ends = self.ends or _NEVER
        if now < self.begins:
            return AgreementState.COMING
        if now < ends:
            return AgreementState.ACTIVE
        return AgreementState.CLOSING if now - ends < closing else AgreementState.ENDED

    def covers(self, moment: datetime, rules: Rules) -> bool:
        """Return whether usage at *moment* is usage under the agreement, as *rules* read that."""
        begins = self.begins
        if rules.begins_from == "hour":
            begins = begins.replace(minute=0, second=0)
        return begins <= moment and not self._is_past(moment, rules)

    def _is_past(self, moment: datetime, rules: Rules) -> bool:
        """Return whether *moment* is after the agreement, or after the time that closes it."""
        if self.ends is None or moment <= self.ends:
            return False
        return rules.ends_at == "instant" or moment - self.ends > rules.closing

    def is_free(self, moment: datetime) -> bool:
        """Return whether usage at *moment* costs the buyer nothing."""
        return self.free_until is not None and moment < self.free_until
