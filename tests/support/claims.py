"""A record in the hands of a relay, for what is decided about it without a store."""

from marketplace_metering_async.ledger.frozen_record import QUANTITY, digest
from marketplace_metering_async.ledger.model import FrozenHour, UsageKey

KEY = UsageKey("product", "111122223333", "", "", "requests")
STAMP = 1_795_435_200
RECORD = (KEY, STAMP, 5_000_000, QUANTITY)
CLAIM = FrozenHour(
    hour_id=1,
    key=KEY,
    license_product="",
    stamp=STAMP,
    quantity=5_000_000,
    member=QUANTITY,
    region_name="us-east-1",
    host="metering.example",
    digest=digest("us-east-1", *RECORD, license_product=""),
    fence=2,
    attempts=0,
    in_doubt=False,
)
