"""Files as people and exporters get them wrong: each is named with its place and the next step."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from support.commands import HOUR, Shell

from marketplace_metering_async.cli.exit_codes import Exit
from marketplace_metering_async.sandbox import Sandbox

HEADER = "timestamp,dimension,quantity,customer_aws_account_id"
GOOD: dict[str, Any] = {
    "timestamp": HOUR.isoformat(),
    "dimension": "d",
    "quantity": 5,
    "customer_aws_account_id": "111122223333",
}
AT = GOOD["timestamp"]
ROW = f"{AT},d,5,111122223333"
BOTO = "Timestamp,Dimension,Quantity,CustomerAWSAccountId"
ALLOCATIONS = f"{HEADER},usage_allocations"


def record(**changes: Any) -> str:
    return json.dumps({name: value for name, value in (GOOD | changes).items() if value != "none"})


def table(*rows: str, header: str = HEADER) -> str:
    return "\n".join([header, *rows])


OK, REFUSED, MISUSE = Exit.OK, Exit.REJECTED, Exit.USAGE
ISO = "an ISO 8601 time with a time zone, or whole seconds since 1970"
ZONE = "a time with a time zone, as 2026-11-28T09:00:00+00:00"
DIGITS = "digits without leading zeros and at most one point"
NAMES = "names its columns: timestamp"

# Name, content, exit code, and what is said, which is what to look at or to do.
AUDITED: list[tuple[str, str | bytes | None, Exit, str]] = [
    ("missing.jsonl", None, MISUSE, "No such file or directory"),
    ("badjson.jsonl", f'{record()}\n{{"timestamp": "2\n{record()}', REFUSED, "badjson.jsonl:2: "),
    ("array.json", json.dumps([GOOD, GOOD | {"dimension": "e"}], indent=2), OK, ""),
    ("boto.json", json.dumps({"UsageRecords": [GOOD]}), OK, ""),
    ("unknown.jsonl", record(customer="x"), REFUSED, "customer: expected one of Timestamp"),
    ("typo.jsonl", record(quantity="none", quantitiy=5), REFUSED, "quantitiy: expected one of"),
    ("negative.jsonl", record(quantity=-1), REFUSED, "expected 0 to 9999999999"),
    ("float.jsonl", record(quantity=1.5), OK, ""),
    ("floatint.jsonl", record(quantity=3.0), OK, ""),
    ("qstr.jsonl", record(quantity="7"), OK, ""),
    ("qhuge.jsonl", record(quantity=10**10), REFUSED, "expected 0 to 9999999999"),
    ("naive.jsonl", record(timestamp="2026-11-28T02:00:00"), REFUSED, ZONE),
    ("dateonly.jsonl", record(timestamp="2026-11-28"), REFUSED, ZONE),
    ("usdate.jsonl", record(timestamp="11/28/2026 02:00"), REFUSED, ISO),
    ("epoch.jsonl", record(timestamp=int(HOUR.timestamp())), OK, ""),
    ("epochms.jsonl", record(timestamp=int(HOUR.timestamp()) * 1000), REFUSED, ISO),
    ("old.jsonl", record(timestamp="2020-11-20T02:00:00Z"), REFUSED, "expected a time from 20"),
    ("future.jsonl", record(timestamp="2099-11-28T02:00:00Z"), REFUSED, "expected a time by 20"),
    ("offset.jsonl", record(timestamp=HOUR.isoformat().replace("+00:00", "-00:00")), OK, ""),
    ("intacc.jsonl", record(customer_aws_account_id=111122223333), REFUSED, "text of the digits"),
    ("shortacc.jsonl", record(customer_aws_account_id="12345678901"), OK, "leading zero lost?"),
    ("noacc.jsonl", record(customer_aws_account_id="none"), REFUSED, "an account id, or a"),
    ("dash.jsonl", record(customer_aws_account_id="1111-2222-3333"), REFUSED, "digits of an"),
    ("empty.jsonl", "", OK, "there is no usage in it"),
    ("blank.jsonl", "\n\n \n", OK, "there is no usage in it"),
    ("bom.jsonl", "\ufeff" + record(), OK, ""),
    ("crlf.jsonl", f"{record()}\r\n{record(dimension='e')}\r\n", OK, ""),
    ("nonl.jsonl", record(), OK, ""),
    ("utf16.jsonl", record().encode("utf-16"), MISUSE, "UTF-16; make it JSON lines or CSV"),
    ("latin1.jsonl", record(dimension="é").encode().replace(b"\\u00e9", b"\xe9"), REFUSED, "UTF-8"),
    ("binary.jsonl", bytes(range(256)), REFUSED, "binary.jsonl:1: expected"),
    ("x.jsonl.gz", gzip.compress(record().encode()), OK, ""),
    ("p.parquet", b"PAR1\x15\x04", MISUSE, "a Parquet file; make it JSON lines or CSV in UTF-8"),
    ("good.csv", table(ROW), OK, ""),
    ("nohdr.csv", ROW, MISUSE, NAMES),
    ("semi.csv", table(f"{AT};d;5;111122223333", header=HEADER.replace(",", ";")), OK, ""),
    ("tab.tsv", table(f"{AT}\td\t5\t111122223333", header=HEADER.replace(",", "\t")), OK, ""),
    ("hdronly.csv", HEADER, OK, "there is no usage in it"),
    ("short.csv", table(f"{AT},d"), REFUSED, "short.csv:2: expected 4 cells, got 2"),
    ("long.csv", table(f"{AT},d,5,1,9"), REFUSED, "long.csv:2: expected 4 cells, got 5"),
    ("quote.csv", table(f'{AT},"d,5,111122223333'), REFUSED, "a CSV row on one line"),
    ("emptycell.csv", table(f"{AT},d,,111122223333"), REFUSED, "an exact number"),
    ("bomcrlf.csv", "\ufeff" + table(ROW).replace("\n", "\r\n"), OK, ""),
    ("excel.csv", table(f"{AT},d,5,1.11122E+11"), REFUSED, "digits of an"),
    ("caps.csv", table(ROW, header=BOTO), OK, ""),
    ("thousand.csv", table(f'{AT},d,"1,234",111122223333'), REFUSED, DIGITS),
    ("prod.csv", table(f"{ROW},x", header=f"{HEADER},note"), OK, "not read: note"),
    ("longline.jsonl", record(dimension="d" * 3_000_000), REFUSED, "expected 1 to 255 characters"),
    ("nest.jsonl", "[" * 500_000, REFUSED, "nested too deeply"),
    ("dupkeys.jsonl", record()[:-1] + ', "quantity": 6}', REFUSED, "the member quantity twice"),
    ("nan.jsonl", record().replace("5", "NaN", 1), REFUSED, "expected"),
    ("true.jsonl", record(quantity=True), REFUSED, 'an exact number, as 17 or "17.42"'),
    ("nulls.jsonl", record(license_arn=None, product_code=None), OK, ""),
    ("noext", record(), OK, ""),
]  # fmt: skip
OWN: list[tuple[str, str | bytes | None, Exit, str]] = [
    (".", None, MISUSE, "is a directory"),
    ("sheet.xlsx", b"PK\x03\x04\x14", MISUSE, "an Excel or ZIP file; make it"),
    ("sheet.xls", b"\xd0\xcf\x11\xe0\xa1", MISUSE, "an Excel file; make it"),
    ("u.avro", b"Obj\x01\x04", MISUSE, "an Avro file; make it"),
    ("usage.db", b"SQLite format 3\0", MISUSE, "a SQLite database; make it"),
    ("u.jsonl.bz2", b"BZh91AY", MISUSE, "only gzip is known; make it"),
    ("u.jsonl.xz", b"\xfd7zXZ\0", MISUSE, "only gzip is known; make it"),
    ("u.jsonl.zst", b"\x28\xb5\x2f\xfd\x04", MISUSE, "only gzip is known; make it"),
    ("cut.jsonl.gz", gzip.compress(record().encode() * 99)[:-9], MISUSE, "copy the whole file"),
    ("bad.jsonl.gz", gzip.compress(b"{}")[:10] + b"\xff" * 99, MISUSE, "make the file anew"),
    ("utf16be.csv", table("").encode("utf-16-be"), MISUSE, "expected text, got a NUL"),
    ("bom16.csv", b"\xfe\xff\0t", MISUSE, "UTF-16; make it JSON lines or CSV"),
    ("nul.jsonl", record() + "\0", REFUSED, "nul.jsonl:1: expected a JSON object"),
    ("html.jsonl", "<html><body>Sign in</body></html>", REFUSED, "html.jsonl:1: expected a JSON"),
    ("log.jsonl", f"INFO starting\n{record()}", REFUSED, "log.jsonl:1: expected a JSON object"),
    ("two.jsonl", record() + record(), REFUSED, "Extra data, column"),
    ("comma.jsonl", record() + ",\n" + record(dimension="e"), REFUSED, "got no JSON"),
    ("single.jsonl", str(GOOD), REFUSED, "property name enclosed in double quotes"),
    ("pyrepr.jsonl", "UsageRecord(dimension='d')", REFUSED, "expected a JSON object"),
    ("string.jsonl", '"just text"', REFUSED, "expected a JSON object, got a str"),
    ("number.jsonl", "5", REFUSED, "expected a JSON object, got a int"),
    ("null.jsonl", "null", REFUSED, "expected a JSON object, got a NoneType"),
    ("emptyobj.jsonl", "{}", REFUSED, "timestamp: expected"),
    ("emptyarray.json", "[]", OK, "there is no usage in it"),
    ("emptyrequest.json", '{"UsageRecords": []}', OK, "there is no usage in it"),
    ("rows.json", json.dumps({"data": [GOOD]}), REFUSED, "data: expected one of Timestamp"),
    ("mixed.json", json.dumps([GOOD, 5]), REFUSED, "mixed.json:2: expected a JSON object"),
    ("comment.jsonl", f"# usage\n{record()}", REFUSED, "comment.jsonl:1: expected a JSON object"),
    ("infinity.jsonl", record().replace("5", "Infinity", 1), REFUSED, "expected"),
    ("exponent.jsonl", record().replace(" 5", " 5e0"), OK, ""),
    ("longexp.jsonl", record().replace(" 5", " 5e99999999999999999999"), REFUSED, "expected"),
    ("places.jsonl", record(quantity="0.1234567"), REFUSED, "at most 6 decimal places"),
    ("germandecimal.jsonl", record(quantity="1,5"), REFUSED, DIGITS),
    ("underscore.jsonl", record(quantity="1_000"), REFUSED, DIGITS),
    ("blankq.jsonl", record(quantity=" 5"), REFUSED, DIGITS),
    ("zeros.jsonl", record(quantity="007"), REFUSED, DIGITS),
    ("minuszero.jsonl", record(quantity="-0"), REFUSED, "quantity: expected"),
    ("money.jsonl", record(quantity="$5"), REFUSED, DIGITS),
    ("list.jsonl", record(quantity=[5]), REFUSED, "an exact number"),
    ("nullq.jsonl", record(quantity=None), REFUSED, "an exact number"),
    ("both.jsonl", record(quantity_as_decimal="5"), REFUSED, "quantity"),
    ("nodim.jsonl", record(dimension="none"), REFUSED, "dimension: expected text of 1 to 255"),
    ("emptydim.jsonl", record(dimension=""), REFUSED, "dimension: expected 1 to 255 characters"),
    ("dimlist.jsonl", record(dimension=["d"]), REFUSED, "dimension: expected text"),
    ("surrogate.jsonl", record().replace('"d"', '"\\ud800"'), REFUSED, "that UTF-8 can carry"),
    ("emptyacc.jsonl", record(customer_aws_account_id=""), REFUSED, "customer_aws_account_id"),
    ("blankacc.jsonl", record(customer_aws_account_id=" 111122223333"), REFUSED, "digits of an"),
    ("arnacc.jsonl", record(customer_aws_account_id="arn:aws:iam::1:root"), REFUSED, "digits of"),
    ("twoids.jsonl", record(customer_identifier="c"), REFUSED, "expected one customer id"),
    ("badarn.jsonl", record(license_arn="license-1"), REFUSED, "the ARN of a license"),
    ("baresproduct.jsonl", record(product_code="my product!"), REFUSED, "letters, digits or"),
    ("notime.jsonl", record(timestamp="none"), REFUSED, "timestamp: expected"),
    ("now.jsonl", record(timestamp="now"), REFUSED, ISO),
    ("halfsecond.jsonl", record(timestamp=HOUR.timestamp() + 0.5), REFUSED, ZONE),
    ("feb30.jsonl", record(timestamp="2026-02-30T00:00:00Z"), REFUSED, ISO),
    ("zone.jsonl", record(timestamp="2026-11-28T02:00:00 CET"), REFUSED, ISO),
    ("edge.jsonl", record(timestamp="0001-01-01T00:00:00+01:00"), REFUSED, "UTC can express"),
    ("conflict.jsonl", f"{record()}\n{record(quantity=6)}", REFUSED, "have one key"),
    ("scheme.csv", table("x", header="Timestamp,timestamp,dimension,quantity"), MISUSE, "keep one"),
    ("nocol.csv", table("x", header="timestamp,dimension"), MISUSE, NAMES),
    ("misspelt.csv", table("x", header=f"{HEADER},licence_arn"), MISUSE, "call it license_arn?"),
    ("spaced.csv", table("x", header="time stamp,dimension,quantity"), MISUSE, "call it time"),
    ("alloc.csv", table(f"{ROW},team=red", header=ALLOCATIONS), REFUSED, "usage_allocations"),
    ("newline.csv", table(f'{AT},"d\ne",5,111122223333'), REFUSED, "a CSV row on one line"),
    ("formula.csv", table(f"{AT},d,=1+1,111122223333"), REFUSED, DIGITS),
    ("percent.csv", table(f"{AT},d,5%,111122223333"), REFUSED, DIGITS),
    ("pipe.csv", table(f"{AT}|d|5|1", header=HEADER.replace(",", "|")), MISUSE, NAMES),
]  # fmt: skip


@pytest.mark.parametrize("case", AUDITED + OWN, ids=lambda case: case[0])
def test_wrong_input_is_named_with_the_next_step(
    shell: Shell,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    case: tuple[str, str | bytes | None, Exit, str],
) -> None:
    """
    No traceback (the shell looks), few words of which each line has its place, and an advice.
    """
    name, content, code, says = case
    monkeypatch.chdir(tmp_path)
    if content is not None:
        data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
        Path(name).write_bytes(data)

    done = shell("validate", "--product-code", "my-product", name)

    assert code == done.code, done.err
    assert says in done.err
    refused = [line for line in done.lines if line["status"] == "Rejected"]
    assert bool(refused) is (code is REFUSED)
    for line in refused:
        assert line["message"].startswith(f"{name}:{line['line']}: ")
        assert line["advice"].endswith(".")
        assert len(line["message"]) < 800
    assert len(done.err.splitlines()) < 40
    assert "Python" not in done.err
    if code is REFUSED:
        assert "Fix the lines that are named above" in done.err


def test_the_rest_of_a_row_is_no_row(shell: Shell) -> None:
    """
    A text that goes on over two lines is named by both: by its second half, the usage would be
    billed as another dimension.
    """
    rest = f"111122223333,{AT},5"
    rows = ["dimension,customer_aws_account_id,timestamp,quantity"]
    rows += [f"{dimension},{rest}" for dimension in ('"re\nquests"', "seats", '"a ""b"""')]
    rows.append(f'seats {rest}"')

    done = shell("validate", "--product-code", "p", "-", stdin="\n".join(rows))

    verdicts = ["Rejected", "Rejected", "Valid", "Valid", "Rejected"]
    assert (1, verdicts) == (done.code, done.statuses)
    assert all(f"-:{number}: expected a CSV row on one line" in done.err for number in (2, 3, 6))


@pytest.mark.parametrize("option", ["--endpoint-url", "--region", "--profile"])
@pytest.mark.parametrize("command", [["send", "-"], ["doctor"], ["meter", "--quantity", 1]])
def test_an_empty_text_is_not_taken_for_none(
    command: list[object],
    option: str,
    shell: Shell,
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    `--endpoint-url "$SANDBOX"` without SANDBOX would send to AWS, where it is billed.
    """
    monkeypatch.setenv("AWS_ENDPOINT_URL_MARKETPLACE_METERING", sandbox.url)
    product = ["--product-code", "p"]
    rest = [*product, "--dimension", "d"] if command[0] == "meter" else product

    done = shell(*command, *rest, option, "", stdin=json.dumps(GOOD))

    assert 2 == done.code
    assert "expected a text, got none" in " ".join(done.err.split())
