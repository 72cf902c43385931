"""A short round of power cuts, and the disk that they happen to; the long ones are commands."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from campaigns.powercut import Wreck, powercuts
from support.disk import (
    Create,
    Delete,
    Disk,
    FailedSync,
    Operation,
    Sync,
    SyncFolder,
    Truncate,
    Write,
)
from support.ledgers import ACCOUNT, NOON, SetClock
from support.recorded import Event, add, ledger_in
from support.vfs import NoWayInError, recording

from marketplace_metering_async import LedgerOutcomeUnknownError

OLD, NEW = b"o" * 1024, b"n" * 1024
FILE: list[Operation] = [Create("file", 1), Write(1, 0, OLD), Sync(1), SyncFolder()]


@pytest.fixture
def _way_in(tmp_path: Path) -> None:
    try:
        with recording(tmp_path):
            pass
    except NoWayInError as error:
        pytest.skip(str(error))


def left(*operations: Operation) -> Iterator[bytes | None]:
    """Yield what many cuts leave of the file."""
    for seed in range(200):
        disk = Disk(Random(seed))
        for operation in operations:
            disk.take(operation)
        yield disk.after_cut().get("file")


@pytest.mark.usefixtures("_way_in")
def test_power_cuts_lose_and_double_nothing() -> None:
    """
    Covers: K17
    """
    audit = powercuts(cuts=60, seed=1)

    assert audit.is_clean, audit


@pytest.mark.usefixtures("_way_in")
def test_fewer_syncs_are_found_to_lose_usage() -> None:
    """
    With synchronous=NORMAL; otherwise the simulation would prove nothing. Covers: D15
    """
    audit = powercuts(cuts=25, seed=1, synchronous="NORMAL")

    assert audit.lost


@pytest.mark.usefixtures("_way_in")
def test_failed_syncs_lose_and_double_nothing() -> None:
    """
    Whoever was told that it is stored, was told the truth. Covers: D06
    """
    audit = powercuts(cuts=25, seed=1, failing=0.1)

    assert audit.is_clean, audit


@pytest.mark.usefixtures("_way_in")
async def test_nothing_is_built_on_a_commit_that_was_not_synced(tmp_path: Path) -> None:
    """
    The system shows it to whoever opens the file anew, but the disk does not have it. Covers: D06
    """
    clock, lost = SetClock(), Event("lost", ACCOUNT, 1, NOON)
    with recording(tmp_path) as recorder:
        async with ledger_in(tmp_path, clock) as ledger:
            recorder.sync_fails = lambda: True
            with pytest.raises(LedgerOutcomeUnknownError, match="unknown"):
                await add(ledger, lost)
        recorder.sync_fails = lambda: False
        async with ledger_in(tmp_path, clock) as ledger:
            await add(ledger, told := Event("told", ACCOUNT, 1, NOON))
            cut = len(recorder.operations)

    for seed in range(8):
        disk = Disk(Random(seed))
        for operation in recorder.operations[:cut]:
            disk.take(operation)
        folder = tmp_path / str(seed)
        folder.mkdir()
        Wreck(files=disk.after_cut()).write_to(folder)
        async with ledger_in(folder, clock) as ledger:
            assert (await add(ledger, told)).repeated


def test_what_was_synced_stays() -> None:
    """
    Whatever was asked for after it, and not synced.
    """
    others: list[Operation] = [Create("other", 2), Write(2, 0, NEW)]

    assert {OLD} == set(left(*FILE, *others))


def test_what_was_not_synced_is_kept_lost_or_torn() -> None:
    """
    By sectors, each of which is the old one or the new one.
    """
    half = 512
    states = {OLD, NEW, NEW[:half] + OLD[half:], OLD[:half] + NEW[half:]}

    assert states == set(left(*FILE, Write(1, 0, NEW)))


def test_what_a_failed_sync_drops_no_later_one_brings_back() -> None:
    """
    Linux takes pages that it could not write for written.
    """
    assert OLD in left(*FILE, Write(1, 0, NEW), FailedSync(1), Sync(1))


def test_writes_reach_the_disk_in_any_order() -> None:
    """
    The later of two may be kept without the earlier, which leaves a hole.
    """
    found = set(left(*FILE, Write(1, 1024, NEW), Write(1, 2048, NEW)))

    assert OLD + bytes(1024) + NEW in found


def test_a_truncation_may_or_may_not_have_happened() -> None:
    """
    Until the file is synced.
    """
    assert {OLD, b""} == set(left(*FILE, Truncate(1, 0)))


def test_a_deletion_may_or_may_not_have_happened() -> None:
    """
    Until the folder is synced.
    """
    assert {OLD, None} == set(left(*FILE, Delete("file")))
    assert {None} == set(left(*FILE, Delete("file"), SyncFolder()))


def test_a_new_file_may_be_missing() -> None:
    """
    Though it is synced itself, until its folder is.
    """
    assert {OLD, None} == set(left(*FILE[:-1]))
