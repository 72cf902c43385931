"""What a caller says means the same, whether its key is known by heart or looked at."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from marketplace_metering_async.errors import InvalidRecordError
from marketplace_metering_async.ledger.usage import UsageReader

NOW = datetime(2026, 11, 23, 12, 30, 7, 123456, tzinfo=UTC)

GOOD: dict[str, Any] = {
    "dimension": "requests",
    "quantity": 1,
    "customer_aws_account_id": "000000000001",
    "customer_identifier": None,
    "license_arn": None,
    "product_code": "product",
    "at": None,
    "event_id": None,
}
CALLS = st.fixed_dictionaries(
    {},
    optional={
        "dimension": st.sampled_from(["requests", "a\0b", "", 7, ["requests"]]),
        "quantity": st.sampled_from(
            [0, 2**31 - 1, 2**31, 10**10, -1, True, 1.0, "1.50", "1e3", Decimal("0.5"), [], None]
        ),
        "customer_aws_account_id": st.sampled_from(["000000000001", "x", None]),
        "product_code": st.sampled_from(["product", None]),
        "at": st.none()
        | st.datetimes(datetime(2026, 1, 1), datetime(2026, 12, 1)).map(  # noqa: DTZ001
            lambda at: at.replace(tzinfo=timezone(timedelta(hours=5, minutes=30)))
        )
        | st.just(datetime(2026, 11, 23)),  # noqa: DTZ001
        "event_id": st.none() | st.text(max_size=300),
    },
)


def read(reader: UsageReader, call: dict[str, Any]) -> object:
    try:
        return reader.usage(NOW, **(GOOD | call))
    except InvalidRecordError as error:
        return str(error)


@given(CALLS)
def test_a_known_key_changes_nothing(call: dict[str, Any]) -> None:
    """
    Not what is stored, and not what is complained of.
    """
    knowing = UsageReader()
    read(knowing, {name: value for name, value in call.items() if name == "dimension"})
    read(knowing, {})

    assert read(UsageReader(), call) == read(knowing, call) == read(knowing, call)
