"""A copy of a ledger in a file is known by what it lacks; what lacks nothing is none."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.copies import (
    adopted,
    again,
    an_hour_later,
    billed,
    first_five,
    idle_meanwhile,
    late_hundred,
    lost_timeline,
    repeated,
    sealed,
    warnings_of,
    watermark_in,
)
from support.ended import claim_rules, claimed, fate, settle
from support.ledgers import House, change, house_at

from marketplace_metering_async import LedgerError, LedgerUnusableError
from marketplace_metering_async.ledger import HourState
from marketplace_metering_async.ledger.resolutions import ResolvedAs
from marketplace_metering_async.ledger.watermark import LEAP

Restore = Callable[[Path, Path], None]
"""Puts a backup into the place of a ledger."""


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


def back_up(path: Path, backup: Path) -> None:
    with closing(sqlite3.connect(path)) as of, closing(sqlite3.connect(backup)) as into:
        of.backup(into)


def copy_over(backup: Path, path: Path) -> None:
    """The file keeps its number."""
    shutil.copyfile(backup, path)


def remove_and_copy(backup: Path, path: Path) -> None:
    """The file may get its number again."""
    path.unlink()
    shutil.copyfile(backup, path)


def move_over(backup: Path, path: Path) -> None:
    """The file has another number."""
    shutil.copyfile(backup, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def use_backup_api(backup: Path, path: Path) -> None:
    """SQLite itself writes every page."""
    back_up(backup, path)


def as_if_it_kept_its_number(path: Path) -> None:
    """A file system that gives a number again right away: the mark says nothing then."""
    with closing(sqlite3.connect(path)) as connection, connection:
        number = path.stat().st_ino
        (mark,) = connection.execute("SELECT mark FROM ledger").fetchone()
        machine = mark.partition(" ")[2]
        connection.execute("UPDATE ledger SET mark = ?", (f"{number} {machine}".strip(),))


RESTORES = [copy_over, remove_and_copy, move_over, use_backup_api]


@pytest.mark.parametrize("restore", RESTORES)
async def test_a_restored_file_bills_nothing_twice(tmp_path: Path, restore: Restore) -> None:
    """
    Used 105, billed 105, once the producers have repeated. Covers: K19, K21. ledger C1
    """
    path, backup = tmp_path / "usage.db", tmp_path / "backup" / "usage.db"
    backup.parent.mkdir()
    async with house_at(url_of(path)) as house:
        await first_five(house)
        back_up(path, backup)
        await lost_timeline(house)
    restore(backup, path)
    as_if_it_kept_its_number(path)
    restored = again(house, url_of(path))
    async with restored.ledger:
        guarded = (await restored.balance()).is_unconfirmed_copy
        await repeated(restored)
        held = await restored.balance()
        before = billed(restored)
        await adopted(restored)
        status = await restored.balance()

    assert guarded
    assert held.is_unconfirmed_copy
    assert not status.is_unconfirmed_copy
    assert 105 == before
    assert 112 == status.recorded
    assert {HourState.UNCONFIRMED: 100} == status.ended
    assert any("what came between is missing" in text for text in warnings_of(restored))


async def test_the_watermark_is_kept_before_anything_is_sent(tmp_path: Path) -> None:
    """
    Where it cannot be written, nothing is sent; where it can again, all is, at once. ledger C1
    """
    path = tmp_path / "usage.db"
    async with house_at(url_of(path)) as house:
        await house.use(5)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "touch", full)
            with pytest.raises(LedgerError, match="No space left on device"):
                await an_hour_later(house)
        calls, frozen = len(house.metered()), (await house.balance()).frozen
        (given_back,) = await claimed(house, lease=0.0)
        await house.relay_after(seconds=1)

    assert (0, 5) == (calls, frozen)
    assert (False, 0) == (given_back.in_doubt, given_back.crashes)
    assert 5 == billed(house)


def full(*arguments: Any) -> Any:
    raise OSError(28, "No space left on device")


async def test_something_else_in_place_of_a_watermark_is_not_passed_by(tmp_path: Path) -> None:
    """
    Nothing is sealed or sent while nobody knows what it has said.
    """
    path = tmp_path / "usage.db"
    async with house_at(url_of(path)) as house:
        await first_five(house)
        watermark = watermark_in(tmp_path)
        shutil.rmtree(watermark)
        watermark.touch()
        await house.use(1)
        with pytest.raises(LedgerUnusableError, match="it is no folder"):
            await an_hour_later(house)

    assert 5 == billed(house)


def stay(folder: Path) -> Path:
    """A restart."""
    return folder / "usage.db"


def rename(folder: Path) -> Path:
    """Its watermark goes by the ledger's own name."""
    return (folder / "usage.db").rename(folder / "other.db")


