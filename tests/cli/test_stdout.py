"""What commands show on stdout: nobody reads it, a disk is full, characters are missing."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import Shell, command, environment, line, process

from marketplace_metering_async.sandbox import Sandbox


def a_ledger(tmp_path: Path, shell: Shell, dimension: str = "requests") -> str:
    """The URL of a new ledger with the usage of two customers."""
    url = f"sqlite:///{tmp_path}/usage.db"
    lines = f"{line(1, dimension=dimension)}\n{line(2, dimension=dimension)}\n"
    words = ["--name", "n", "--product-code", "p"]
    assert 0 == shell("ledger", "import", url, "-", *words, stdin=lines).code
    return url


ADD = ["--dimension", "d", "--quantity", 1, "--account", "1" * 12, "--product-code", "p"]


@pytest.mark.parametrize(
    ("words", "ends"),
    [
        (["ledger", "history", "URL"], 0),
        (["ledger", "history", "URL", "--csv"], 0),
        (["ledger", "status", "URL"], 0),
        (["ledger", "status", "URL", "--json"], 0),
        (["ledger", "status", "URL", "--prometheus"], 0),
        (["ledger", "add", "URL", *ADD], 0),
        (["ledger", "relay", "URL", "--once"], 3),
        (["ledger", "explain"], 0),
        (["sandbox", "rules"], 0),
    ],
)
@pytest.mark.parametrize("redirection", ["| exec true", ">&-"])
def test_nobody_has_to_read_what_is_shown(
    *,
    words: list[str],
    ends: int,
    redirection: str,
    sandbox: Sandbox,
    shell: Shell,
    tmp_path: Path,
) -> None:
    """
    `ledger history | head -1` is no failure: a command ends as it would with a reader.
    """
    url = a_ledger(tmp_path, shell)
    asked = shlex.join(command(*[url if word == "URL" else word for word in words]))
    env = {**environment(), "AWS_ENDPOINT_URL_MARKETPLACE_METERING": sandbox.url}

    done = subprocess.run(  # noqa: S603 - a shell closes streams best
        ["/bin/bash", "-c", f"{asked} {redirection}; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        check=False,
        env=env,
        timeout=30,
    )

    assert (ends, False) == (done.returncode, b"Traceback" in done.stderr), done.stderr
    assert b"roken pipe" not in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ledger", "history", "URL"], "results cannot be written to stdout: "),
        (["ledger", "history", "URL", "--csv"], "results cannot be written to stdout: "),
        (["ledger", "status", "URL"], "results cannot be written to stdout: "),
        (["ledger", "status", "URL", "--prometheus"], "results cannot be written to stdout: "),
        (["ledger", "add", "URL", *ADD], "the usage is stored, but results cannot be written"),
        (
            ["meter", *ADD[:4], *ADD[6:]],
            "the service has answered, but results cannot be written",
        ),
        (["ledger", "import", "URL", "ten"], "; the lines are in the ledger all the same"),
    ],
)
def test_a_full_disk_under_results_is_told_with_what_is_done(
    words: list[str], said: str, sandbox: Sandbox, shell: Shell, tmp_path: Path
) -> None:
    """
    Who takes it for a failure would add the usage again.
    """
    url = a_ledger(tmp_path, shell)
    (tmp_path / "ten").write_text("".join(f"{line(n)}\n" for n in range(10)))
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(  # noqa: S603
            command(
                *[url if word == "URL" else word for word in words],
                *ADD[6:][: 2 * ("ten" in words)],
            ),
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            env={**environment(), "AWS_ENDPOINT_URL_MARKETPLACE_METERING": sandbox.url},
            cwd=tmp_path,
            timeout=30,
        )

    assert 2 == done.returncode
    assert said in done.stderr.decode()
    assert "No space left on device" in done.stderr.decode()


def test_status_is_shown_in_any_locale(shell: Shell, tmp_path: Path) -> None:
    """
    An exit code of 1 would say that usage has ended unmetered.
    """
    url = a_ledger(tmp_path, shell, "größe \U0001f4b6")

    done = process("ledger", "status", url, PYTHONIOENCODING="latin-1")

    assert 0 == done.code
    assert "größe \\U0001f4b6" in done.out


@pytest.mark.parametrize("words", [["history", "--csv"], ["status", "--prometheus"]])
def test_no_usage_controls_the_terminal_that_it_is_shown_on(
    words: list[str], shell: Shell, tmp_path: Path
) -> None:
    """
    A program gets it as it is: a file or a pipe has what was stored.
    """
    url = a_ledger(tmp_path, shell, dimension="\x1b[2Jü")
    asked = command("ledger", words[0], url, *words[1:])
    on_terminal = [sys.executable, "-c", "import pty, sys; pty.spawn(sys.argv[1:])", *asked]

    shown, piped = (
        subprocess.run(  # noqa: S603
            words, stdin=subprocess.DEVNULL, capture_output=True, check=False, env=environment()
        ).stdout.decode()
        for words in (on_terminal, asked)
    )

    assert r"\x1b[2Jü" in shown
    assert "\x1b[2J" not in shown
    assert "\x1b[2Jü" in piped


@pytest.mark.parametrize("words", [["--csv"], []])
def test_history_is_shown_in_any_locale(words: list[str], shell: Shell, tmp_path: Path) -> None:
    """
    What stdout has no characters for is escaped.
    """
    url = a_ledger(tmp_path, shell, "größe")

    done = process("ledger", "history", url, *words, PYTHONIOENCODING="ascii")

    assert (0, 2) == (done.code, done.out.count("xf6") + done.out.count("00f6"))


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        ["help"],
        ["help", "send"],
        ["send", "--help"],
        ["ledger", "--help"],
        ["ledger", "add", "--help"],
        ["sandbox", "check", "--help"],
        ["sandbox", "rules"],
        ["ledger", "explain"],
    ],
)
def test_a_full_disk_under_words_for_people_is_told_in_a_line(words: list[str]) -> None:
    """
    `--help` and `--version` as any other command: no traceback, and exit code 2.
    """
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(  # noqa: S603
            command(*words),
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            env=environment(),
            timeout=30,
        )

    said = done.stderr.decode()
    assert 2 == done.returncode
    assert "results cannot be written to stdout: No space left on device\n" in said
    assert "Traceback" not in said
    assert "Exception ignored" not in said


def test_so_it_is_under_the_completion_of_a_shell() -> None:
    """
    Which typer itself writes.
    """
    named = environment(_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")  # whoever runs the test
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(  # noqa: S603
            command("--show-completion", "bash"),
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            env=named,
            timeout=30,
        )

    assert (2, b"[Errno 28] No space left on device\n") == (done.returncode, done.stderr)


@pytest.mark.parametrize("words", [[], ["nosuch"], ["send", "--no"], ["ledger"], ["ledger", "no"]])
def test_a_full_disk_under_stderr_changes_no_exit_code(words: list[str]) -> None:
    """
    What is wrong with the words of a command has nowhere to be said, and is wrong all the same.
    """
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(  # noqa: S603
            command(*words),
            stdout=subprocess.PIPE,
            stderr=full,
            check=False,
            env=environment(),
            timeout=30,
        )

    assert (2, b"") == (done.returncode, done.stdout)


@pytest.mark.parametrize("words", [["nosuch"], ["ledger"], ["send", "--nosuch"]])
def test_nor_does_a_reader_of_stderr_that_has_gone(words: list[str]) -> None:
    """
    Rich would end with 1, which says that usage was rejected.
    """
    asked = shlex.join(command(*words))
    done = subprocess.run(  # noqa: S603 - a shell closes streams best
        ["/bin/bash", "-c", f"{asked} 2>&1 >/dev/null | exec true; exit ${{PIPESTATUS[0]}}"],
        check=False,
        env=environment(),
        timeout=30,
    )

    assert 2 == done.returncode


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["ledger", "--help"], ["help"]])
def test_nobody_has_to_read_help(words: list[str]) -> None:
    """
    `--help | head -1` is no failure.
    """
    asked = shlex.join(command(*words))
    done = subprocess.run(  # noqa: S603 - a shell closes streams best
        ["/bin/bash", "-c", f"{asked} | exec true; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        check=False,
        env=environment(),
        timeout=30,
    )

    assert (0, b"") == (done.returncode, done.stderr)
