"""
What the service's pages leave open, as switches.

Each default is the reading that is worse for clients, except where the service's model is plain
and only its prose says otherwise, and where no seller who follows the guides could meter: the first
and the last hour of an agreement, and a dry run.
"""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from functools import partial
from typing import Any, Final, Literal, Self, get_args

import attrs
from attrs import Attribute, field, frozen
from attrs.validators import and_, ge, le

from marketplace_metering_async.sandbox.expected import of, one_of, require, texts
from marketplace_metering_async.sandbox.service.regions import (
    EKS_REGIONS,
    REGIONS,
    WORKLOAD_REGIONS,
)

_LONGEST: Final = timedelta(days=36_500)


def _duration(name: str, value: timedelta | float) -> timedelta:
    require(name, value, timedelta, float, what="a timedelta or seconds")
    if isinstance(value, timedelta):
        return value
    try:
        return timedelta(seconds=value)
    except (OverflowError, ValueError):
        raise ValueError(f"{name}: expected 0 to {_LONGEST.days:,} days, got {value!r}") from None


def _by_type(_: type, fields: "list[Attribute[Any]]") -> "list[Attribute[Any]]":
    """Let each switch take what its annotation says; of several readings, the first by default."""
    return [_checked(one) for one in fields]


def _checked(switch: "Attribute[Any]") -> "Attribute[Any]":
    if switch.type is timedelta:
        between = and_(ge(timedelta(0)), le(_LONGEST))
        return switch.evolve(converter=partial(_duration, switch.name), validator=between)
    if switch.type == frozenset[str]:
        return switch.evolve(converter=partial(texts, switch.name))
    if switch.type is bool:
        return switch.evolve(validator=of(bool))
    readings = get_args(switch.type)
    return switch.evolve(default=readings[0], validator=one_of(*readings))


def _known(source: str, default: Any) -> Any:  # noqa: ANN401 - as annotated at the field
    """Return a field for a figure that the service's pages do give."""
    return field(default=default, metadata={"source": source})


def _open(source: str, default: Any = None, **presets: Any) -> Any:  # noqa: ANN401 - as _known
    """Return a field for what the pages leave open, with readings of `strict` and `kind`."""
    return field(default=default, metadata={"source": source, "open": True, **presets})


def _several(values: Iterable[str]) -> frozenset[str]:
    """Say what a switch of texts takes, for type checkers; `_by_type` has it name the switch."""
    return texts("several", values)


