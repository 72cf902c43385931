"""Quantities as the ledger keeps them: in millionths of a unit, each an exact integer."""

from typing import Final

MILLION: Final = 1_000_000


def millionths_of(units: int) -> int:
    """Return what *units* are in millionths."""
    return units * MILLION


def units_of(millionths: int) -> int:
    """Return the whole units in *millionths*, which are whole as long as only such are added."""
    return millionths // MILLION
