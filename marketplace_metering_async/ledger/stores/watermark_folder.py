"""The watermark of a ledger: a folder of its own outside of its database, whose names say it."""

import os
from contextlib import suppress
from pathlib import Path

from marketplace_metering_async.errors import ConfigurationError, LedgerError, LedgerUnusableError
from marketplace_metering_async.ledger.stores.url_parameters import taken_from
from marketplace_metering_async.ledger.watermark import Watermark, watermark_named


class WatermarkFolder:
    """
    The folder of one ledger's watermark: an empty file, whose name is how much it has claimed.

    Several relays write at the same time, each a name of its own, and the highest counts: whoever
    is late cannot lower it, and nobody waits for anybody.
    """

    def __init__(self, folder: Path, ledger_id: str) -> None:
        """Name it; nothing is read or written yet."""
        self._path = folder / f"{ledger_id}.watermark"

    @property
    def path(self) -> str:
        """Where it is."""
        return str(self._path)

    def read(self) -> Watermark | None:
        """
        Return what stands there; None: nothing.

        Raises:
            LedgerUnusableError: there is no folder that it could be in, or a file in its place.
            LedgerError: it cannot be read.
        """
        return max(self._all(), default=None)

    def raise_to(self, watermark: Watermark) -> None:
        """
        Let it stand there durably, and take away what is lower.

        Raises:
            LedgerUnusableError: as read().
            LedgerError: it cannot be read, or not be written.
        """
        there = self._all()
        try:
            with suppress(FileExistsError):
                self._path.mkdir()
                sync_folder(self._path.parent)
            (self._path / watermark.as_name()).touch()
            sync_folder(self._path)
            for lower in (one for one in there if one < watermark):
                (self._path / lower.as_name()).unlink(missing_ok=True)
        except OSError as error:
            raise LedgerError(
                f"{self._path}: {_reason(error)}; without its watermark the ledger sends nothing"
            ) from error

    def _all(self) -> list[Watermark]:
        try:
            names = [file.name for file in self._path.iterdir()]
        except FileNotFoundError:
            if self._path.parent.is_dir():
                return []
            raise LedgerUnusableError(
                f"{self._path.parent}: there is no such folder for the ledger's watermark"
            ) from None
        except NotADirectoryError:
            raise LedgerUnusableError(
                f"move {self._path} away: it is no folder, as the ledger's watermark is"
            ) from None
        except OSError as error:
            raise LedgerError(f"{self._path}: {_reason(error)}") from error
        return [found for name in names if (found := watermark_named(name)) is not None]


def _reason(error: OSError) -> str:
    """Return what is wrong, and what to do where it is only that somebody else made the folder."""
    if not isinstance(error, PermissionError):
        return str(error.strerror)
    return (
        f"{error.strerror}; give it to the user that relays run as (chown -R), which may be "
        "another one than who opened the ledger first"
    )


def watermark_of(url: str) -> tuple[str, Path | None]:
    """
    Return *url* without its `watermark=`, and the folder that this names.

    Raises:
        ConfigurationError: it names none.
    """
    rest, folder = taken_from(url, "watermark")
    if folder is None:
        return url, None
    if not folder:
        raise ConfigurationError("ledger URL: watermark= names the folder for the watermark")
    return rest, Path(folder).absolute()


def sync_folder(folder: Path) -> None:
    """Let the names in *folder* be on the disk."""
    if os.name == "nt":  # a folder cannot be opened there
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
