"""The README's commands, as they stand there: none is a wrong use of the command line."""

import json
import re
import shlex
from pathlib import Path

import pytest
import typer
from support.commands import Shell, line
from typer.core import TyperGroup

from marketplace_metering_async import cli
from marketplace_metering_async.cli.app import app
from marketplace_metering_async.cli.exit_codes import Exit
from marketplace_metering_async.sandbox import Sandbox

PACKAGE = Path(cli.__file__).parents[1]
CLI_README = PACKAGE / "cli" / "README.md"
GUIDES = [PACKAGE.parent / "README.md", CLI_README, PACKAGE / "ledger" / "README.md"]
BLOCKS = [
    block
    for guide in GUIDES
    for block in re.findall(r"```sh\n(.*?)```", guide.read_text(encoding="utf-8"), re.DOTALL)
]
COMMANDS = [
    shlex.split(one, comments=True)[1:]
    for block in BLOCKS
    for one in block.splitlines()
    if one.startswith("marketplace-metering ") and one != "marketplace-metering sandbox"
]


def test_every_command_of_the_guides_runs(
    sandbox: Sandbox, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    One after the other, in a folder with some usage, with the endpoint of a sandbox.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", sandbox.url)
    Path("usage.jsonl").write_text(f"{line(1)}\n{line(2)}\n")
    members = json.loads(line(3))
    Path("usage.csv").write_text(f"{','.join(members)}\n{','.join(map(str, members.values()))}\n")
    done = {}
    for words in COMMANDS:
        once = ["--once"] if words[:2] == ["ledger", "relay"] else []  # else until Ctrl-C
        done[shlex.join(words)] = shell(*words, *once)

    codes = {text: run.code for text, run in done.items()}
    assert 9 < len(codes)
    open_ones = {text for text, code in codes.items() if code == Exit.UNDELIVERED}
    assert {Exit.OK, Exit.UNDELIVERED} == set(codes.values()), codes
    assert all(text.startswith(("ledger relay", "send --ledger")) for text in open_ones)


def test_the_exit_codes_are_those_of_the_table() -> None:
    """
    Each of them, and no other.
    """
    rows = re.findall(r"^\| (\d+) \| ", CLI_README.read_text(encoding="utf-8"), re.MULTILINE)

    assert [str(code.value) for code in Exit] == rows


def test_every_command_stands_in_the_table() -> None:
    """
    Of the command line's own README; and none that is not there.
    """
    group = typer.main.get_group(app)
    context = typer.Context(group)
    names = {name for name in group.list_commands(context) if name != "ledger"}
    for name in ("ledger", "sandbox"):
        inner = group.get_command(context, name)
        assert isinstance(inner, TyperGroup)
        names |= {f"{name} {one}" for one in inner.list_commands(context)}

    rows = re.findall(r"^\| (`.*?) \| ", CLI_README.read_text(encoding="utf-8"), re.MULTILINE)
    listed = {
        re.sub(r" (FILE…|URL)$", "", name) for row in rows for name in re.findall(r"`(.*?)`", row)
    }

    assert names == listed
