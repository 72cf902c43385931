"""The folder of a watermark: whoever writes there, the highest counts."""

import errno
import os
from pathlib import Path

import pytest

from marketplace_metering_async.errors import LedgerError
from marketplace_metering_async.ledger.stores.watermark_folder import WatermarkFolder
from marketplace_metering_async.ledger.watermark import Watermark


def test_whoever_is_late_does_not_lower_it(tmp_path: Path) -> None:
    """
    Of two relays, the later claim may be written down first. What is lower goes. ledger C1
    """
    folder = WatermarkFolder(tmp_path, "one")
    nothing = folder.read()
    for claims in (6, 8, 7):
        folder.raise_to(Watermark(claims=claims, through=3600))
    late = folder.read()
    folder.raise_to(Watermark(claims=10, through=3600))

    assert nothing is None
    assert Watermark(claims=8, through=3600) == late
    assert ["10-3600"] == [name.name for name in (tmp_path / "one.watermark").iterdir()]


def test_what_a_system_leaves_there_says_nothing(tmp_path: Path) -> None:
    """
    Nor is it taken away.
    """
    folder = WatermarkFolder(tmp_path, "one")
    folder.raise_to(Watermark(claims=6, through=3600))
    (tmp_path / "one.watermark" / ".nfs0001").touch()
    folder.raise_to(Watermark(claims=7, through=3600))

    assert Watermark(claims=7, through=3600) == folder.read()
    assert 2 == len(list((tmp_path / "one.watermark").iterdir()))


@pytest.mark.parametrize("act", ["iterdir", "touch"])
def test_a_folder_of_another_user_says_what_to_do(
    act: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Where root has opened the ledger first, and the relay runs as a user of its own.
    """
    folder = WatermarkFolder(tmp_path, "one")
    folder.raise_to(Watermark(claims=6, through=3600))

    def denied(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, act, denied)

    with pytest.raises(LedgerError, match=r"one\.watermark: Permission denied; give it to the"):
        folder.raise_to(Watermark(claims=7, through=3600))
