"""A buyer's agreement over a product, and what it is at a moment."""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from attrs import Attribute, field, frozen

_FOREVER: Final = datetime.max.replace(tzinfo=UTC)


class AgreementState(StrEnum):
    """What an agreement is at a moment."""

    COMING = "coming"
    ACTIVE = "active"
    CLOSING = "closing"
    """It has ended, and the seller may still meter what was used until then."""
    ENDED = "ended"


def _aware(_: object, attribute: "Attribute[Any]", value: datetime | None) -> None:
    if value is not None and value.tzinfo is None:
        raise ValueError(f"{attribute.name}: expected a datetime with a time zone, got a naive one")


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
        begins: From when on usage may be metered.
        ends: When it ended, or will end; None: open.
        free_until: Until when usage costs the buyer nothing (a free trial).
        reason: Why it ended: "cancelled", "expired" or "".
    """

    agreement_id: str
    product_code: str
    customer_aws_account_id: str
    customer_identifier: str | None = None
    license_arn: str | None = None
    begins: datetime = field(validator=_aware)
    ends: datetime | None = field(default=None, validator=_aware)
    free_until: datetime | None = field(default=None, validator=_aware)
    reason: str = ""

    def state(self, now: datetime, closing: timedelta) -> AgreementState:
        """Return what the agreement is at *now*, where its usage is taken *closing* longer."""
        ends = self.ends or _FOREVER
        if now < self.begins:
            return AgreementState.COMING
        if now < ends:
            return AgreementState.ACTIVE
        return AgreementState.CLOSING if now - ends < closing else AgreementState.ENDED

    def covers(self, moment: datetime, *, from_hour: bool = False) -> bool:
        """Return whether usage at *moment* is usage under the agreement; or in its first hour."""
        begins = self.begins
        if from_hour:
            begins = begins.replace(minute=0, second=0, microsecond=0)
        return begins <= moment <= (self.ends or _FOREVER)

    def is_free(self, moment: datetime) -> bool:
        """Return whether usage at *moment* costs the buyer nothing."""
        return self.free_until is not None and moment < self.free_until
