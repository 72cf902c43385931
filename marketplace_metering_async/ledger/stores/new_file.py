"""A file that has its name once it is whole."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkstemp

from marketplace_metering_async.ledger.stores.watermark_folder import sync_folder


@contextmanager
def new_file(to: Path) -> Iterator[Path]:
    """
    Yield a file to write, which is durably named *to* where the block ends, and gone if it raises.

    What a crash leaves of it has another name; *to* is empty then.

    Raises:
        OSError: there is something of that name already, or no such folder.
    """
    os.close(os.open(to, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    part = to
    try:
        number, name = mkstemp(".part", f"{to.name}.", to.parent)
        os.close(number)
        part = Path(name)
        yield part
        part.replace(to)
        sync_folder(to.parent)
    except BaseException:
        for file in {to, part}:
            file.unlink(missing_ok=True)
        raise
