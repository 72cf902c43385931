"""What only some systems have is asked for nowhere else: Windows can import every module."""

import os
import subprocess
import sys

PROGRAM = """
import os, pkgutil, signal, ssl, sys, time
from importlib import import_module

import aiobotocore.session, aiohttp.web, asyncpg, hypothesis, opentelemetry.trace, pytest, typer
import pytest_asyncio.plugin
import rich.console, rich.live, rich.progress, rich.table, sqlalchemy.ext.asyncio

OF_UNIX = {
    time: ["clock_gettime", "clock_getres", "tzset", *(n for n in dir(time) if n[:6] == "CLOCK_")],
    os: ["fork", "register_at_fork", "getuid", "geteuid", "getgid", "chown", "fchown", "fchmod",
         "mkfifo", "setsid", "killpg", "getpgid", "statvfs", "sysconf", "uname"],
    signal: ["SIGHUP", "SIGURG", "SIGUSR1", "SIGKILL", "SIGPIPE", "SIGTSTP", "pthread_sigmask"],
}
for module, names in OF_UNIX.items():
    for name in names:
        delattr(module, name)
for name in ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty"):
    sys.modules[name] = None
sys.platform = "win32"
ssl.enum_certificates = lambda store: ()  # which only Windows has

package = import_module("marketplace_metering_async")
for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
    if not found.name.endswith("__main__"):
        module = import_module(found.name)
        for name in getattr(module, "__all__", ()):
            getattr(module, name)
        print(found.name)
"""


def test_every_module_does_without_what_windows_lacks() -> None:
    """
    None could be imported there, for a clock that Windows has not.
    """
    done = subprocess.run(  # noqa: S603 - our own words
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )

    assert 0 == done.returncode, done.stderr
    assert {
        "marketplace_metering_async.clock",
        "marketplace_metering_async.cli.input.writers",
        "marketplace_metering_async.ledger.stores.sqlite_file",
        "marketplace_metering_async.sandbox.state",
    } <= {*done.stdout.split()}
