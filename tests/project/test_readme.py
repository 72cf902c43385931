"""The README: its program runs, and its commands are the first that say demo and pytest."""

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_the_program_runs_as_it_stands() -> None:
    """
    The first Python block meters 101 records into a sandbox.
    """
    done = subprocess.run(  # noqa: S603 - the README's own program
        [sys.executable, "-W", "error", "-c", blocks("python")[0]],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert 0 == done.returncode, done.stderr
    assert "of 101 records; Success: 101> 5 {'calls': 5050}" in done.stdout


def test_two_commands_do_all_the_set_up() -> None:
    """
    One line each, in a code block, in this order.
    """
    lines = [line for block in blocks("sh") for line in block.splitlines()]

    demo = next(line for line in lines if "demo" in line)
    tests = next(line for line in lines if "pytest" in line)

    assert demo.startswith("python3 -m venv .venv && ")
    assert tests.startswith("python3 -m venv .venv && ")
