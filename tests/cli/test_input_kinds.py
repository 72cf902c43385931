"""What files may look like: compressed, as the aws CLI has them, from a spreadsheet, or odd."""

import gzip
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.commands import HOUR, Run, Shell, command, environment, line, target

from marketplace_metering_async import UsageRecord
from marketplace_metering_async.cli.exit_codes import Exit
from marketplace_metering_async.cli.input import lines
from marketplace_metering_async.cli.input.documents import is_document, records_of
from marketplace_metering_async.cli.input.formats import UsageFileError
from marketplace_metering_async.cli.input.gzipped import plain
from marketplace_metering_async.errors import InvalidRecordError
from marketplace_metering_async.sandbox import Sandbox

BOTO = {
    "Timestamp": json.loads(line())["timestamp"],
    "Dimension": "requests",
    "Quantity": 5,
    "CustomerAWSAccountId": "000000000001",
}
ROWS = [line(n) for n in range(1, 4)]


def unzipped(data: bytes, block: int = 7) -> bytes:
    """Read as from a pipe that gives little at a time."""
    stream = io.BytesIO(data)
    read = plain("usage.gz", lambda size: stream.read(min(size, block)))
    return b"".join(iter(lambda: read(5), b""))


@given(st.lists(st.binary(max_size=200), max_size=3), st.integers(1, 9))
def test_gzip_is_unpacked_member_by_member(parts: list[bytes], block: int) -> None:
    """
    As gzip itself does, whatever a pipe gives at a time; all else is left as it is.
    """
    packed = b"".join(gzip.compress(part) for part in parts)

    assert b"".join(parts) == unzipped(packed, block)
    for other in parts:
        if not other.startswith(b"\x1f\x8b"):
            assert other == unzipped(other, block)


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_damaged_gzip_is_named(damage: str) -> None:
    """
    With what to do; a part of it is not taken for the whole.
    """
    packed = gzip.compress(b"usage" * 1000)
    packed = packed[:-4] if damage == "cut" else packed[:20] + b"\0\0\0" + packed[23:]

    with pytest.raises(UsageFileError, match=r"usage.gz: the gzip data .*; (copy|make) "):
        unzipped(packed)


def test_a_compressed_file_is_sent_as_the_plain_one(
    sandbox: Sandbox, shell: Shell, tmp_path: Path
) -> None:
    """
    JSON lines or CSV, by the name below .gz, and on standard input.
    """
    packed = gzip.compress("\n".join(ROWS).encode())
    file = tmp_path / "usage.jsonl.gz"
    file.write_bytes(packed)

    done = shell("send", *target(sandbox), file)
    again = shell("send", *target(sandbox), "-", stdin=packed)

    assert ["Success"] * 3 == done.statuses
    assert ["DuplicateRecord"] * 3 == again.statuses
    assert [1, 2, 3] == [one["line"] for one in done.lines]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("shape", ["request", "array", "records", "one by one"])
def test_files_of_the_aws_cli_are_read(
    sandbox: Sandbox, shell: Shell, shape: str, indent: int | None
) -> None:
    """
    Its request, its list of records, on one line or many; and what jq prints. Newcomer, smaller 6.
    """
    records = [BOTO | {"CustomerAWSAccountId": f"{n:012d}"} for n in range(1, 4)]
    document = {
        "request": lambda: json.dumps(
            {"ProductCode": "prod", "UsageRecords": records}, indent=indent
        ),
        "array": lambda: json.dumps(records, indent=indent),
        "records": lambda: json.dumps({"UsageRecords": records}, indent=indent),
        "one by one": lambda: "\n".join(json.dumps(one, indent=indent) for one in records),
    }[shape]()
    where = target(sandbox)
    if shape == "request":
        where = [one for one in where if one not in ("--product-code", "prod")]

    done = shell("send", *where, "-", stdin=document)

    assert ["Success"] * 3 == done.statuses, done.err
    assert [1, 2, 3] == [one["line"] for one in done.lines]
    assert {"requests": 15} == sandbox.book.totals()


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ('[{"Timestamp": 1},', "-:1: expected a JSON object, got no JSON"),
        ("[1, 2]", "-:1: expected a JSON object, got a int"),
        ('{"UsageRecords": [], "Extra": 1}', "got Extra as well"),
        ('{"UsageRecords": 5}', "got a int"),
        ("[" * 100_000, "nested too deeply"),
        ('{\n  "Timestamp": oops\n}', "line 2, column 16"),
    ],
)
def test_a_broken_document_is_one_complaint(shell: Shell, document: str, says: str) -> None:
    """
    Of the place where it is broken, and not one for each of its lines.
    """
    done = shell("validate", "--product-code", "p", "-", stdin=document)

    assert Exit.REJECTED == done.code
    assert 1 <= len(done.lines) <= 2
    assert says in done.err


