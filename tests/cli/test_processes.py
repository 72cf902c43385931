"""The command line as a process: pipes that break, signals, terminals, locales, missing parts."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import pytest
from support.commands import (
    Shell,
    command,
    environment,
    line,
    pipe,
    process,
    started,
    target,
    wait_for,
)

from marketplace_metering_async.sandbox import Fault, FaultKind, Sandbox

NUMBER = 1000
"""Lines whose results are more than a pipe holds."""
MANY = "".join(f"{line(n)}\n" for n in range(NUMBER)).encode()


def give(running: subprocess.Popen[bytes], data: bytes) -> None:
    pipe(running.stdin).write(data)
    pipe(running.stdin).close()
    running.stdin = None


def test_a_reader_that_leaves_ends_nothing(sandbox: Sandbox) -> None:
    """
    `| head -1` is no traceback, and everything is still metered. Covers: X11
    """
    with started("send", *target(sandbox), "-") as running:
        give(running, MANY)
        pipe(running.stdout).readline()
        pipe(running.stdout).close()
        running.stdout = None
        _, err = running.communicate(timeout=30)

    assert (0, False) == (running.returncode, b"Traceback" in err), err
    assert NUMBER == len(sandbox.book)


def test_people_who_leave_end_nothing(sandbox: Sandbox) -> None:
    """
    Also where stderr breaks; the results are all there.
    """
    with started("send", *target(sandbox), "-") as running:
        pipe(running.stderr).close()
        running.stderr = None
        out, _ = running.communicate(b"no json\n" + MANY, timeout=30)

    assert 1 == running.returncode
    assert NUMBER + 1 == len(out.splitlines())


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("options", [[], ["--log-format", "json"], ["--coalesce"]])
def test_a_full_disk_under_the_log_ends_nothing(
    sandbox: Sandbox, options: list[str], unbuffered: str
) -> None:
    """
    Also where stderr cannot take what it is given, not at the end either; the results are there.
    """
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(  # noqa: S603
            command("send", *target(sandbox), *options, "-"),
            input=MANY + b"no json\n",
            stdout=subprocess.PIPE,
            stderr=full,
            check=False,
            env=environment(PYTHONUNBUFFERED=unbuffered),
            timeout=30,
        )

    held = NUMBER if "--coalesce" in options else 0
    assert (3 if held else 1, NUMBER + 1) == (done.returncode, len(done.stdout.splitlines()))
    assert NUMBER - held == len(sandbox.book)


def test_a_reader_that_pauses_holds_up_no_request(sandbox: Sandbox) -> None:
    """
    `| less` must not make the client miss answers: each record is sent once.
    """
    with started("send", *target(sandbox), "-") as running:
        give(running, MANY)
        wait_for(lambda: len(sandbox.book) == NUMBER)
        out, _ = running.communicate(timeout=30)

    assert 0 == running.returncode
    assert NUMBER == out.count(b'"attempts": 1,')


def test_a_source_is_held_back_while_the_service_is_slow(sandbox: Sandbox) -> None:
    """
    Input of any length takes bounded memory.
    """
    sandbox.inject(Fault(kind=FaultKind.SLOW, seconds=60))
    with started("send", *target(sandbox), "-", bufsize=0) as running:
        handle = pipe(running.stdin).fileno()
        os.set_blocking(handle, False)
        taken, blocked = os.write(handle, MANY), 0.0
        wait_for(lambda: sandbox.calls["BatchMeterUsage"] > 0)
        while blocked < 1.0 and taken < 20_000_000:
            _, ready, _ = select.select([], [handle], [], 0.2)
            blocked = 0.0 if ready else blocked + 0.2
            if ready:
                taken += os.write(handle, MANY)

    assert 0 < taken < 5_000_000


@pytest.mark.parametrize("redirection", [">&-", ">&- 2>&-", "2>&-"])
def test_closed_streams_are_no_traceback(
    sandbox: Sandbox, redirection: str, tmp_path: Path
) -> None:
    """
    As daemons are started; the codes are the same.
    """
    file = tmp_path / "usage.jsonl"
    file.write_bytes(MANY[:2000] + b"\nno json\n")
    words = " ".join(command("send", *target(sandbox), file))

    done = subprocess.run(  # noqa: S602 - a shell closes streams best
        f"{words} {redirection}", shell=True, capture_output=True, check=False, env=environment()
    )

    assert (1, b"") == (done.returncode, done.stderr if "2>" in redirection else b"")
    assert b"Traceback" not in done.stderr


def test_a_closed_stdin_is_told() -> None:
    """
    Its number may be another file's by then.
    """
    words = " ".join(command("send", "--product-code", "p", "-"))

    done = subprocess.run(  # noqa: S602
        f"{words} <&-", shell=True, capture_output=True, check=False, env=environment()
    )

    assert 2 == done.returncode
    assert b"standard input is closed" in done.stderr


def test_results_that_cannot_be_written_are_told(sandbox: Sandbox) -> None:
    """
    Nothing more is sent then, since nobody could know what became of it.
    """
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(  # noqa: S603
            command("send", *target(sandbox), "-"),
            input=MANY * 10,
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            env=environment(),
            timeout=30,
        )

    assert 2 == done.returncode, done.stderr
    assert b"results cannot be written to stdout: No space left on device" in done.stderr


@pytest.mark.parametrize(
    "locale",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "latin-1"},
    ],
)
def test_any_locale_will_do(sandbox: Sandbox, locale: dict[str, str], tmp_path: Path) -> None:
    """
    Results are ASCII; what the terminal cannot show is escaped. Covers: X11
    """
    file = tmp_path / "größe\u2028.jsonl"
    file.write_text(line(1, dimension="größe \U0001f4b6") + "\n{\n", encoding="utf-8")

    done = process("send", *target(sandbox), file, **locale)

    assert 1 == done.code
    assert ["Success", "Rejected"] == done.statuses
    assert done.out.isascii()
    assert {"größe \U0001f4b6": 5} == sandbox.book.totals()


def test_help_is_shown_in_any_locale() -> None:
    """
    Boxes are drawn with what there is.
    """
    assert 0 == process("send", "--help", PYTHONIOENCODING="ascii").code


# Signals


def listens_to_interrupts(pid: int) -> bool:
    """Whether the process catches SIGTERM, which it does only while it works."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16)  # type: ignore[index]
    return bool(caught >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize(
    ("number", "options"),
    [
        (signal.SIGINT, []),
        (signal.SIGINT, ["--coalesce"]),
        (signal.SIGTERM, []),
        (signal.SIGHUP, []),
    ],
)
def test_the_first_signal_drains(
    sandbox: Sandbox, number: signal.Signals, options: list[str]
) -> None:
    """
    Nothing new is sent, the wire is awaited, and each line that was read has its true result.
    Covers: C15
    """
    slow = [*target(sandbox)[:-1], 1]
    with started("send", *slow, *options, "-") as running:
        give(running, MANY)
        wait_for(lambda: len(sandbox.book) > 100)
        running.send_signal(number)
        begin = time.monotonic()
        out, err = running.communicate(timeout=30)

    assert 130 == running.returncode, err
    assert time.monotonic() - begin < 20  # all that is left takes longer
    assert b"Interrupted: nothing new is sent" in err
    assert out.count(b'"Success"') == len(sandbox.book) < NUMBER
    statuses = set(re.findall(rb'"status": "(\w+)"', out))
    assert {b"Success", b"Unprocessed"} == statuses
    numbers = [int(found) for found in re.findall(rb'"line": (\d+)', out)]
    assert list(range(1, len(numbers) + 1)) == numbers
    assert b"send the same input again" in err


def test_what_nohup_has_it_ignore_does_not_end_it(sandbox: Sandbox) -> None:
    """
    A send that goes on after its terminal is closed, as whoever started it wants.
    """
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # which a process inherits
    try:
        with started("send", *target(sandbox), "-") as running:
            pipe(running.stdin).write(line().encode())
            pipe(running.stdin).flush()
            wait_for(lambda: listens_to_interrupts(running.pid))
            running.send_signal(signal.SIGHUP)
            out, err = running.communicate(timeout=30)
    finally:
        signal.signal(signal.SIGHUP, before)

    assert (0, 1) == (running.returncode, out.count(b'"Success"')), err


def test_the_second_ctrl_c_aborts(sandbox: Sandbox) -> None:
    """
    At once, though the service is silent. Covers: C15
    """
    sandbox.inject(Fault(kind=FaultKind.SLOW, seconds=60))
    with started("send", *target(sandbox), "-") as running:
        pipe(running.stdin).write(MANY)
        pipe(running.stdin).flush()
        wait_for(lambda: sandbox.calls["BatchMeterUsage"] > 0)
        running.send_signal(signal.SIGINT)
        said = pipe(running.stderr).readline()
        running.send_signal(signal.SIGINT)
        code = running.wait(10)
        err = pipe(running.stderr).read()

    assert b"Ctrl-C again aborts at once" in said
    assert (130, False) == (code, b"Traceback" in err), err
    assert b"may be metered or not: send the same input again" in err


@pytest.mark.parametrize("options", [["--coalesce"], []])
def test_ctrl_c_while_nothing_comes_in(sandbox: Sandbox, options: list[str]) -> None:
    """
    A source that is silent for ever does not keep the command from ending.
    """
    with started("send", *target(sandbox), *options, "-") as running:
        pipe(running.stdin).write(line().encode()[:20])
        pipe(running.stdin).flush()
        wait_for(lambda: listens_to_interrupts(running.pid))
        running.send_signal(signal.SIGINT)
        code = running.wait(10)
        err = pipe(running.stderr).read()

    assert (130, False) == (code, b"Traceback" in err), err
    assert 0 == sandbox.calls.total()


def test_an_address_is_only_text(sandbox: Sandbox, shell: Shell, tmp_path: Path) -> None:
    """
    What a relay says of where it sends is no markup. Newcomer M9.
    """
    url, where = f"sqlite:///{tmp_path}/usage.db", f"{sandbox.url}/[/]"
    members = ["--dimension", "d", "--quantity", 1, "--account", 1, "--product-code", "p"]
    assert 0 == shell("ledger", "add", url, *members).code
    with started("ledger", "relay", url, "--endpoint-url", where) as running:
        said = pipe(running.stderr).readline()
        running.terminate()
        _, err = running.communicate(timeout=30)

    assert f"relaying to {where}; Ctrl-C ends it" in said.decode()
    assert b"Traceback" not in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_relay_that_is_ended_as_a_service_ends_well(
    url: str, sandbox: Sandbox, shell: Shell, number: signal.Signals, code: int
) -> None:
    """
    With 0, so that `systemctl stop` shows no failed unit. Newcomer M12
    """
    members = ["--dimension", "d", "--quantity", 1, "--account", 1, "--product-code", "p"]
    assert 0 == shell("ledger", "add", url, *members).code
    with started("ledger", "relay", url, "--endpoint-url", sandbox.url) as running:
        pipe(running.stderr).readline()
        running.send_signal(number)
        running.communicate(timeout=30)

    assert code == running.returncode


def test_a_command_that_was_killed_may_be_run_again(sandbox: Sandbox, shell: Shell) -> None:
    """
    With the same input: what it had metered is refused, the rest is metered, once. Covers: X09
    """
    slow = [*target(sandbox)[:-1], 1]
    with started("send", *slow, "-") as running:
        give(running, MANY)
        wait_for(lambda: len(sandbox.book) > 100)
        running.kill()
        running.communicate(timeout=10)
    before = len(sandbox.book)

    again = shell("send", *target(sandbox), "-", stdin=MANY)

    duplicates = again.statuses.count("DuplicateRecord")
    assert before <= duplicates < NUMBER
    assert NUMBER == duplicates + again.statuses.count("Success")
    assert 1 == again.code
    assert {"requests": 5 * NUMBER} == sandbox.book.totals()


# Terminals


@contextmanager
def on_terminal(
    *arguments: object,
    code: str | None = None,
    stdin: bytes | None = None,
    stdout: IO[bytes] | int = subprocess.PIPE,
    **changes: str,
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A process whose terminal is ours to read and type on; *stdin* and *stdout* need not be it."""
    ours, theirs = pty.openpty()

    def own_terminal() -> None:
        os.setsid()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    settings = {
        "stdin": theirs if stdin is None else subprocess.PIPE,
        "stdout": stdout,
        "stderr": theirs,
        "preexec_fn": own_terminal,
        "env": environment(TERM="xterm", **changes),
    }
    with started(*arguments, code=code, **settings) as running:
        os.close(theirs)
        if stdin is not None:
            give(running, stdin)
        try:
            yield running, ours
        finally:
            running.kill()
            running.wait()
            os.close(ours)


def seen(terminal: int, until: bytes = b"", seconds: float = 20.0) -> bytes:
    """What is shown, to the end or *until* that."""
    shown = b""
    end = time.monotonic() + seconds
    while (not until or until not in shown) and time.monotonic() < end:
        ready, _, _ = select.select([terminal], [], [], 0.1)
        if ready:
            with suppress(OSError):  # the other side is closed
                if piece := os.read(terminal, 4096):
                    shown += piece
                    continue
            break
    assert until in shown, shown
    return shown


def until_it_waits(pid: int) -> None:
    """A signal that comes between two instructions of C, just before they read, is seen late."""
    status = Path(f"/proc/{pid}/stat")
    while status.exists() and status.read_text().rpartition(")")[2].split()[0] in "RDT":
        time.sleep(0.005)


def test_a_terminal_gets_a_bar_and_a_pipe_the_results(sandbox: Sandbox, tmp_path: Path) -> None:
    """
    With rate and time left; stdout has nothing but JSON.
    """
    file = tmp_path / "usage.jsonl"
    file.write_bytes(MANY)
    results = tmp_path / "results.jsonl"
    with (
        results.open("wb") as out,
        on_terminal("send", *target(sandbox)[:-1], 50, file, stdout=out) as (running, terminal),
    ):
        shown = seen(terminal)
        code = running.wait(10)

    assert 0 == code
    assert NUMBER == len(results.read_bytes().splitlines())
    assert re.search(rb"metering.*\d records, [\d,]+/s.*\d:\d\d:\d\d", shown)
    assert b"Success" in shown


def test_no_color_is_honoured(sandbox: Sandbox) -> None:
    """
    A bar may move, but nothing is coloured.
    """
    with on_terminal("send", *target(sandbox), "-", stdin=b"{", NO_COLOR="1") as (_, terminal):
        shown = seen(terminal)

    assert b"-:1: expected a JSON object" in shown
    assert not re.search(rb"\x1b\[[0-9;]*3[0-7]m", shown)


LIVE = """
import sys
from marketplace_metering_async.cli.options import Target
Target.is_live = property(lambda self: True)  # as if the sandbox were the service
from marketplace_metering_async.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("answer", "ends", "options"),
    [
        (b"y\n", (0, 3), []),
        (b"yes\n", (0, 3), ["--coalesce"]),
        (b"\n", (3, 0), []),
        (b"n\n", (3, 0), ["--coalesce"]),
        (b"\x03", (130, 0), []),
    ],
)
def test_a_live_send_shows_its_plan_and_asks(
    sandbox: Sandbox, tmp_path: Path, answer: bytes, ends: tuple[int, int], options: list[str]
) -> None:
    """
    What is metered cannot be taken back, so nothing but yes means yes. Covers: X08
    """
    file = tmp_path / "usage.jsonl"
    file.write_text(f"{line(1)}\n{line(2)}\n{line(3)}\n")
    whole = ["send", *target(sandbox), *options, file]
    with on_terminal(*whole, code=LIVE) as (running, terminal):
        plan = seen(terminal, b"Send? [y/N] ")
        until_it_waits(running.pid)
        os.write(terminal, answer)
        shown = seen(terminal)
        running.wait(10)

    assert ends == (running.returncode, len(sandbox.book)), shown
    assert b"records to send" in plan
    assert b"neither changed nor taken back" in plan
    assert sandbox.url.encode() in plan
    assert b"Traceback" not in shown


@pytest.mark.parametrize("options", [[], ["--coalesce"]])
def test_a_question_ends_by_a_signal(sandbox: Sandbox, tmp_path: Path, options: list[str]) -> None:
    """
    SIGTERM is not kept until somebody answers; nothing was sent.
    """
    file = tmp_path / "usage.jsonl"
    file.write_text(line())
    with on_terminal("send", *target(sandbox), *options, file, code=LIVE) as (running, terminal):
        seen(terminal, b"Send? [y/N] ")
        until_it_waits(running.pid)
        running.send_signal(signal.SIGTERM)

        assert -signal.SIGTERM == running.wait(10)

    assert 0 == len(sandbox.book)


def test_a_log_has_an_object_a_line_on_a_terminal_too(sandbox: Sandbox) -> None:
    """
    As a container has one (`tty: true`): whatever its width, no object is broken.
    """
    options = ["--verbose", "--log-format", "json"]
    whole = ["send", *target(sandbox), *options, "-"]
    with on_terminal(*whole, stdin=line().encode()) as (_, terminal):
        shown = seen(terminal).decode().splitlines()

    assert {"debug", "info"} <= {json.loads(one)["level"] for one in shown}


@pytest.mark.parametrize(
    ("options", "says"),
    [([], b"there is no plan of a stream"), (["--coalesce"], b"records to send")],
)
def test_a_live_stream_is_asked_for_on_the_terminal(
    sandbox: Sandbox, options: list[str], says: bytes
) -> None:
    """
    Stdin is the usage and not the answer.
    """
    whole = ["send", *target(sandbox), *options, "-"]
    with on_terminal(*whole, code=LIVE, stdin=line(1).encode()) as (running, terminal):
        plan = seen(terminal, b"Send? [y/N] ")
        os.write(terminal, b"y\n")
        seen(terminal)
        running.wait(10)

    assert (0, 1) == (running.returncode, len(sandbox.book))
    assert says in plan


def test_yes_and_machines_are_not_asked(sandbox: Sandbox, tmp_path: Path) -> None:
    """
    --yes on a terminal, and anything without one, whatever asks for colours.
    """
    file = tmp_path / "usage.jsonl"
    file.write_text(line(1))
    with on_terminal("send", *target(sandbox), "--yes", file, code=LIVE) as (running, terminal):
        assert b"Send?" not in seen(terminal)
        assert 0 == running.wait(10)
    colours = environment(FORCE_COLOR="1")
    with started("send", *target(sandbox), "-", code=LIVE, env=colours) as unattended:
        _, err = unattended.communicate(line(2).encode(), timeout=20)
        assert (0, False) == (unattended.returncode, b"Send?" in err)


# Parts


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_a_missing_extra_is_told_in_a_line(missing: str) -> None:
    """
    With the way to install it.
    """
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from marketplace_metering_async.__main__ import main; sys.exit(main(['demo']))"
    )

    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code], capture_output=True, check=False, text=True
    )

    wanted = "the command line needs its extra: pip install 'marketplace-metering-async[cli]'\n"
    assert (2, wanted, "") == (done.returncode, done.stderr, done.stdout)


