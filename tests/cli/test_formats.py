"""One line of input: read strictly, or refused with what is wrong; nothing is half-read."""

import csv
import gzip
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from attrs import asdict
from hypothesis import given
from hypothesis import strategies as st

from marketplace_metering_async.cli.input import formats
from marketplace_metering_async.cli.input import lines as input_lines
from marketplace_metering_async.cli.input.formats import (
    UsageFileError,
    csv_rows,
    format_of,
    parse_json,
    worded,
)
from marketplace_metering_async.cli.input.lines import Line, Source, sources_of
from marketplace_metering_async.errors import InvalidRecordError
from marketplace_metering_async.records import UsageRecord

STAMP = "2026-11-23T10:00:00Z"
HEADER = b"timestamp,dimension,quantity,customer_aws_account_id"
ROW = b"2026-11-23T10:00:00Z,requests,5,000000000001"
JSON = (
    b'{"timestamp":"2026-11-23T10:00:00Z","dimension":"requests","quantity":5,'
    b'"customer_aws_account_id":"000000000001"}'
)


def lines_of(folder: Path, data: bytes, name: str = "usage") -> list[Line]:
    """Every line of a file with this content."""
    file = folder / name
    file.write_bytes(data)
    (source,) = sources_of([str(file)])
    return [line for block in source.blocks(print) for line in block]


def refusal(line: Line) -> str:
    assert isinstance(line.record, InvalidRecordError), line
    return worded(line.record)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("no json", "expected a JSON object, got no JSON (Expecting value, column 1)"),
        ('{"a": 1', "expected a JSON object, got no JSON"),
        ("[]", "expected a JSON object, got a list"),
        ("7", "expected a JSON object, got a int"),
        ('{"quantity": 1, "quantity": 2}', "the member quantity twice"),
        ('{"quantity": 1, "Quantity": 1}', "the member Quantity twice"),
        ('{"quantity": NaN}', "NaN, which is no JSON"),
        ('{"quantity": -Infinity}', "-Infinity, which is no JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"quantity": ' + "9" * 5000 + "}", "expected a strict JSON object"),
        ('{"quantity": 1}}', "Extra data"),
    ],
)
def test_what_is_no_strict_json_is_refused(text: str, says: str) -> None:
    """
    With what is wrong, in bounded time. Covers: V10
    """
    with pytest.raises(InvalidRecordError) as caught:
        parse_json(text.encode())

    assert says in worded(caught.value)


def test_bytes_that_are_no_utf8_are_refused() -> None:
    """
    Nothing is replaced or guessed.
    """
    for parse, raw in [(parse_json, b'{"a": "\xff"}'), (csv_rows("f:1", HEADER), b"\xff,a,1,2")]:
        with pytest.raises(InvalidRecordError, match="expected UTF-8, got other bytes"):
            parse(raw)


def test_members_have_boto3s_names_or_ours() -> None:
    """
    Inside allocations and tags as well.
    """
    ours = {
        "timestamp": STAMP,
        "dimension": "d",
        "quantity": 3,
        "customer_aws_account_id": "1",
        "product_code": "p",
        "usage_allocations": [
            {"allocated_usage_quantity": 3, "tags": [{"key": "team", "value": "red"}]}
        ],
    }
    theirs = {
        "Timestamp": 1795428000,
        "Dimension": "d",
        "Quantity": 3,
        "CustomerAWSAccountId": "1",
        "ProductCode": "p",
        "UsageAllocations": [
            {"AllocatedUsageQuantity": 3, "Tags": [{"Key": "team", "Value": "red"}]}
        ],
    }

    one, other = (
        UsageRecord.from_boto(parse_json(json.dumps(members).encode()))
        for members in (ours, theirs)
    )

    assert one == other


