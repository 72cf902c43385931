"""
What the service's pages leave open, as switches.

Each default is the reading that is worse for clients, except where the service's model is plain
and only its prose says otherwise, and where no seller who follows the guides could meter: the first
and the last hour of an agreement, and a dry run.
"""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, Final, Literal, Self

import attrs
from attrs import field, frozen
from attrs.validators import ge, in_, instance_of, le

REGIONS: Final = frozenset(
    [
        "af-south-1",
        "ap-east-1",
        "ap-northeast-1",
        "ap-northeast-2",
        "ap-northeast-3",
        "ap-south-1",
        "ap-south-2",
        "ap-southeast-1",
        "ap-southeast-2",
        "ap-southeast-3",
        "ap-southeast-4",
        "ca-central-1",
        "eu-central-1",
        "eu-central-2",
        "eu-north-1",
        "eu-south-1",
        "eu-south-2",
        "eu-west-1",
        "eu-west-2",
        "eu-west-3",
        "il-central-1",
        "me-central-1",
        "me-south-1",
        "sa-east-1",
        "us-east-1",
        "us-east-2",
        "us-west-1",
        "us-west-2",
        "cn-northwest-1",
    ]
)
"""Where BatchMeterUsage and ResolveCustomer are offered (Metering Region support, Nov 2026)."""

GOVERNMENT: Final = frozenset(["us-gov-east-1", "us-gov-west-1"])
"""Where software of AMIs is metered as well, and no container (the same page)."""

WORKLOAD_REGIONS: Final = REGIONS - {"cn-northwest-1"} | GOVERNMENT
"""Where MeterUsage is offered (the same page)."""

EKS_REGIONS: Final = frozenset(
    [
        "ap-east-1",
        "ap-northeast-1",
        "ap-northeast-2",
        "ap-south-1",
        "ap-southeast-1",
        "ap-southeast-2",
        "ca-central-1",
        "eu-central-1",
        "eu-north-1",
        "eu-west-1",
        "eu-west-2",
        "eu-west-3",
        "sa-east-1",
        "us-east-1",
        "us-east-2",
        "us-west-1",
        "us-west-2",
    ]
)
"""Where MeterUsage takes usage of pods of Amazon EKS (the service's model, Nov 2026)."""


_LONGEST: Final = timedelta(days=36_500)


def _duration(value: timedelta | float) -> timedelta:
    if isinstance(value, bool):
        raise TypeError(f"expected a time in seconds, got {value!r}")
    return value if isinstance(value, timedelta) else timedelta(seconds=value)


def _hours(hours: int) -> Any:  # noqa: ANN401 - the annotation at the field says which
    default = timedelta(hours=hours)
    between = [ge(timedelta(0)), le(_LONGEST)]
    return field(default=default, converter=_duration, validator=between)


def texts(values: Iterable[str]) -> frozenset[str]:
    """Return several texts as a set; TypeError for one text alone, and for what is none."""
    found = None if isinstance(values, str) else frozenset(values)
    if found is None or not all(isinstance(value, str) for value in found):
        raise TypeError(f"expected several texts, got {values!r}")
    return found


def _switch(*readings: str | int) -> Any:  # noqa: ANN401 - the annotation at the field says which
    return field(default=readings[0], validator=in_(readings))