def test_a_broken_first_line_does_not_hide_the_others(shell: Shell) -> None:
    """
    A lone brace may begin a document, or be a line that was cut.
    """
    done = shell("validate", "--product-code", "p", "-", stdin="\n".join(["{", *ROWS]))

    assert ["Rejected", *["Valid"] * 3] == done.statuses
    assert [1, 2, 3, 4] == [one["line"] for one in done.lines]


@given(st.text(max_size=50) | st.sampled_from(["[", "{", "[[]]", '{"UsageRecords":[[]]}', "null"]))
def test_any_text_makes_records_or_complaints(text: str) -> None:
    """
    And nothing else.
    """
    is_document(text.encode("utf-8", "surrogatepass"))
    for found in records_of(text.encode("utf-8", "surrogatepass")):
        assert isinstance(found, dict | InvalidRecordError)


@pytest.mark.parametrize("delimiter", [";", "\t", ","])
def test_a_spreadsheet_may_have_its_own_delimiter(
    sandbox: Sandbox, shell: Shell, delimiter: str
) -> None:
    """
    Semicolons where commas are for decimals, and tabs.
    """
    members = json.loads(line(7))
    table = "\n".join(delimiter.join(map(str, row)) for row in (members.keys(), members.values()))

    done = shell("send", *target(sandbox), "-", stdin=table)

    assert ["Success"] == done.statuses, done.err


def test_a_column_of_ones_own_is_warned_of(sandbox: Sandbox, shell: Shell) -> None:
    """
    And does not stop the file; one that is nearly ours does. Newcomer, smaller 6.
    """
    members = json.loads(line(7)) | {"note": "gift", "shop": 3}
    header, row = (",".join(map(str, cells)) for cells in (members.keys(), members.values()))
    header, row = f"{header},", f"{row},"  # as spreadsheets write them

    done = shell("send", *target(sandbox), "-", stdin=f"{header}\n{row}")
    wrong = shell(
        "send", *target(sandbox), "-", stdin=f"{header.replace('note', 'quantty')}\n{row}"
    )

    assert ["Success"] == done.statuses
    assert "-:1: columns that are not read: note, shop, one without a name" in done.err
    assert Exit.USAGE == wrong.code
    assert "call it quantity?" in wrong.err


@pytest.mark.parametrize("command", ["validate", "send", "ledger import"])
def test_an_account_id_that_lost_a_zero_is_warned_of(
    sandbox: Sandbox, shell: Shell, tmp_path: Path, command: str
) -> None:
    """
    The service's pattern takes it, so that it would show only after the hour is locked. M10
    """
    file = tmp_path / "usage.jsonl"
    file.write_text("\n".join(line(n, customer_aws_account_id="1" * 11) for n in range(7)))
    ledger = [f"sqlite:///{tmp_path}/u.db"] if command == "ledger import" else []
    where = target(sandbox) if command == "send" else ["--product-code", "prod"]

    done = shell(*command.split(), *ledger, file, *where)

    assert done.err.count("was a leading zero lost?") == 5
    assert "2 more account ids are not of 12 digits" in done.err
    if command == "validate":
        assert "12 digits" in done.lines[0]["warning"]


def test_an_account_id_on_the_command_line_is_warned_of(shell: Shell, tmp_path: Path) -> None:
    """
    As one in a file.
    """
    what = [
        "--product-code",
        "p",
        "--dimension",
        "d",
        "--quantity",
        "1",
        "--account",
        "12345678901",
    ]

    done = shell("ledger", "add", f"sqlite:///{tmp_path}/u.db", *what)

    assert Exit.OK == done.code
    assert "--account: AWS account ids have 12 digits, and this one has 11" in done.err


@pytest.mark.parametrize("content", ["", "\n \n", "timestamp,dimension,quantity\n"])
def test_a_file_without_usage_is_warned_of(shell: Shell, tmp_path: Path, content: str) -> None:
    """
    What writes it may have failed. Newcomer, smaller 6.
    """
    file = tmp_path / "usage.csv"
    file.write_text(content)

    done = shell("validate", "--product-code", "p", file)

    assert Exit.OK == done.code
    assert "usage.csv: there is no usage in it" in done.err


CSV_HEADER = "customer_aws_account_id,dimension,timestamp,quantity\n"