@pytest.mark.parametrize(
    ("name", "first", "is_header"),
    [
        ("-", JSON, False),
        ("-", b"  " + JSON, False),
        ("-", HEADER, True),
        ("-", b'"timestamp";"dimension"', True),
        ("usage.jsonl.gz", HEADER, False),
        ("usage.tsv", b"a\tb", True),
        ("-", b"no json", False),
        ("usage.csv", b"a,b,c", True),
        ("usage.CSV", b"a,b,c", True),
        ("usage.jsonl", HEADER, False),
        ("usage.ndjson", b"no json", False),
        ("-", b"quantity, foo", True),
    ],
)
def test_the_format_is_told_by_name_or_first_line(
    name: str, first: bytes, *, is_header: bool
) -> None:
    """
    A known column makes a header; any other line without a brace is a broken line of JSON.
    """
    assert is_header is (format_of(name, first) is None)


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (b"timestamp,dimension,quantity,quantitiy", "'quantitiy'; call it quantity?"),
        (b"timestamp;dimension;quantity;licensearn", "unknown column 'licensearn'; call it "),
        (b"timestamp,dimension,colour", "names its columns: timestamp, dimension"),
        (b"timestamp,dimension,quantity,Quantity", "column quantity stands twice"),
        (b"timestamp\rdimension\rquantity", "newline, got a carriage return inside of one"),
        (b"timestamp,dimension", "no column quantity"),
        (b'timestamp,"dimension', "expected a CSV row on one line"),
        (b"timestamp\0", "a NUL character"),
    ],
)
def test_a_wrong_header_is_told(header: bytes, says: str) -> None:
    """
    Before a single row is read. Covers: V09
    """
    with pytest.raises(UsageFileError) as caught:
        csv_rows("usage.csv:1", header)

    assert str(caught.value).startswith("usage.csv:1: ")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (b"2026-11-23T10:00:00Z,d,5", "expected 4 cells, got 3"),
        (b"2026-11-23T10:00:00Z,d,5,1,9", "expected 4 cells, got 5"),
        (b'2026-11-23T10:00:00Z,d,"5,1', "expected a CSV row on one line"),
        (b'2026-11-23T10:00:00Z,"d"x,5,1', "expected a CSV row on one line"),
        (b"2026-11-23T10:00:00Z,d\0,5,1", "a NUL character"),
        (b"2026-11-23T10:00:00Z,d\r,5,1", "expected lines that end with a newline, got a carriage"),
        (b"2026-11-23T10:00:00Z,d,1_000,1", "quantity: expected digits without leading zeros"),
        (b"2026-11-23T10:00:00Z,d, 5,1", "quantity: expected digits without leading zeros"),
        ("2026-11-23T10:00:00Z,d,\uff15,1".encode(), "quantity: expected digits"),
        (b"2026-11-23T10:00:00Z,d,1e3,1", "quantity: expected digits without leading zeros"),
        (b"2026-11-23T10:00:00Z,d,+5,1", "quantity: expected digits without leading zeros"),
        (b"2026-11-23T10:00:00Z,d,017,1", "quantity: expected digits without leading zeros"),
        (b"2026-11-23T10:00:00Z,d,NaN,1", "quantity: expected digits without leading zeros"),
        (b'2026-11-23T10:00:00Z,d,"1,5",1', "and at most one point, as \"17.42\", got '1,5'"),
        (b"2026-11-23T10:00:00Z,d,0.1234567,1", "quantity: expected at most 6 decimal places"),
        (b"2026-11-23T10:00:00Z,d,-5,1", "quantity: expected 0 to 9999999999.999999, got '-5'"),
        (b"2026-11-23T10:00:00Z,d,10000000000,1", "got '10000000000'"),
        (b"2026-11-23T10:00:00Z,d," + b"9" * 5000 + b",1", "quantity: expected digits"),
        (b"2026-11-23T10:00:00Z,d," + b"0" * 30 + b"5,1", "quantity: expected digits"),
        (b"2026-11-23T10:00:00Z,d,,1", "quantity: expected an exact number"),
        (b"2026-11-23 10:00,d,5,1", "timestamp: expected a time with a time zone"),
        (b"9" * 5000 + b",d,5,1", "timestamp: expected an ISO 8601 time"),
        (b"0" * 20 + b"1795428000,d,5,1", "timestamp: expected an ISO 8601 time"),
        (b"1795428000000,d,5,1", "timestamp: expected an ISO 8601 time"),
        (b"0001-01-01T00:00:00+01:00,d,5,1", "timestamp: expected a time that UTC can express"),
        (b"9999-12-31T23:59:59-05:00,d,5,1", "timestamp: expected a time that UTC can express"),
        (
            "2026-11-23T10:00:00Z,d,5,\u0661".encode(),
            "customer_aws_account_id: expected the digits",
        ),
        (b"2026-11-23T10:00:00Z," + b"d" * 140_000 + b",5,1", "dimension: expected 1 to 255"),
    ],
)
def test_a_wrong_row_is_told_and_read_no_further(row: bytes, says: str) -> None:
    """
    What int() and csv take for a number or a row is not what people meant. Covers: V09, H08, H11
    """
    with pytest.raises(InvalidRecordError) as caught:
        UsageRecord.from_boto(csv_rows("f:1", HEADER)(row))

    assert says in worded(caught.value)


