"""The page of `ledger serve`, as text: what a status and hours of the history know."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from html import escape
from importlib.resources import files
from string import Template
from typing import Final

from attrs import frozen

from marketplace_metering_async.ledger import (
    HistoryEntry,
    HourState,
    LedgerStatus,
    ProductStatus,
    UsageLedger,
)
from marketplace_metering_async.quantities import Quantity, millionths, of_millionths

FIELDS: Final = {
    "month": "Month",
    "product_code": "Product",
    "customer_aws_account_id": "Account",
    "license_arn": "License",
}
"""What hours may be narrowed by, with the words for it."""

_PAGE: Final = Template(
    files("marketplace_metering_async.cli.output").joinpath("ledger_page.html").read_text("utf-8")
)
_GOOD: Final = (HourState.METERED, HourState.OPEN, HourState.FROZEN)


@frozen(kw_only=True)
class Hours:
    """
    The hours that are shown.

    Attributes:
        asked: What they were narrowed by, as it was typed.
        entries: The latest ones, the latest first.
        are_all: Whether there are no others.
        problem: Why there are none, if something was typed wrongly.
    """

    asked: Mapping[str, str]
    entries: Sequence[HistoryEntry] = ()
    are_all: bool = True
    problem: str | None = None


def page(status: LedgerStatus, hours: Hours, now: datetime) -> str:
    """Return the whole page; what comes from the ledger enters as text only."""
    where = f"{status.host} in {status.region_name}" if status.host else "no relay has run yet"
    cards = [
        _card("next", "What comes next", _lines(_next(status, now))),
        _card("products", "Products", _products(status.products)),
        _card("ended", "Ended, not known to be metered", _ended(status)),
        _card("hours", "Hours", _form(hours.asked) + _hours(hours)),
    ]
    return _PAGE.substitute(
        where=escape(where),
        figures=_join(_figures(status)),
        cards=_join(cards),
        now=_time(now),
    )


def _join(pieces: Iterable[str]) -> str:
    return "\n".join(pieces)


def _card(name: str, title: str, inner: str) -> str:
    return (
        f'<section class="card" id="{name}" aria-labelledby="{name}-title">'
        f'<h2 id="{name}-title">{title}</h2>{inner}</section>'
    )


def _lines(texts: Iterable[str]) -> str:
    return f'<ul class="lines">{_join(f"<li>{escape(text)}</li>" for text in texts)}</ul>'


def _figures(status: LedgerStatus) -> Iterator[str]:
    ended = _sum(status.ended)
    for name, units, kind in (
        ("open", status.open, ""),
        ("frozen, to be sent", status.frozen, ""),
        ("metered", status.metered, ""),
        ("ended", ended, "warn" if ended else ""),
        ("at risk", status.at_risk, "bad" if status.at_risk else ""),
    ):
        yield f'<div class="{kind}"><dt>units {name}</dt><dd>{units:,}</dd></div>'


def _next(status: LedgerStatus, now: datetime) -> Iterator[str]:
    if status.is_unconfirmed_copy:
        yield "This is a copy that nobody has adopted: open hours wait for `ledger adopt-copy`."
    if status.first_loss_at is not None:
        lost = "is lost at" if status.first_loss_at > now else "was lost at"
        yield f"The oldest unsent usage {lost} {_time(status.first_loss_at)}."
    if status.next_send_at is not None:
        yield f"Frozen records are sent from {_time(max(now, status.next_send_at))} on."
    if status.claimed_until is not None:
        until = _time(status.claimed_until)
        yield f"A relay has {status.in_flight:,} units in its hands until {until}."
    if status.next_seal_at is not None:
        when = _time(max(now, status.next_seal_at))
        yield f"Hours to be sealed at {when}: {status.hours_at_next_seal:,}."
    yield f"A relay last worked: {_ago(status.last_relay_seconds)}."
    yield f"The service last took a record: {_ago(status.last_success_seconds)}."
    yield f"The latest usage happened: {_ago(status.last_usage_seconds)}."


def _ago(seconds: float | None) -> str:
    if seconds is None:
        return "never"
    return (
        f"{seconds / 3600:.1f} hours ago" if seconds >= 3600 else f"{seconds / 60:.0f} minutes ago"
    )


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _sum(units: Mapping[HourState, Quantity]) -> Quantity:
    return of_millionths(sum(map(millionths, units.values())))


def _products(products: Sequence[ProductStatus]) -> str:
    rows = [
        {
            "product": one.product_code or "-",
            "dimension": one.dimension,
            "open": one.open,
            "frozen": one.frozen,
            "metered": one.metered,
            "ended": _sum(one.ended),
        }
        for one in products
    ]
    return _table("Units by product and dimension", rows) if rows else _empty("No usage yet.")


def _ended(status: LedgerStatus) -> str:
    if not status.ended:
        return _empty("Nothing: all usage is metered, or on its way.")
    return _join(
        f'<h3><span class="chip bad">{state}</span> {units:,} units{_records(status, state)}</h3>'
        f"<p>{escape(' '.join(UsageLedger.explain(state)))}</p>"
        for state, units in status.ended.items()
    )


def _records(status: LedgerStatus, state: HourState) -> str:
    """Say how many records it is; what no hour carries has none."""
    records = status.records.get(state, 0)
    return f", {records:,} records" if records else ""


def _form(asked: Mapping[str, str]) -> str:
    fields = _join(
        f'<label class="field grow"><span>{words}</span><input name="{name}" autocomplete="off" '
        f'value="{escape(asked.get(name, ""))}"{_pattern(name)}></label>'
        for name, words in FIELDS.items()
    )
    return f'<form class="tools" action="/#hours">{fields}<button class="main">Show</button></form>'


def _pattern(name: str) -> str:
    return ' placeholder="YYYY-MM" pattern="[0-9]{4}-[0-9]{2}"' if name == "month" else ""


def _hours(hours: Hours) -> str:
    if hours.problem is not None:
        return f'<p role="alert">{escape(hours.problem)}</p>'
    rows = [
        {
            "hour": f"{entry.hour:%Y-%m-%d %H:%M}",
            "product": entry.product_code or "-",
            "customer": entry.customer_aws_account_id or entry.customer_identifier or "-",
            "license": entry.license_arn or "-",
            "dimension": entry.dimension,
            "quantity": entry.quantity,
            "state": entry.state,
            "why": entry.reason or "",
        }
        for entry in hours.entries
    ]
    if not rows:
        return _empty("No hours.")
    shown = f"The latest {len(rows):,}, the latest first" + (
        "" if hours.are_all else "; there are more: narrow them down"
    )
    return _table(shown, rows)


def _empty(text: str) -> str:
    return f'<p class="empty">{text}</p>'


def _table(caption: str, rows: Sequence[Mapping[str, object]]) -> str:
    head = _join(
        f'<th scope="col"{_kind(name, value)}>{name}</th>' for name, value in rows[0].items()
    )
    body = _join(f"<tr>{_join(_cell(*one) for one in row.items())}</tr>" for row in rows)
    return (
        f'<div class="scroll tall" tabindex="0" role="region" aria-label="{caption}">'
        f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(name: str, value: object) -> str:
    if isinstance(value, HourState):
        good = "good" if value is HourState.METERED else "" if value in _GOOD else "bad"
        return f'<td class="state" data-name="{name}"><span class="chip {good}">{value}</span></td>'
    text = value if isinstance(value, str) else f"{value:,}"
    return f'<td data-name="{name}"{_kind(name, value)}>{escape(text)}</td>'


def _kind(name: str, value: object) -> str:
    is_text = isinstance(value, str)
    return f' class="{name}"' if is_text else f' class="number {name}"'
