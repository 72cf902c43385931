"""What a sandbox does that has a process to itself."""

import gc
from typing import Final

_OBJECTS: Final = 100_000


def collect_rarely() -> None:
    """
    Look for cycles seldom.

    A sandbox keeps what was metered and makes hardly a cycle, so that nearly all of the garbage
    collector's walks, a tenth of the work under load, find nothing.
    """
    gc.set_threshold(_OBJECTS, 50, 50)