@pytest.mark.parametrize(
    ("written", "exact"),
    [
        ("5", "5"),
        ("3.0", "3"),
        ("0.1", "0.1"),
        ("0.30", "0.3"),
        ("2147483648", "2147483648"),
        ("9999999999.999999", "9999999999.999999"),
        ("1e3", "1000"),
        ('"0.1"', "0.1"),
        ('"3.0"', "3"),
    ],
)
@pytest.mark.parametrize("name", ["quantity", "Quantity", "QuantityAsDecimal"])
def test_a_number_is_read_by_its_digits(written: str, exact: str, name: str) -> None:
    """
    Never through a float, in JSON and in CSV, under either member; a text has no exponent.
    """
    members = json.loads(JSON)
    members.pop("quantity")
    text = json.dumps({**members, name: "HERE"}).replace('"HERE"', written)
    record = UsageRecord.from_boto(parse_json(text.encode()))

    assert exact == str(record.quantity)
    if written != "1e3":
        rows = csv_rows("f:1", HEADER.replace(b"quantity", name.encode()))
        cell = written.strip('"').encode()
        assert record == UsageRecord.from_boto(rows(ROW.replace(b",5,", b"," + cell + b",")))


def said_by(line: bytes) -> UsageRecord | InvalidRecordError:
    """Return what a line of JSON says, as a ledger reads it."""
    source = Source("u.jsonl", None, for_ledger=True)
    return source._line(1, len(line), input_lines._members_of(parse_json, line)).record


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ('"1e3"', "expected digits without leading zeros"),
        ('"1,5"', "expected digits without leading zeros and at most one point"),
        ('"017"', "expected digits without leading zeros"),
        ('" 5"', "expected digits without leading zeros"),
        ('""', "expected digits without leading zeros"),
        ('"NaN"', "expected digits without leading zeros"),
        ("-1", "expected 0 to 9999999999.999999, got -1"),
        ("-0.5", "expected 0 to 9999999999.999999, got -0.5"),
        ("0.1234567", "expected at most 6 decimal places, got 0.1234567"),
        ("1e-999999999", "expected at most 6 decimal places"),
        ("1e999999999", "expected 0 to 9999999999.999999"),
        ("1e9999999999999999999999", "a number beyond all bounds"),
        ("true", "expected an exact number, as 17 or"),
        ("null", "expected an exact number"),
    ],
)
def test_a_number_that_cannot_be_sent_is_told(written: str, says: str) -> None:
    """
    With what it should be, and nothing is rounded.
    """
    line = JSON.replace(b'"quantity":5', b'"quantity":' + written.encode())

    record = said_by(line)

    assert isinstance(record, InvalidRecordError)
    assert says in worded(record)


def test_both_columns_of_a_quantity_may_stand_where_rows_fill_one() -> None:
    """
    A row that fills both is refused; so is a header with neither.
    """
    parse = csv_rows("f:1", HEADER + b",quantity_as_decimal")

    records = [
        UsageRecord.from_boto(parse(b"2026-11-23T10:00:00Z,d," + cells))
        for cells in (b"5,1,", b",1,5.5")
    ]

    assert ["5", "5.5"] == [str(record.quantity) for record in records]
    with pytest.raises(InvalidRecordError, match="Quantity or QuantityAsDecimal, got both"):
        UsageRecord.from_boto(parse(b"2026-11-23T10:00:00Z,d,5,1,5.0"))


def test_csv_takes_what_json_takes() -> None:
    """
    Seconds since 1970, quotes, other orders of columns, allocations as JSON; empty is absent.
    """
    header = b"Quantity,CustomerIdentifier,ProductCode,Timestamp,Dimension,usage_allocations"
    row = b'3,,p,1795428000,"a ""b"", c","[{""allocated_usage_quantity"": 3}]"'
    members = csv_rows("f:1", header)(row)

    assert "CustomerIdentifier" not in members
    record = UsageRecord.from_boto({**members, "CustomerAWSAccountId": "1"})
    assert (3, 'a "b", c', 1795428000) == (record.quantity, record.dimension, record.epoch)
    assert 3 == record.usage_allocations[0].allocated_usage_quantity