def vacuum(folder: Path) -> Path:
    """SQLite writes every page anew."""
    with closing(sqlite3.connect(folder / "usage.db")) as connection:
        connection.execute("VACUUM")
    return folder / "usage.db"


def move_away(folder: Path) -> Path:
    """The file is the same in another folder; its watermark is left behind."""
    (folder / "new").mkdir()
    return (folder / "usage.db").rename(folder / "new" / "usage.db")


def link(folder: Path) -> Path:
    """Another way leads to it."""
    (folder / "new").mkdir()
    (folder / "new" / "usage.db").symlink_to(folder / "usage.db")
    return folder / "new" / "usage.db"


def lose_the_watermark(folder: Path) -> Path:
    """Somebody has tidied up."""
    shutil.rmtree(watermark_in(folder))
    return folder / "usage.db"


@pytest.mark.parametrize(
    ("change_place", "warnings"),
    [(stay, 0), (rename, 0), (vacuum, 0), (link, 0), (move_away, 1), (lose_the_watermark, 1)],
)
async def test_a_file_that_lacks_nothing_is_no_copy(
    tmp_path: Path, change_place: Callable[[Path], Path], warnings: int
) -> None:
    """
    A watermark that is not there is made anew, and that is said. ledger C1
    """
    async with house_at(url_of(tmp_path / "usage.db")) as house:
        await first_five(house)
    same = again(house, url_of(change_place(tmp_path)))
    async with same.ledger:
        await same.use(100)
        for _ in range(2):
            await an_hour_later(same)
        status = await same.balance()

    assert 105 == billed(same) == status.metered
    assert not status.is_unconfirmed_copy
    assert warnings == len(warnings_of(same))
    assert all("made anew" in text for text in warnings_of(same))


async def test_a_process_that_lived_through_a_restore_sees_it(tmp_path: Path) -> None:
    """
    Though all that stands outside was put back, too. ledger C1
    """
    path, backup = tmp_path / "usage.db", tmp_path / "backup.db"
    async with house_at(url_of(path)) as house:
        await first_five(house)
        watermark = watermark_in(tmp_path)
        shutil.copytree(watermark, tmp_path / "old")
        back_up(path, backup)
        await lost_timeline(house)
        use_backup_api(backup, path)
        shutil.rmtree(watermark)
        (tmp_path / "old").rename(watermark)
        await repeated(house)
        status = await house.balance()

    assert status.is_unconfirmed_copy
    assert 105 == billed(house)
    assert any("and had 2 times" in text for text in warnings_of(house))


async def test_a_relay_that_was_idle_looks_outside_before_it_seals(tmp_path: Path) -> None:
    """
    All that it remembers is in the backup. ledger C1
    """
    path, backup = tmp_path / "usage.db", tmp_path / "backup.db"
    async with house_at(url_of(path)) as house:
        await idle_meanwhile(
            house, lambda: back_up(path, backup), lambda: use_backup_api(backup, path)
        )


