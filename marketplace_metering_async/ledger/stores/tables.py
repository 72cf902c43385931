"""What moves from one store to another, whichever they are: each table, its key and its columns."""

from typing import Final

from attrs import frozen


@frozen
class Table:
    """
    A table as one store hands it to another one; quantities are integers in all of them.

    Attributes:
        key: The columns that its rows go by.
        columns: All of its columns.
    """

    key: tuple[str, ...]
    columns: tuple[str, ...]


def _table(key: str, others: str) -> Table:
    return Table(tuple(key.split()), (*key.split(), *others.split()))


_CUSTOMER: Final = "product_code customer_aws_account_id customer_identifier license_arn"

TABLES: Final = {
    "usage_key": _table(
        "key_id", f"name {_CUSTOMER} dimension license_product closed_at billed_as other_scheme"
    ),
    "customer": _table(_CUSTOMER, "closed_at"),
    "whole_dimension": _table("product_code dimension", "declared_at"),
    "event": _table("event_id", "digest added_at"),
    "arrival": _table(
        "arrival_id", f"name {_CUSTOMER} dimension license_product at quantity added_at"
    ),
    "hour": _table(
        "hour_id",
        "key_id hour state quantity events stamp opened_at seal_at urgent sealed_at deadline "
        "region_name member digest not_before leased_at lease_until fence attempts crashes "
        "in_doubt settled_at metering_record_id reason",
    ),
    "carried": _table("hour_id origin", "quantity events"),
    "stranded": _table("stranded_id", "key_id origin state quantity events since"),
    "attempt": _table("hour_id fence", "at status error request_id metering_record_id"),
    "resolution": _table("resolution_id", "hour_id stranded_id at before after note"),
    "kept_sum": _table("product_code dimension state", "quantity records latest"),
}
"""In the order in which one refers to another."""
