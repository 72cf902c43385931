"""Whether somebody is still writing a file, so that its last line may be cut."""

import os
import signal
import sys

if sys.platform == "linux":
    import fcntl


def is_being_written(handle: int) -> bool:
    """
    Return whether a process of this machine has a file open for writing that *handle* reads.

    Linux says so to the file's owner and to root, by refusing a lease for reading. Where nobody
    says so, as of files on the network, pipes and other people's files, it is False; and where
    *handle* can write as well, for whoever gave it to us wrote by it, and waits.
    """
    if sys.platform != "linux":
        return False
    try:
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY:
            return False
        # Who opens it this very moment waits for us, and a signal tells us: one that ends nobody.
        fcntl.fcntl(handle, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False