IN_A_CLASS = """
class Interrupting:
    def __set_name__(self, *_):
        os.kill(os.getpid(), signal.SIGINT)
class Made:
    member = Interrupting()
"""


@pytest.mark.parametrize("interrupted", ["os.kill(os.getpid(), signal.SIGINT)", IN_A_CLASS])
def test_ctrl_c_while_the_command_is_made_is_an_interrupt(interrupted: str) -> None:
    """
    It takes as long as its imports do, and ended with a traceback, whatever Python made of it.
    """
    code = (
        f"import os, signal, sys, typer\nsource = {interrupted!r}\n"
        "typer.main.get_command = lambda _: exec(source, globals())\n"
        "from marketplace_metering_async.__main__ import main; sys.exit(main(['demo']))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)  # noqa: S603

    assert (130, b"", b"") == (done.returncode, done.stderr, done.stdout)


def test_the_console_command_is_there() -> None:
    """
    Under the name that the documentation says.
    """
    script = Path(sys.executable).with_name("marketplace-metering")

    done = subprocess.run([script, "--version"], capture_output=True, check=False)  # noqa: S603

    assert (0, b"") == (done.returncode, done.stderr)


def test_the_sandbox_serves_until_it_is_interrupted(
    sandbox: Sandbox, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    It prints what to paste, and a port that is taken is told.
    """
    with started("sandbox", "--port", 0) as running:
        first = pipe(running.stdout).readline().decode()
        variable, _, url = first.strip().removeprefix("export ").partition("=")
        monkeypatch.setenv(variable, url)
        done = shell("send", "--product-code", "p", "-", stdin=line())
        running.send_signal(signal.SIGINT)
        code = running.wait(10)
    taken = shell("sandbox", "--port", sandbox.url.rpartition(":")[2])

    assert "AWS_ENDPOINT_URL_MARKETPLACE_METERING" == variable
    assert (0, 130, 2) == (done.code, code, taken.code)
    assert "in use" in taken.err