@frozen(kw_only=True, field_transformer=_by_type)
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

    identical_resend: Literal["duplicate", "success"] = _open(
        "The model implies a normal answer; AWS's agent skill says DuplicateRecord.",
        kind="success",
    )
    identical_means: Literal["all", "quantity"] = _open(
        "A duplicate has another quantity; no page says whether allocations count.",
        kind="quantity",
    )
    key_by: Literal["hour", "timestamp"] = _open(
        "Seller guide and agent skill say hour, the API reference says time.", kind="timestamp"
    )
    key_scope: Literal["region", "everywhere"] = _open(
        "AWS's agent skill says region; the API reference says nothing.", strict="everywhere"
    )
    key_memory: timedelta = _open("No page says how long a duplicate is remembered.", timedelta(0))
    same_instant: timedelta = _open(
        "UnprocessedRecords come for faults of the service; no page names a race.", timedelta(0)
    )
    not_subscribed_takes_key: bool = _open(
        "API reference: it may be sent again once the buyer has subscribed.", False, strict=True
    )
    age: timedelta = _known(
        "API reference of BatchMeterUsage, since July 2026.", timedelta(hours=24)
    )
    age_edge: Literal["refused", "taken"] = _open(
        "The API reference says 24 hours, and not whether just 24 hours are too many.",
        kind="taken",
    )
    age_from: Literal["timestamp", "hour"] = _open(
        "The API reference says after the event; sellers have counted from its hour's start.",
        strict="hour",
    )
    month_end: timedelta = _known(
        "API reference of BatchMeterUsage: until 06:00 UTC on the 1st.", timedelta(hours=6)
    )
    future: timedelta = _open(
        "AWS's agent skill says refused; no page gives a tolerance.",
        timedelta(0),
        kind=timedelta(minutes=5),
    )
    workload_age: timedelta = _known("API reference of MeterUsage.", timedelta(hours=6))
    closing: timedelta = _known(
        "Seller guide: usage is sent within an hour of the end.", timedelta(hours=1)
    )
    outside_agreement: Literal["refuse", "status", "take"] = _open(
        "The model does not allow it, and does not say what is answered.", kind="take"
    )
    begins_from: Literal["hour", "instant"] = _open(
        "The model says the start of usage; guides stamp usage with the start of its hour.",
        strict="instant",
    )
    ends_at: Literal["closing", "instant"] = _open(
        "The guide gives an hour to send; AWS's sample stamps its last usage within it.",
        strict="instant",
    )
    unknown_members: Literal["refuse", "ignore"] = _open(
        "No page says; JSON 1.1 services of AWS do either.", kind="ignore"
    )
    unknown_customer: Literal["refuse", "status"] = _open(
        "The model has an exception for it, and lists it as a cause of CustomerNotSubscribed.",
        kind="status",
    )
    repeated_key: Literal["refuse", "duplicate"] = _open("No page says.", kind="duplicate")
    tags_counted: Literal["allocation", "record"] = _open(
        "The model says five an allocation, the seller guide five across the list.",
        strict="record",
    )
    tag_characters: Literal["pattern", "prose"] = _open(
        "The model's pattern has a range where its prose lists characters.", strict="prose"
    )
    result_order: Literal["reversed", "given"] = _open("No order is promised.", kind="given")
    echo: Literal["given", "filled"] = _open(
        "No page says; AWS's sample shows a time with milliseconds.", strict="filled"
    )
    echo_member: Literal["given", "integer", "decimal", "both"] = _open(
        "Decimal quantities are of October 2026; no page shows an answer to one.",
        strict="decimal",
    )
    fractions: Literal["taken", "refused"] = _open(
        "The model of October 2026 takes them; whether a product must allow them is not said.",
        strict="refused",
    )
    token_life: timedelta = _open(
        "Seller guide: 4 hours; another paragraph of it says about one.",
        timedelta(hours=4),
        strict=timedelta(hours=1),
    )
    token_use: Literal["many", "once"] = _open(
        "Seller guide: the same answer until then; the error's text speaks of used tokens.",
        strict="once",
    )
    dry_run: Literal["success", "error"] = _open(
        "AWS's container sample needs a success; the API reference names DryRunOperation.",
        strict="error",
    )
    idempotency_conflict_status: Literal[400, 409] = _open(
        "API reference: 400; the schemas of the JavaScript SDK: 409."
    )
    regions: frozenset[str] = field(
        default=REGIONS,
        converter=_several,
        metadata={"source": "Metering Region support, November 2026."},
    )
    workload_regions: frozenset[str] = field(
        default=WORKLOAD_REGIONS,
        converter=_several,
        metadata={"source": "Metering Region support, November 2026."},
    )
    eks_regions: frozenset[str] = field(
        default=EKS_REGIONS,
        converter=_several,
        metadata={"source": "The service's model, November 2026."},
    )

    @classmethod
    def strict(cls) -> Self:
        """Return the rules that refuse whatever any reading refuses: who passes here passes."""
        return cls._preset("strict")

    @classmethod
    def kind(cls) -> Self:
        """Return the rules that take whatever any reading takes."""
        return cls._preset("kind")

    @classmethod
    def _preset(cls, name: str) -> Self:
        chosen = {one.name: one.metadata[name] for one in attrs.fields(cls) if name in one.metadata}
        return cls(**chosen)

    def changed(self, changes: Mapping[str, Any]) -> Self:
        """
        Return these rules with *changes*; times may be seconds.

        Raises:
            TypeError: for a rule that does not exist, or a value of another type.
            ValueError: for a reading that does not exist.
        """
        names = [one.name for one in attrs.fields(type(self))]
        if unknown := sorted(changes.keys() - {*names}):
            raise TypeError(f"expected some of {', '.join(names)}; got {', '.join(unknown)}")
        rules = self
        for name, value in changes.items():
            try:
                rules = attrs.evolve(rules, **{name: value})
            except (TypeError, ValueError, OverflowError) as error:
                kind = TypeError if isinstance(error, TypeError) else ValueError
                said = str(error.args[0])  # attrs adds what it looked at
                begins = f"{name}: "
                raise kind(said if said.startswith(begins) else f"{begins}{said}") from error
        return rules