@frozen(kw_only=True)
class Rules:
    """
    How the sandbox decides what is unknown of the service, and the figures it may change.

    Times are `timedelta`, or seconds.

    Attributes:
        identical_resend: What a record gets that is on file already, word for word.
        identical_means: Whether word for word takes in the allocations, or stops at the quantity.
        key_by: Whether the clock hour or the exact timestamp makes a record another one.
        key_scope: Whether a key counts in its region only, or everywhere.
        key_memory: How long a key is remembered after its first write; 0: permanently. Beyond it,
            the same usage is taken, and billed, again.
        same_instant: How soon after the first write of a key another one is left unprocessed,
            as if both had raced; 0: never.
        not_subscribed_takes_key: Whether a record that was CustomerNotSubscribed is a duplicate
            when it comes again; the service's pages say that it is not.
        age: From which age on a record is refused.
        age_edge: Whether a record of just that age is refused.
        age_from: Whether the age counts from the timestamp, or from the start of its hour.
        month_end: How long after a month's end its records are taken.
        future: How far ahead of the service's clock a timestamp may be.
        workload_age: Up to which age MeterUsage takes usage.
        closing: How long after the end of an agreement its usage is taken.
        ends_at: Whether an agreement covers usage until its closing time is over, as a seller needs
            it that stamps usage with the time of sending, or what was used until its end only.
        outside_agreement: What a record gets whose time is before or after its agreement: the
            request is refused, the record is not subscribed, or it is taken. (Outside a license's
            time, "refuse" is InvalidLicenseException, which is documented.)
        begins_from: Whether an agreement covers usage from the start of the hour that it begins
            in, since usage is stamped with the start of its hour, or from its begin on.
        unknown_members: Whether a member that the service's model does not have refuses the
            request or is ignored.
        unknown_customer: Whether an unknown customer refuses the request or is not subscribed.
        repeated_key: Whether a key twice in one call refuses it or makes the second a duplicate.
        tags_counted: Whether five different tag keys are the most in an allocation, as the
            service's model says, or in a record, as its guide can be read.
        tag_characters: The pattern of the service's model, or its prose as well, which does not
            take ``! " # $ % & ' ( ) * , ; <``.
        result_order: In which order results come; none is promised.
        echo: Whether an answer repeats a record as it was given, or fills in the quantity and cuts
            the timestamp to whole seconds.
        echo_member: Whether it repeats a quantity in the member that it came in, in the integer one
            where that can hold it, in the decimal one, or in both.
        fractions: Whether quantities that are not whole are taken. Whether a product has to allow
            them is not published, nor the error where it does not.
        token_life: How long a registration token lives.
        token_use: Whether a registration token may be resolved many times, or once.
        dry_run: Whether a permitted dry run of MeterUsage returns normally, without a record id, as
            AWS's own container sample needs it, or is the error DryRunOperation, which the API
            reference names and the service's model does not have.
        idempotency_conflict_status: 400 by the API reference, 409 by the JavaScript SDK.
        regions: Where BatchMeterUsage and ResolveCustomer are offered; empty: everywhere.
        workload_regions: Where MeterUsage and RegisterUsage are offered; empty: everywhere. In
            GovCloud no container is metered.
        eks_regions: Where MeterUsage is offered to pods of Amazon EKS; empty: everywhere.
    """

    identical_resend: Literal["duplicate", "success"] = _switch("duplicate", "success")
    identical_means: Literal["all", "quantity"] = _switch("all", "quantity")
    key_by: Literal["hour", "timestamp"] = _switch("hour", "timestamp")
    key_scope: Literal["region", "everywhere"] = _switch("region", "everywhere")
    key_memory: timedelta = _hours(0)
    same_instant: timedelta = _hours(0)
    not_subscribed_takes_key: bool = field(default=False, validator=instance_of(bool))
    age: timedelta = _hours(24)
    age_edge: Literal["refused", "taken"] = _switch("refused", "taken")
    age_from: Literal["timestamp", "hour"] = _switch("timestamp", "hour")
    month_end: timedelta = _hours(6)
    future: timedelta = _hours(0)
    workload_age: timedelta = _hours(6)
    closing: timedelta = _hours(1)
    outside_agreement: Literal["refuse", "status", "take"] = _switch("refuse", "status", "take")
    begins_from: Literal["hour", "instant"] = _switch("hour", "instant")
    ends_at: Literal["closing", "instant"] = _switch("closing", "instant")
    unknown_members: Literal["refuse", "ignore"] = _switch("refuse", "ignore")
    unknown_customer: Literal["refuse", "status"] = _switch("refuse", "status")
    repeated_key: Literal["refuse", "duplicate"] = _switch("refuse", "duplicate")
    tags_counted: Literal["allocation", "record"] = _switch("allocation", "record")
    tag_characters: Literal["pattern", "prose"] = _switch("pattern", "prose")
    result_order: Literal["reversed", "given"] = _switch("reversed", "given")
    echo: Literal["given", "filled"] = _switch("given", "filled")
    echo_member: Literal["given", "integer", "decimal", "both"] = _switch(
        "given", "integer", "decimal", "both"
    )
    fractions: Literal["taken", "refused"] = _switch("taken", "refused")
    token_life: timedelta = _hours(4)
    token_use: Literal["many", "once"] = _switch("many", "once")
    dry_run: Literal["success", "error"] = _switch("success", "error")
    idempotency_conflict_status: Literal[400, 409] = _switch(400, 409)
    regions: frozenset[str] = field(default=REGIONS, converter=texts)
    workload_regions: frozenset[str] = field(default=WORKLOAD_REGIONS, converter=texts)
    eks_regions: frozenset[str] = field(default=EKS_REGIONS, converter=texts)

    def changed(self, changes: Mapping[str, Any]) -> Self:
        """
        Return these rules with *changes*; times may be seconds.

        Raises:
            TypeError: for a rule that does not exist, or a value of another type.
            ValueError: for a reading that does not exist.
        """
        return attrs.evolve(self, **changes)