async def test_of_a_live_copy_and_its_original_one_seals(tmp_path: Path) -> None:
    """
    The copy that is adopted, and then the original no more. Covers: K20. ledger C1
    """
    async with house_at(url_of(tmp_path / "usage.db")) as house:
        await first_five(house)
        back_up(tmp_path / "usage.db", tmp_path / "copy.db")
        copy = again(house, url_of(tmp_path / "copy.db"))
        async with copy.ledger:
            before = await copy.balance()
            await copy.ledger.adopt_copy()
            await house.use(1)
            await an_hour_later(house)
            after = await copy.balance()

        assert (await house.balance()).is_unconfirmed_copy
        assert (True, False) == (before.is_unconfirmed_copy, after.is_unconfirmed_copy)
        assert 5 == billed(house)


async def test_what_is_no_copy_is_not_adopted(house: House) -> None:
    """
    Nothing of it is held.
    """
    await house.use(5)
    await house.ledger.adopt_copy()
    await an_hour_later(house)

    assert 5 == billed(house)


async def test_a_copy_is_adopted_outside_of_it_as_well(tmp_path: Path) -> None:
    """
    Above all that the lost ledger has claimed. ledger C1
    """
    path, backup = tmp_path / "usage.db", tmp_path / "backup.db"
    async with house_at(url_of(path)) as house:
        await house.use(5)
        await an_hour_later(house)
        back_up(path, backup)
        await house.use(1)
        await an_hour_later(house)
    move_over(backup, path)
    async with house_at(url_of(path)) as house:
        await house.ledger.adopt_copy()
    (name,) = [name.name for name in watermark_in(tmp_path).iterdir()]

    assert name.startswith(f"{LEAP + 2}-")


async def test_what_was_claimed_since_a_backup_makes_a_copy_of_it(tmp_path: Path) -> None:
    """
    Though no hour was sealed since. Frozen records go out, unchanged, as often as it takes; that
    the service has them already is no conflict. ledger C1
    """
    path, backup = tmp_path / "usage.db", tmp_path / "backup.db"
    async with house_at(url_of(path)) as house:
        await sealed(house)
        back_up(path, backup)
        await house.relay()
        assert 5 == billed(house)
    use_backup_api(backup, path)
    restored = again(house, url_of(path))
    async with restored.ledger:
        (first,) = await claimed(restored, lease=0.0)
        await restored.relay_after(seconds=1)
        status = await restored.balance()
        texts = warnings_of(restored)

    assert first.in_doubt
    assert {HourState.PROBABLY_METERED: 5} == status.ended
    assert status.is_unconfirmed_copy
    assert any("claimed records 0 times, and" in text for text in texts)


async def test_a_relay_looks_outside_before_it_claims(tmp_path: Path) -> None:
    """
    The backup was put back after it has looked for what to seal. ledger C1
    """
    path, backup = tmp_path / "usage.db", tmp_path / "backup.db"
    async with house_at(url_of(path)) as house, house.another() as idle:
        await sealed(house)
        back_up(path, backup)
        await house.relay()
        use_backup_api(backup, path)
        now = int(house.clock.now().timestamp())
        await idle._store.bind("us-east-1", "127.0.0.1")
        (claim,) = await idle._store.claim(now, claim_rules(now))

    assert claim.in_doubt


async def test_a_copy_that_nobody_has_adopted_makes_none_of_its_original(tmp_path: Path) -> None:
    """
    Whatever it sends: it counts no claims. Covers: K20
    """
    async with house_at(url_of(tmp_path / "usage.db")) as house:
        await sealed(house)
        back_up(tmp_path / "usage.db", tmp_path / "copy.db")
        copy = again(house, url_of(tmp_path / "copy.db"))
        async with copy.ledger:
            await copy.relay()
        await house.use(1)
        await house.ledger._store.seal_due(int(house.clock.now().timestamp()), 9, "us-east-1")

        assert 5 == billed(copy)
        assert not (await house.balance()).is_unconfirmed_copy


