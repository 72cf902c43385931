"""A ledger in which nothing has happened: its figures, and the status that they make."""

from marketplace_metering_async.ledger.identity import Identity
from marketplace_metering_async.ledger.status import Figures, status_of

EMPTY = Figures(
    ledger=Identity(
        ledger_id="one",
        region_name=None,
        host=None,
        mark="",
        guarded_since=None,
        moved_to=None,
        last_success_at=None,
        last_relay_at=None,
        claims=0,
        claimed_through=0,
        watermark=None,
        held_through=None,
        adopted_at=None,
        event_ids_since=0,
    ),
    sums=[],
    oldest_hour=None,
    first_stamp=None,
    at_risk=0,
    in_flight=0,
    claimed_until=None,
    next_send=None,
    next_seal=None,
    hours_at_next_seal=0,
)
EMPTY_STATUS = status_of(EMPTY, 0)