def csv_line(n: int, quantity: object) -> str:
    return f"{n:012d},requests,{HOUR:%Y-%m-%dT%H:%M:%SZ},{quantity}"


@pytest.mark.skipif(sys.platform != "linux", reason="nothing else says who writes a file")
@pytest.mark.parametrize("redirected", [False, True])
def test_a_line_that_is_still_being_written_is_not_taken(
    shell: Shell, tmp_path: Path, *, redirected: bool
) -> None:
    """
    12 may be all that there is yet of 1234; imported, it would be billed.
    """
    url, path = f"sqlite:///{tmp_path}/ledger.db", tmp_path / "usage.csv"
    words = ["ledger", "import", url, "-" if redirected else path, "--product-code", "p"]
    words += ["--name", "usage"]

    def imported() -> Run:
        if not redirected:
            return shell(*words)
        with path.open("rb") as file:
            done = subprocess.run(  # noqa: S603
                command(*words), stdin=file, capture_output=True, check=False, env=environment()
            )
        return Run(done.returncode, done.stdout.decode(), done.stderr.decode())

    with path.open("w") as writer:
        writer.write(f"{CSV_HEADER}{csv_line(1, 5)}\n{csv_line(2, 12)}")
        writer.flush()
        early = imported()
        writer.write("34\n")
    late = imported()

    assert (1, ["Recorded", "Rejected"]) == (early.code, early.statuses)
    assert "usage.csv:3: expected a whole line, got one that is still being written" in (
        early.err.replace("-:3", "usage.csv:3")
    )
    assert (0, ["Repeated", "Recorded"]) == (late.code, late.statuses)
    assert 1239 == sum(one["quantity"] for one in shell("ledger", "history", url).lines)


def test_an_honest_last_line_without_an_end_is_taken(shell: Shell, tmp_path: Path) -> None:
    """
    Most that is written by hand; and of JSON, whose braces tell, while it is written as well.
    """
    path, objects = tmp_path / "usage.csv", tmp_path / "usage.jsonl"
    path.write_text(CSV_HEADER + csv_line(1, 5))
    with objects.open("w") as writer:
        writer.write(line(2))
        writer.flush()
        done = shell("validate", path, objects, "--product-code", "p")

    assert ["Valid", "Valid"] == done.statuses


def test_what_is_written_while_the_last_line_is_read_is_read_as_well(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """
    By a writer that was gone when somebody asked for one.
    """
    path = tmp_path / "usage.csv"
    path.write_text(f"{CSV_HEADER}{csv_line(1, 12)}")

    def ended_just_now(_: int) -> bool:
        with path.open("a") as writer:
            writer.write("34\n")
        return False

    monkeypatch.setattr(lines, "is_being_written", ended_just_now)
    ((found,),) = lines.Source(str(path), 1).blocks(pytest.fail)

    assert isinstance(found.record, UsageRecord)
    assert 1234 == found.record.quantity


@pytest.mark.parametrize("names", [["usage.jsonl", "-"], ["-", "/dev/stdin"]])
def test_a_file_is_not_read_as_standard_input_besides(
    sandbox: Sandbox, tmp_path: Path, names: list[str]
) -> None:
    """
    `send --coalesce usage.jsonl - < usage.jsonl` would bill each line twice.
    """
    file = tmp_path / "usage.jsonl"
    file.write_text(line(1))

    with file.open("rb") as stdin:
        done = subprocess.run(  # noqa: S603
            command("send", "--coalesce", *target(sandbox), *names),
            stdin=stdin,
            capture_output=True,
            check=False,
            cwd=tmp_path,
            env=environment(),
        )

    assert (2, 0) == (done.returncode, len(sandbox.book))
    assert f"{names[1]}: is the same file as {names[0]}".encode() in done.stderr


@pytest.mark.parametrize("name", ["usage.jsonl", "-"])
def test_the_results_do_not_go_to_what_is_read(sandbox: Sandbox, tmp_path: Path, name: str) -> None:
    """
    `send usage.jsonl >> usage.jsonl` would read its own results, and write on without an end.
    """
    file = tmp_path / "usage.jsonl"
    file.write_text(line(1))

    with file.open("rb") as stdin, file.open("ab") as stdout:
        done = subprocess.run(  # noqa: S603
            command("send", *target(sandbox), name),
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            check=False,
            cwd=tmp_path,
            env=environment(),
            timeout=20,
        )

    assert (2, 0) == (done.returncode, len(sandbox.book))
    assert f"{name}: the results go there, too".encode() in done.stderr
    assert line(1) == file.read_text()