async def test_a_claim_that_is_lost_before_it_is_written_down_sends_nothing(tmp_path: Path) -> None:
    """
    Its relay slept meanwhile, and somebody else has the record, as often claimed and sealed.
    """
    path, backup = tmp_path / "usage.db", tmp_path / "backup.db"
    later: list[Any] = []
    async with house_at(url_of(path)) as house:
        await sealed(house)
        back_up(path, backup)
        store: Any = house.ledger._store
        write_outside = store._write_outside

        async def slow(*known: Any) -> None:
            use_backup_api(backup, path)
            other = again(house, house.url)
            async with other.ledger:
                later.extend(await claimed(other))
            await write_outside(*known)

        store._write_outside = slow
        lost = await claimed(house)

    assert ([], 1) == (lost, len(later))


async def test_a_verdict_on_a_claim_that_was_lost_is_fenced(tmp_path: Path) -> None:
    """
    That the service has the record, and not by this claim, does not end the other one's.
    """
    path, backup = tmp_path / "usage.db", tmp_path / "backup.db"
    async with house_at(url_of(path)) as house:
        await sealed(house)
        back_up(path, backup)
        (lost,) = await claimed(house)
        use_backup_api(backup, path)
        await claimed(house)
        heard = await settle(house, fate(lost, HourState.CONFLICT))
        status = await house.balance()

    assert ([], 5) == (heard, status.frozen)


async def test_a_relay_does_not_wake_for_what_a_copy_does_not_seal(tmp_path: Path) -> None:
    """
    Its open hours are due, and nothing is done about them. ledger M8
    """
    async with house_at(url_of(tmp_path / "usage.db")) as house:
        await house.use(5)
    shutil.copyfile(tmp_path / "usage.db", tmp_path / "copy.db")
    copy = again(house, url_of(tmp_path / "copy.db"))
    async with copy.ledger:
        asleep = await copy.ledger._store.next_due()
        await copy.ledger.adopt_copy()

        assert asleep is None
        assert await copy.ledger._store.next_due() is not None


@pytest.mark.parametrize(
    ("as_", "paid"), [("metered", 5), ("not_metered", 108), ("written_off", 5)]
)
async def test_what_is_held_has_a_way_out(url: str, as_: ResolvedAs, paid: int) -> None:
    """
    Each hour, and what no hour carries, is as a person has found it; before, nothing moves it on.
    ledger C1
    """
    async with house_at(url) as house:
        await first_five(house)
        await change(url, "UPDATE ledger SET mark = 'elsewhere' RETURNING 1")
    copy = again(house, url)
    async with copy.ledger:
        await copy.ledger.adopt_copy()
        await copy.use(3)
        await late_hundred(copy)
        await an_hour_later(copy)
        held = [e async for e in copy.ledger.history() if e.state == HourState.UNCONFIRMED]
        with pytest.raises(ValueError, match="resolve what is unconfirmed first"):
            await copy.ledger.retry(HourState.UNCONFIRMED)
        assert 0 == await copy.ledger.retry()
        assert 2 == await copy.ledger.resolve(held, as_, note="seen in CloudTrail")
        if as_ == "not_metered":
            assert 2 == await copy.ledger.retry(HourState.NOT_METERED)
        for _ in range(2):
            await an_hour_later(copy)
        status = await copy.balance()

    assert [3, 100] == sorted(entry.quantity for entry in held)
    assert paid == billed(copy)
    assert 108 == status.recorded
    assert {"metered": 108, "not_metered": 108, "written_off": 5}[as_] == status.metered


async def test_what_no_hour_carries_is_moved_by_its_state_alone(url: str) -> None:
    """
    Whoever sends again what can be sent moves no charge to another hour, or month. ledger C1
    """
    async with house_at(url) as house:
        await first_five(house)
        await change(url, "UPDATE ledger SET mark = 'elsewhere' RETURNING 1")
    copy = again(house, url)
    async with copy.ledger:
        await copy.ledger.adopt_copy()
        await late_hundred(copy)
        held = [e async for e in copy.ledger.history() if e.state == HourState.UNCONFIRMED]
        await copy.ledger.resolve(held, "not_metered", note="seen in CloudTrail")

        assert 0 == await copy.ledger.retry()
        assert {HourState.NOT_METERED: 100} == (await copy.balance()).ended
        assert 1 == await copy.ledger.retry(HourState.NOT_METERED)
