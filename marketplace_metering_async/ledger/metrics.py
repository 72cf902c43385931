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
        _measure("recorded_units", "Units that were ever added.", status.recorded, kind="counter"),
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
        _measure("in_flight_units", "Units that a relay is sending.", status.in_flight),
        _measure(
            "at_risk_units",
            "Unsent units that were due two hours ago, or are lost within the hour.",
            status.at_risk,
        ),
        _age(
            "oldest_unsent",
            "Since the hour of the oldest unsent usage was over.",
            status.oldest_unsent_seconds,
        ),
        _age(
            "time_to_first_loss",
            "Until the service takes the oldest unsent usage no more; below 0: too late.",
            status.seconds_to_first_loss,
        ),
        _age("last_success", "Since the service last took a record.", status.last_success_seconds),
        _age(
            "last_relay",
            "Since a relay last said that it works, which it does every minute.",
            status.last_relay_seconds,
        ),
        _age("last_usage", "Since the latest usage happened.", status.last_usage_seconds),
        _measure(
            "is_unconfirmed_copy",
            "1 where it is a copy that nobody has adopted: open hours wait.",
            int(status.is_unconfirmed_copy),
        ),
    ]


def _measure(
    name: str, text: str, value: Quantity | float, kind: Literal["counter", "gauge"] = "gauge"
) -> Measure:
    return Measure(name=name, text=text, kind=kind, samples=[({}, value)])


def _age(name: str, text: str, seconds: float | None) -> Measure:
    samples: list[tuple[Labels, float]] = [] if seconds is None else [({}, seconds)]
    return Measure(name=name, text=text, unit="s", samples=samples)


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