def test_a_cell_may_be_as_large_as_a_member() -> None:
    """
    As the 2,500 allocations of a record are: what JSON takes, CSV takes.
    """
    row = next(csv.reader([(HEADER + b",usage_allocations").decode()]))
    many = json.dumps([{"allocated_usage_quantity": 1, "tags": []}] * 5_000)
    cells = [*ROW.decode().split(","), '"' + many.replace('"', '""') + '"']

    members = csv_rows("f:1", ",".join(row).encode())(",".join(cells).encode())

    assert 5_000 == len(members["UsageAllocations"])


def test_allocations_that_are_no_json_are_refused() -> None:
    """
    With the name of the column, and whose they are can be read all the same.
    """
    members = csv_rows("f:1", HEADER + b",usage_allocations")(ROW + b",[{]")

    with pytest.raises(InvalidRecordError, match="usage_allocations: expected a list"):
        UsageRecord.from_boto(members)


def test_lines_are_cut_at_newlines_alone(tmp_path: Path) -> None:
    """
    Characters that other tools take for line ends stay inside a text. Covers: V10
    """
    inside = "a\u2028b\u0085c"
    text = JSON.decode().replace("requests", inside)
    rows = [HEADER, ROW.replace(b"requests", (inside + "\u001cd").encode())]

    line, other = lines_of(tmp_path, f"{text}\r\n\n  \n{text}".encode())
    (row,) = lines_of(tmp_path, b"\n".join(rows))

    assert isinstance(line.record, UsageRecord)
    assert isinstance(row.record, UsageRecord)
    assert inside == line.record.dimension
    assert inside + "\u001cd" == row.record.dimension
    assert [1, 4] == [line.number, other.number]


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n"])
def test_the_last_line_needs_no_end(tmp_path: Path, end: bytes) -> None:
    """
    A file ends as it likes.
    """
    lines = lines_of(tmp_path, JSON + b"\n" + JSON + end)

    assert [True, True] == [isinstance(line.record, UsageRecord) for line in lines]


def test_a_torn_last_line_is_told(tmp_path: Path) -> None:
    """
    As of a file that is still being written.
    """
    *_, last = lines_of(tmp_path, JSON + b"\n" + JSON[:40])

    assert 2 == last.number
    assert "no JSON" in refusal(last)


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    """
    At the beginning of CSV and of JSON lines. Covers: V09
    """
    for data in (HEADER + b"\n" + ROW, JSON):
        (line,) = lines_of(tmp_path, b"\xef\xbb\xbf" + data)
        assert isinstance(line.record, UsageRecord)


def test_an_unclosed_quote_swallows_no_rows(tmp_path: Path) -> None:
    """
    The row is refused, and the ones below are read. Covers: V09
    """
    torn = ROW.replace(b"requests", b'"requests')

    first, second, third = lines_of(tmp_path, b"\n".join([HEADER, ROW, torn, ROW]))

    assert isinstance(first.record, UsageRecord)
    assert "expected a CSV row on one line" in refusal(second)
    assert isinstance(third.record, UsageRecord)
    assert [2, 3, 4] == [first.number, second.number, third.number]


