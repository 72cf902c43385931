"""What a ledger's status says as measures, and those as Prometheus text."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal

from attrs import frozen

from marketplace_metering_async.ledger.status import LedgerStatus
from marketplace_metering_async.quantities import Quantity

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""Of the text, as Prometheus asks for it."""

_PREFIX: Final = "marketplace_metering_ledger"
_SUFFIXES: Final = {"s": "_seconds", "": ""}

Labels = Mapping[str, str]


@frozen(kw_only=True)
class Measure:
    """
    One measure of a ledger, whoever asks for it.

    Attributes:
        name: Without the prefix and what the unit and the kind add to it.
        kind: A counter never falls.
        unit: "s", or "" where the name says what is counted.
        text: What it means.
        samples: A value for each set of labels. A customer is never one of them.
    """

    name: str
    text: str
    kind: Literal["counter", "gauge"] = "gauge"
    unit: Literal["s", ""] = ""
    samples: Sequence[tuple[Labels, Quantity | float]]

    @property
    def prometheus_name(self) -> str:
        """The whole name, with unit and kind at its end, as the conventions have it."""
        total = "_total" if self.kind == "counter" else ""
        return f"{_PREFIX}_{self.name}{_SUFFIXES[self.unit]}{total}"


def measures_of(status: LedgerStatus) -> list[Measure]:
    """Return all that *status* says; a measure of what there is not has no sample."""
    return [
        Measure(
            name="recorded_units",
            text="Units that were ever added.",
            kind="counter",
            samples=_one(status.recorded),
        ),
        Measure(
            name="units",
            text="Units by product, dimension and what has become of them.",
            samples=list(_units(status)),
        ),
        Measure(
            name="records",
            text="Records by what has become of them.",
            samples=[({"state": state.value}, n) for state, n in status.records.items()],
        ),
        Measure(
            name="in_flight_units",
            text="Units that a relay is sending.",
            samples=_one(status.in_flight),
        ),
        Measure(
            name="at_risk_units",
            text="Unsent units that were due two hours ago, or are lost within the hour.",
            samples=_one(status.at_risk),
        ),
        Measure(
            name="oldest_unsent",
            text="Since the hour of the oldest unsent usage was over.",
            unit="s",
            samples=_one(status.oldest_unsent_seconds),
        ),
        Measure(
            name="time_to_first_loss",
            text="Until the service takes the oldest unsent usage no more; below 0: too late.",
            unit="s",
            samples=_one(status.seconds_to_first_loss),
        ),
        Measure(
            name="last_success",
            text="Since the service last took a record.",
            unit="s",
            samples=_one(status.last_success_seconds),
        ),
        Measure(
            name="last_relay",
            text="Since a relay last said that it works, which it does every minute.",
            unit="s",
            samples=_one(status.last_relay_seconds),
        ),
        Measure(
            name="last_usage",
            text="Since the latest usage happened.",
            unit="s",
            samples=_one(status.last_usage_seconds),
        ),
        Measure(
            name="is_unconfirmed_copy",
            text="1 where it is a copy that nobody has adopted: open hours wait.",
            samples=_one(int(status.is_unconfirmed_copy)),
        ),
    ]


def _one(value: Quantity | float | None) -> list[tuple[Labels, Quantity | float]]:
    return [] if value is None else [({}, value)]


def _units(status: LedgerStatus) -> Iterator[tuple[Labels, Quantity]]:
    for one in status.products:
        live = {"open": one.open, "frozen": one.frozen, "metered": one.metered}
        ended = {state.value: units for state, units in one.ended.items()}
        for state, units in (live | ended).items():
            labels = {"product_code": one.product_code, "dimension": one.dimension, "state": state}
            yield labels, units


def prometheus_text(status: LedgerStatus) -> str:
    """Return *status* in Prometheus's text format (exposition format 0.0.4)."""
    return "".join(f"{line}\n" for one in measures_of(status) for line in _lines(one))


def _lines(one: Measure) -> Iterator[str]:
    name = one.prometheus_name
    if one.samples:
        yield f"# HELP {name} {one.text}"
        yield f"# TYPE {name} {one.kind}"
    for labels, value in one.samples:
        named = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        yield f"{name}{{{named}}} {value}" if named else f"{name} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
