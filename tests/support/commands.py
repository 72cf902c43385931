"""The command line in tests: inside this process where that shows as much, else as a process."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import IO, Any

import pytest
from attrs import frozen

from marketplace_metering_async.__main__ import main
from marketplace_metering_async.sandbox import Sandbox

HOUR = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=2)
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "sandbox",
    "AWS_SECRET_ACCESS_KEY": "sandbox",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
}


@frozen
class Run:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def statuses(self) -> list[str]:
        return [line["status"] for line in self.lines]


def environment(**changes: str | None) -> dict[str, str]:
    """A machine with credentials and a region, and nothing else of AWS; None takes away."""
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("AWS_", "COV"))}
    wanted: dict[str, str | None] = {**kept, **CREDENTIALS, **changes}
    return {name: value for name, value in wanted.items() if value is not None}


class Shell:
    """Runs commands inside this process, with its file descriptors as theirs."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def __call__(self, *arguments: object, stdin: str | bytes = "") -> Run:
        self._capture.readouterr()
        with _stdin(stdin.encode() if isinstance(stdin, str) else stdin):
            code = main([str(argument) for argument in arguments])
        captured = self._capture.readouterr()
        assert "Traceback" not in captured.err, captured.err
        return Run(code, captured.out, captured.err)


@contextmanager
def _stdin(data: bytes) -> Iterator[None]:
    before = os.dup(0)
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        os.dup2(file.fileno(), 0)
        try:
            yield
        finally:
            os.dup2(before, 0)
            os.close(before)


def command(*arguments: object) -> list[str]:
    """The arguments of a process that runs the command line."""
    return [sys.executable, "-m", "marketplace_metering_async", *map(str, arguments)]


def process(*arguments: object, stdin: str = "", **changes: str | None) -> Run:
    """Run a command as a process of its own."""
    done = subprocess.run(  # noqa: S603 - our own command
        command(*arguments),
        input=stdin.encode(),
        capture_output=True,
        check=False,
        timeout=60,
        env=environment(**changes),
    )
    err = done.stderr.decode(errors="replace")
    assert "Traceback" not in err, err
    encoding = changes.get("PYTHONIOENCODING") or "utf-8"
    return Run(done.returncode, done.stdout.decode(encoding), err)


@contextmanager
def started(
    *arguments: object, code: str | None = None, **settings: object
) -> Iterator[subprocess.Popen[bytes]]:
    """A process with pipes, ended at last; with *code* in place of the command line's own."""
    whole = command(*arguments)
    if code is not None:
        whole = [sys.executable, "-c", code, *map(str, arguments)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    usual: dict[str, Any] = {**pipes, "env": environment()}
    with subprocess.Popen(whole, **(usual | settings)) as running:  # noqa: S603 - our own
        try:
            yield running
        finally:
            running.kill()


def pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until *condition* holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "in vain"
        time.sleep(0.01)


def line(customer: int = 1, **changes: Any) -> str:
    """A line of usage; a member that is None is left out."""
    members = {
        "timestamp": HOUR.isoformat(),
        "dimension": "requests",
        "quantity": 5,
        "customer_aws_account_id": f"{customer:012d}",
    }
    wanted = (members | changes).items()
    return json.dumps({name: value for name, value in wanted if value is not None})


def target(sandbox: Sandbox, *more: object) -> list[str]:
    """The options that send to *sandbox* as fast as it goes."""
    options = ["--endpoint-url", sandbox.url, "--product-code", "prod", "--calls-per-second", "0"]
    return [*options, *map(str, more)]
