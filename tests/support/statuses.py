"""The status of a ledger in which nothing has happened."""

from marketplace_metering_async import LedgerStatus

EMPTY_STATUS = LedgerStatus(
    recorded=0,
    open=0,
    frozen=0,
    in_flight=0,
    metered=0,
    ended={},
    products=[],
    oldest_unsent_seconds=None,
    seconds_to_first_loss=None,
    first_loss_at=None,
    at_risk=0,
    last_success_seconds=None,
    last_relay_seconds=None,
    last_usage_seconds=None,
    claimed_until=None,
    next_send_at=None,
    next_seal_at=None,
    hours_at_next_seal=0,
    records={},
    is_unconfirmed_copy=False,
    region_name=None,
    host=None,
)
