"""Streams as other programs leave them: they do not block, or take less than they were given."""

import os
import resource
import subprocess
import threading
import time
from pathlib import Path

import pytest
from support.commands import Shell, command, environment, line

from marketplace_metering_async.sandbox import Sandbox

NUMBER = 2_000
"""Lines that come to several times what a pipe holds."""


def lines_of_results(words: list[object], stdin: bytes, unbuffered: str) -> tuple[int, int]:
    """The exit code, and lines that came through a pipe which does not block for its writer."""
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    with subprocess.Popen(  # noqa: S603 - our own
        command(*words),
        stdin=subprocess.PIPE,
        stdout=writes,
        stderr=subprocess.DEVNULL,
        env=environment(PYTHONUNBUFFERED=unbuffered),
    ) as running:
        os.close(writes)
        threading.Thread(target=running.communicate, args=[stdin]).start()
        came = 0
        while piece := os.read(reads, 2**14):
            came += piece.count(b"\n")
            time.sleep(0.001)  # slower than they are written
        os.close(reads)
        return running.wait(20), came


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [["validate", "-"], ["ledger", "history", "URL"]])
def test_a_pipe_that_does_not_block_loses_no_line(
    words: list[str], unbuffered: str, shell: Shell, tmp_path: Path
) -> None:
    """
    Whoever shares a pipe or a terminal may have it so; PYTHONUNBUFFERED is set in most images.
    """
    url, usage = f"sqlite:///{tmp_path}/u.db", "".join(f"{line(n)}\n" for n in range(NUMBER))
    product = ["--product-code", "p"]
    if "URL" in words:
        assert 0 == shell("ledger", "import", url, "-", *product, "--name", "n", stdin=usage).code
        words, product = [*words[:-1], url], []

    ends = lines_of_results([*words, *product], usage.encode(), unbuffered)

    assert (0, NUMBER) == ends


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_what_is_written_in_part_is_told(unbuffered: str, tmp_path: Path) -> None:
    """
    A disk that is full in the middle of a text takes a part of it, and says nothing of the rest.
    """
    with (tmp_path / "help").open("wb") as file:
        done = subprocess.run(  # noqa: S603 - our own
            command("send", "--help"),
            stdout=file,
            stderr=subprocess.PIPE,
            check=False,
            env=environment(PYTHONUNBUFFERED=unbuffered),
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024)),
            timeout=30,
        )

    assert 2 == done.returncode
    assert b"results cannot be written to stdout: File too large" in done.stderr


@pytest.mark.parametrize("words", [["send", "--product-code", "p", "-"], ["resolve", "-"]])
def test_a_stdin_that_does_not_block_is_waited_for(words: list[str], sandbox: Sandbox) -> None:
    """
    What has not come yet is not the end, and no error.
    """
    reads, writes = os.pipe()
    os.set_blocking(reads, False)
    token = sandbox.issue_token("p", customer_aws_account_id="1" * 12)
    usage = f"{line(1)}\n" if words[0] == "send" else token
    with subprocess.Popen(  # noqa: S603 - our own
        command(*words, "--endpoint-url", sandbox.url),
        stdin=reads,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as running:
        os.close(reads)
        time.sleep(1.5)  # it waits by now
        os.write(writes, usage.encode())
        os.close(writes)
        _, err = running.communicate(timeout=20)

    assert 0 == running.returncode, err


@pytest.mark.parametrize("words", [["validate"], ["send", "--coalesce", "--yes"]])
def test_a_full_disk_under_what_is_kept_is_named(words: list[str], tmp_path: Path) -> None:
    """
    By the folder: nobody writes to it by name, and results and ledger are elsewhere.
    """
    usage = tmp_path / "usage.jsonl"
    usage.write_text("no json\n" * 8_000)
    done = subprocess.run(  # noqa: S603 - our own
        command(*words, "--product-code", "p", usage),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        env=environment(TMPDIR=str(tmp_path)),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, 1_500_000)),
        timeout=30,
    )

    assert 2 == done.returncode
    assert f"{tmp_path}: File too large: lines are kept there" in done.stderr.decode()