def test_an_endless_line_is_refused_in_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Its number is told, and the line after it is read.
    """
    monkeypatch.setattr(input_lines, "_LONGEST_LINE", 200_000)

    long, short = lines_of(tmp_path, b'{"a": "' + b"x" * 1_000_000 + b'"}\n' + JSON)

    assert "expected at most 200000 bytes, got a longer line" == refusal(long)
    assert isinstance(short.record, UsageRecord)


@pytest.mark.parametrize("data", [b"", b"\n\n", b" \r\n", HEADER, HEADER + b"\n\n"])
def test_no_lines_are_no_error(tmp_path: Path, data: bytes) -> None:
    """
    An empty file says nothing. Covers: V11
    """
    assert [] == lines_of(tmp_path, data)


def test_files_are_looked_at_before_anything_is_done(tmp_path: Path) -> None:
    """
    A missing one, a folder, or a wrong header ends it while nothing is sent.
    """
    good = tmp_path / "good.csv"
    good.write_bytes(HEADER)
    bad = tmp_path / "bad.csv"
    bad.write_bytes(b"timestamp,colour")

    for name, says in [
        (str(tmp_path / "none"), "No such file"),
        (str(tmp_path), "is a directory"),
        (str(bad), "bad.csv:1: no column dimension, quantity"),
    ]:
        with pytest.raises(UsageFileError) as caught:
            sources_of([str(good), name])
        assert says in str(caught.value)


def test_standard_input_is_read_once(tmp_path: Path) -> None:
    """
    It cannot be wound back.
    """
    with pytest.raises(UsageFileError, match="read only once"):
        sources_of(["-", "-"])


@pytest.mark.parametrize("other", ["usage.jsonl", "./usage.jsonl", "latest.jsonl", "hard.jsonl"])
def test_a_file_is_read_once_whatever_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    """
    `logs/*.jsonl` with a link to the latest of them would bill that twice.
    """
    monkeypatch.chdir(tmp_path)
    file = Path("usage.jsonl")
    file.write_bytes(JSON)
    Path("latest.jsonl").symlink_to(file)
    Path("hard.jsonl").hardlink_to(file)

    with pytest.raises(UsageFileError, match=f"^{other}: is the same file as usage.jsonl"):
        sources_of(["usage.jsonl", "/dev/null", "/dev/null", other])


@pytest.mark.parametrize("names", [["usage.jsonl", "usage.jsonl.gz"], ["a/u.gz", "a/../a/u"]])
def test_nor_with_what_it_was_compressed_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    """
    `gzip --keep` leaves both, and `usage*` names both. Another folder has other files.
    """
    monkeypatch.chdir(tmp_path)
    for place in (*names, "b/u.gz"):
        Path(place).parent.mkdir(exist_ok=True)
        Path(place).write_bytes(gzip.compress(JSON) if place.endswith(".gz") else JSON)

    with pytest.raises(UsageFileError, match=f"^{names[1]}: is {names[0]} with or without .gz"):
        sources_of(names)
    assert 2 == len(sources_of([names[0], "b/u.gz"]))


@given(st.binary(max_size=400), st.sampled_from(["-", "f.csv", "f.jsonl"]))
def test_no_bytes_break_the_parsers(line: bytes, name: str) -> None:
    """
    Each line is a mapping, or refused with a reason.
    """
    for parse in (parse_json, csv_rows("f:1", HEADER), format_of(name, line) or parse_json):
        with suppress(InvalidRecordError):
            assert isinstance(parse(line), dict)


WRONG: list[Any] = [
    *(None, True, -1, 1.5, 0.1234567, 2**31, 10**30, 1e300, [], {}, [[1]], [{"a": 1}]),
    *("", "7", "\ud800", "[/]", STAMP, "2026-11-23T10:00"),
    *("0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-05:00"),  # in UTC of no year
]


@given(
    st.dictionaries(st.sampled_from([*formats._NAMES, "Quantity", "other"]), st.sampled_from(WRONG))
)
def test_no_members_break_the_reading(members: dict[str, Any]) -> None:
    """
    Whatever stands for a member, a line is a record, or refused with a reason. Newcomer M9.
    """
    record = said_by(json.dumps(members).encode())

    assert isinstance(record, UsageRecord | InvalidRecordError)


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"), max_size=20)


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "timestamp": st.just(STAMP),
                "dimension": cells.filter(bool),
                "quantity": st.integers(0, 2**31 - 1)
                | st.decimals(0, 10**10 - 1, places=6).map("{:f}".format),
                "customer_identifier": cells.filter(bool),
            }
        ),
        min_size=1,
        max_size=8,
    )
)
def test_csv_and_json_say_the_same(tmp_path_factory: Any, rows: list[dict[str, Any]]) -> None:
    """
    Whatever is in a cell comes out as it went in.
    """
    folder = tmp_path_factory.mktemp("round")
    names = list(rows[0])
    quoted = [",".join('"' + str(row[n]).replace('"', '""') + '"' for n in names) for row in rows]

    from_csv = lines_of(folder, "\n".join([",".join(names), *quoted]).encode(), "a.csv")
    from_json = lines_of(folder, "\n".join(json.dumps(row) for row in rows).encode(), "a.jsonl")

    assert len(rows) == len(from_json)
    for one, other in zip(from_csv, from_json, strict=True):
        assert isinstance(one.record, UsageRecord)
        assert isinstance(other.record, UsageRecord)
        assert asdict(one.record) == asdict(other.record)
