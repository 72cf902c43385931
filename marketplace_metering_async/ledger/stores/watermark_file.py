"""The watermark of a ledger: a file outside of its database, one for each ledger in a folder."""

import os
import tempfile
from pathlib import Path

from marketplace_metering_async.errors import ConfigurationError, LedgerError, LedgerUnusableError
from marketplace_metering_async.ledger.stores.url_parameters import taken_from
from marketplace_metering_async.ledger.watermark import Watermark, watermark_in


class WatermarkFile:
    """The file of one ledger."""

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
            LedgerUnusableError: there is no such folder, or something else stands there.
            LedgerError: it cannot be read.
        """
        try:
            return watermark_in(self._path.read_text("utf-8"))
        except FileNotFoundError:
            if self._path.parent.is_dir():
                return None
            raise LedgerUnusableError(
                f"{self._path.parent}: there is no such folder for the ledger's watermark"
            ) from None
        except OSError as error:
            raise LedgerError(f"{self._path}: {error.strerror}") from error
        except ValueError:
            raise LedgerUnusableError(
                f"{self._path} is damaged: remove it, and look whether the ledger lacks what was "
                "metered before you adopt it as a copy"
            ) from None

    def raise_to(self, watermark: Watermark) -> None:
        """
        Let it stand there durably, unless more does; one at a time.

        Raises:
            LedgerError: it cannot be read, or not be written.
        """
        there = self.read()
        if there is None or there.sealings < watermark.sealings:
            self._write(watermark.as_text())

    def _write(self, text: str) -> None:
        try:
            number, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}-")
            try:
                with os.fdopen(number, "w", encoding="utf-8") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                Path(name).replace(self._path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
            sync_folder(self._path.parent)
        except OSError as error:
            raise LedgerError(
                f"{self._path}: {error.strerror}; without its watermark the ledger sends nothing"
            ) from error


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
