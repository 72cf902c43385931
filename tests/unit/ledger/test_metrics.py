"""Measures of a ledger, and how Prometheus reads them."""

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from support.statuses import EMPTY_STATUS

from marketplace_metering_async.ledger.metrics import measures_of, prometheus_text
from marketplace_metering_async.ledger.model import HourState
from marketplace_metering_async.ledger.status import LedgerStatus, ProductStatus

NAME = "marketplace_metering_ledger"
LINE = re.compile(r'[a-z_]+(\{([a-z_]+="([^"\\]|\\[\\"n])*",?)*\})? -?[0-9]+(\.[0-9]+)?')


def a_status(**known: Any) -> LedgerStatus:
    return evolve(EMPTY_STATUS, **known)


def test_an_empty_ledger_has_no_ages() -> None:
    """
    A measure of what there is not is left out: 0 seconds would be a good sign.
    """
    assert [
        f"# HELP {NAME}_recorded_units_total Units that were ever added.",
        f"# TYPE {NAME}_recorded_units_total counter",
        f"{NAME}_recorded_units_total 0",
    ] == prometheus_text(EMPTY_STATUS).splitlines()[:3]
    assert "seconds" not in prometheus_text(EMPTY_STATUS)


def test_every_figure_is_there_with_help_and_type() -> None:
    """
    By product, dimension and state; units to the last millionth.
    """
    product = ProductStatus(
        product_code="p",
        dimension="requests",
        open=Decimal("1.000001"),
        metered=2**40,
        ended={HourState.CONFLICT: 3},
    )
    status = a_status(
        recorded=Decimal("1.000001") + 2**40 + 3,
        products=[product],
        records={HourState.METERED: 5, HourState.CONFLICT: 1},
        oldest_unsent_seconds=60,
        seconds_to_first_loss=-5,
        first_loss_at=datetime(2026, 11, 23, tzinfo=UTC),
        at_risk=7,
        last_success_seconds=8,
        last_relay_seconds=9,
        last_usage_seconds=10,
        is_unconfirmed_copy=True,
    )
    text = prometheus_text(status)
    of_it = f'{NAME}_units{{product_code="p",dimension="requests",state='

    samples = [line for line in text.splitlines() if line[0] != "#"]
    assert [
        f"{NAME}_recorded_units_total 1099511627780.000001",
        f'{of_it}"open"}} 1.000001',
        f'{of_it}"frozen"}} 0',
        f'{of_it}"metered"}} 1099511627776',
        f'{of_it}"conflict"}} 3',
        f'{NAME}_records{{state="metered"}} 5',
        f'{NAME}_records{{state="conflict"}} 1',
        f"{NAME}_in_flight_units 0",
        f"{NAME}_at_risk_units 7",
        f"{NAME}_oldest_unsent_seconds 60",
        f"{NAME}_time_to_first_loss_seconds -5",
        f"{NAME}_last_success_seconds 8",
        f"{NAME}_last_relay_seconds 9",
        f"{NAME}_last_usage_seconds 10",
        f"{NAME}_is_unconfirmed_copy 1",
    ] == samples
    for measure in measures_of(status):
        assert 1 == len(re.findall(rf"# HELP {NAME}_{measure.name}(?:_seconds|_total)? ", text))


@given(product=st.text(), dimension=st.text())
def test_whatever_a_dimension_is_called_a_line_stays_a_line(product: str, dimension: str) -> None:
    """
    Names are escaped as the format has it.
    """
    one = ProductStatus(product_code=product, dimension=dimension, open=1)
    text = prometheus_text(a_status(products=[one]))

    assert all(LINE.fullmatch(line) for line in text.rstrip("\n").split("\n") if line[0] != "#")
