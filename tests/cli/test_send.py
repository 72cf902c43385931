"""`send`, `validate` and their like against a real sandbox."""

import gzip
import json
import os
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.commands import HOUR, Shell, line, target

from marketplace_metering_async.cli.exit_codes import Exit
from marketplace_metering_async.cli.output import result_writer
from marketplace_metering_async.sandbox import Fault, FaultKind, Sandbox

METER = ["meter", "--product-code", "p", "--dimension", "d", "--quantity"]


def test_each_line_is_answered_in_order(sandbox: Sandbox, shell: Shell) -> None:
    """
    Malformed lines count as rejected, are named on stderr, and stop nothing. Covers: V09, V10, X10
    """
    given = [line(1), "no json", line(2), line(3, quantity=-1), "", line(4, Foo=1), line(5)]

    done = shell("send", *target(sandbox), "-", stdin="\n".join(given))

    assert 1 == done.code
    assert [1, 2, 3, 4, 6, 7] == [entry["line"] for entry in done.lines]
    words = ["Success", "Rejected", "Success", "Rejected", "Rejected", "Success"]
    assert words == done.statuses
    assert {"-"} == {entry["file"] for entry in done.lines}
    complaint = "-:4: quantity: expected 0 to 9999999999.999999, got -1"
    assert complaint == done.lines[3]["message"]
    assert complaint in done.err
    assert {"requests": 15} == sandbox.book.totals()


def test_a_result_line_says_what_the_service_said(sandbox: Sandbox, shell: Shell) -> None:
    """
    Ids for AWS Support, whether it is metered, and what to do if not.
    """
    sandbox.declare_product("prod", customers={"000000000001": True, "000000000002": False})

    done = shell("send", *target(sandbox), "-", stdin=f"{line(1)}\n{line(2)}")

    good, gone = done.lines
    assert [record.metering_record_id for record in sandbox.book.records] == [
        good.pop("metering_record_id")
    ]
    assert good.pop("request_id")
    common = {"file": "-", "attempts": 1}
    assert common | {"line": 1, "status": "Success", "metered": True} == good
    assert (2, "CustomerNotSubscribed", False) == (gone["line"], gone["status"], gone["metered"])
    assert "no subscription" in gone["advice"]
    assert 1 == done.code


def test_boto3s_names_and_csv_in_one_run(sandbox: Sandbox, shell: Shell, tmp_path: Path) -> None:
    """
    Several files of either format are one input, each line under its file's name.
    """
    boto = tmp_path / "boto.jsonl"
    record = {"Timestamp": f"{HOUR:%Y-%m-%dT%H:%M:%SZ}", "Dimension": "a", "Quantity": 1}
    boto.write_text(json.dumps(record | {"CustomerIdentifier": "c"}) + "\n")
    sheet = tmp_path / "sheet.csv"
    stamp = HOUR.isoformat()
    sheet.write_text(
        "timestamp,dimension,quantity,customer_aws_account_id\n"
        f'{stamp},b,2,"000000000001"\n{stamp},b,"3,000000000002\n{stamp},b,4,000000000003\n',
        encoding="utf-8",
    )

    done = shell("send", *target(sandbox), boto, sheet)

    assert 1 == done.code
    assert ["Success", "Success", "Rejected", "Success"] == done.statuses
    assert [(str(boto), 1), (str(sheet), 2), (str(sheet), 3), (str(sheet), 4)] == [
        (entry["file"], entry["line"]) for entry in done.lines
    ]
    assert {"a": 1, "b": 6} == sandbox.book.totals()


def test_no_usage_is_no_call(sandbox: Sandbox, shell: Shell) -> None:
    """
    Nothing to do is done well. Covers: V11
    """
    for options in ([], ["--coalesce"]):
        done = shell("send", *target(sandbox), *options, "-", stdin="")
        assert (0, "") == (done.code, done.out)
    assert 0 == sandbox.calls.total()


def test_conflicts_and_repeats_name_lines(sandbox: Sandbox, shell: Shell) -> None:
    """
    Positions in what the client was given mean nothing to whoever wrote the file.
    """
    given = ["x", line(1), line(2), line(1), line(2, quantity=9)]

    done = shell("send", *target(sandbox), "-", stdin="\n".join(given))

    assert ["Rejected", "Success", "Rejected", "Success", "Rejected"] == done.statuses
    assert "-:2" == done.lines[3]["duplicate_of"]
    assert "-:5: -:3, -:5 have one key" in done.lines[4]["message"]
    assert "--coalesce" in done.lines[4]["advice"]
    assert "records[" not in done.out


def test_a_rejection_by_the_rules_names_the_line(sandbox: Sandbox, shell: Shell) -> None:
    """
    Below zero, and without a product.
    """
    wrong = line(1, quantity=-1)
    where = ["--endpoint-url", sandbox.url]

    done = shell("send", *where, "-", stdin=f"\n{wrong}\n{line(2)}")

    assert done.lines[0]["message"].startswith("-:2: quantity: expected 0 to")
    assert done.lines[1]["message"].startswith(
        "-:3: product_code: expected a product code, its own or the call's (product_code, "
        "--product-code), got none"
    )
    assert 0 == sandbox.calls.total()


def test_what_the_service_refuses_is_found_and_named(sandbox: Sandbox, shell: Shell) -> None:
    """
    The record at fault is isolated, the others are metered.
    """
    sandbox.declare_product("prod", dimensions=["requests"])
    given = [line(n) for n in range(30)] + [line(30, dimension="misspelt")]

    done = shell("send", *target(sandbox), "-", stdin="\n".join(given))

    assert ["Success"] * 30 + ["Rejected"] == done.statuses
    assert "InvalidUsageDimensionException" == done.lines[30]["error"]
    assert done.lines[30]["message"].startswith("-:31: InvalidUsageDimensionException: ")
    assert 30 == len(sandbox.book)


def test_lines_lost_on_the_way_are_sent_again(sandbox: Sandbox, shell: Shell) -> None:
    """
    Faults of the service delay the results and change none.
    """
    sandbox.inject(
        Fault(kind=FaultKind.ERROR_500, max_hits=2),
        Fault(kind=FaultKind.UNPROCESSED, max_hits=2, unprocessed_share=0.5),
    )
    given = "\n".join(line(n) for n in range(100))

    done = shell("send", *target(sandbox), "-", stdin=given)

    assert 0 == done.code
    assert ["Success"] * 100 == done.statuses
    assert list(range(1, 101)) == [entry["line"] for entry in done.lines]


def test_an_account_fault_exits_with_4(sandbox: Sandbox, shell: Shell) -> None:
    """
    It comes before the undelivered and the rejected; no line is lost, and the cause is told once.
    """
    sandbox.inject(Fault(kind=FaultKind.REFUSE, code="AccessDeniedException", status=403))

    done = shell("send", *target(sandbox), "-", stdin="\n".join([line(1), "x", line(2)]))

    assert 4 == done.code
    assert ["Unprocessed", "Rejected", "Unprocessed"] == done.statuses
    assert 1 == done.err.count("AccessDeniedException (HTTP 403")
    assert "fix it and send the same input again" in done.err


@pytest.mark.parametrize(
    ("code", "arguments", "stdin", "says"),
    [
        (2, ["send"], "", "Missing argument"),
        (2, ["send", "--nonsense", "-"], "", "No such option"),
        (2, ["send", "/nowhere/at/all", "--product-code", "p"], "", "No such file"),
        (2, ["send", "/", "--product-code", "p"], "", "is a directory"),
        (2, ["send", "-", "-"], "", "read only once"),
        (2, ["send", "-", "--product-code", "p"], "timestamp,colour\n1,2\n", "no column dimension"),
        (2, ["send", "-", "--coalesce"], "timestamp,colour\n1,2\n", "no column dimension"),
        (2, ["send", "-", "--product-code", "a b"], "", "expected 1 to 255 letters"),
        (2, ["send", "-", "--product-code", ""], "", "expected 1 to 255 letters"),
        (2, ["send", "-", "--include-current-hour"], "", "only --coalesce holds hours back"),
        (2, ["send", "-", "--calls-per-second", "nan"], "", "expected a number from 0 on"),
        (2, ["send", "-", "--calls-per-second", "-1"], "", "expected a number from 0 on"),
        (4, ["send", "-", "--product-code", "p", "--endpoint-url", "http://evil.example"],
         line(), "https"),
        (4, ["send", "-", "--product-code", "p", "--endpoint-url", "nonsense"], line(), "http(s)"),
        (4, ["send", "-", "--product-code", "p", "--profile", "none"], line(), "none"),
        (2, ["sandbox", "--port", "70000"], "", "65535"),
        (2, [*METER, "1_0"], "", "got '1_0'"),
        (2, [*METER, "\uff11"], "", "expected digits without leading zeros"),
        (2, [*METER, "10000000000"], "", "expected 0 to 9999999999.999999"),
        (2, METER[:-1], "", "Missing option '--quantity'"),
        (2, [*METER, "1", "--timestamp", "yesterday"], "", "ISO 8601"),
        (2, [*METER, "1", "--timestamp", "2026-11-23T10:00"], "", "time zone"),
        (2, ["resolve", ""], "", "TOKEN: expected"),
    ],
)  # fmt: skip
def test_misuse_is_told_in_a_line(
    shell: Shell, code: int, arguments: list[str], stdin: str, says: str
) -> None:
    """
    A wrong option, file, header or setting ends with its code and no traceback.
    """
    done = shell(*arguments, stdin=stdin)

    assert code == done.code, done.err
    assert says in re.sub(r"[\s│]+", " ", done.err)
    assert "" == done.out


@pytest.mark.parametrize("missing", ["AWS_REGION", "AWS_SECRET_ACCESS_KEY"])
@pytest.mark.parametrize("options", [[], ["--coalesce"]])
def test_no_region_or_credentials_exits_with_4(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, missing: str, options: list[str]
) -> None:
    """
    The text says what to set.
    """
    monkeypatch.delenv(missing)

    done = shell("send", "--product-code", "p", *options, "-", stdin=line())

    assert (4, "") == (done.code, done.out)
    assert missing in done.err


def test_a_stream_that_breaks_is_told_and_loses_nothing(
    sandbox: Sandbox, shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """
    What was read before has its results; the command ends as one that could not read its input.
    """
    file = tmp_path / "usage.jsonl"
    file.write_text(line(1) + "\n" + line(2) + "\n" + line(3)[:20])
    read, reads = os.read, 0

    def failing(handle: int, size: int) -> bytes:
        nonlocal reads
        if size != 2**16:
            return read(handle, size)
        reads += 1
        if reads > 2:  # the first is of the header, the second of the content
            raise OSError(5, "Input/output error")
        return read(handle, size)

    monkeypatch.setattr(os, "read", failing)

    done = shell("send", *target(sandbox), file)

    assert 2 == done.code
    assert ["Success", "Success"] == done.statuses
    assert "usage.jsonl: Input/output error" in done.err


def test_dry_run_shows_the_plan_and_sends_nothing(sandbox: Sandbox, shell: Shell) -> None:
    """
    Records, keys, calls, time at the quota, and what would be refused.
    """
    given = [line(n) for n in range(600)] + [line(1, quantity=9), "x", line(2)]
    where = ["--endpoint-url", sandbox.url, "--product-code", "prod"]

    done = shell("send", "--dry-run", *where, "-", stdin="\n".join(given))

    assert (1, "") == (done.code, done.out)
    assert 0 == sandbox.calls.total()
    rows = dict(re.findall(r"^(\w[\w ]+?)  +(.+?) *$", done.err, re.MULTILINE))
    assert "603" == rows["lines read"]
    assert "3" == rows["would be refused"]
    assert "1" == rows["say the same again"]
    assert "599" == rows["records to send"]
    assert "24" == rows["calls"]
    assert "1 s at 10 calls a second" == rows["time"]
    assert rows["to"] == f"{sandbox.url} (us-east-1), access key …dbox"
    assert "-:601: -:2, -:601 have one key" in done.err
    assert "-:602: expected a JSON object" in done.err


def test_a_plan_needs_no_account(
    sandbox: Sandbox, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Where there are no credentials the plan says so, and is a plan all the same.
    """
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")

    done = shell("send", "--dry-run", *target(sandbox), "-", stdin=line())

    assert 0 == done.code
    assert "nowhere yet: no credentials" in done.err


def test_validate_tells_of_every_line(shell: Shell) -> None:
    """
    Each complaint with its file and line, each line with its result; nothing is sent.
    """
    given = [line(1), *("x" for _ in range(120)), line(2, product_code="p"), line(1, quantity=7)]

    done = shell("validate", "--product-code", "p", "-", stdin="\n".join(given))

    assert 1 == done.code
    assert ["Rejected", *["Rejected"] * 120, "Valid", "Rejected"] == done.statuses
    assert all(f"-:{number}: expected a JSON object" in done.err for number in range(2, 122))
    assert "-:123: -:1, -:123 have one key" in done.lines[-1]["message"]
    assert "-:1: -:1, -:123 have one key" in done.lines[0]["message"]


def test_validate_says_of_each_conflicting_line_what_send_says(
    sandbox: Sandbox, shell: Shell
) -> None:
    """
    None of them is sent, whichever came first, nor what says the same as one of them.
    """
    quantities = [1, 5, 1, 2, 2]
    given = [line(2 if q == 5 else 1, quantity=q) for q in quantities]
    valid = shell("validate", "--product-code", "prod", "-", stdin="\n".join(given))
    sent = shell("send", *target(sandbox), "-", stdin="\n".join(given))

    assert ["Rejected", "Valid", "Rejected", "Rejected", "Rejected"] == valid.statuses
    assert ["Rejected", "Success", "Rejected", "Rejected", "Rejected"] == sent.statuses
    errors = [[one.get("error") for one in done.lines] for done in (valid, sent)]
    assert errors[0] == errors[1]
    assert "would be refused  4 " in valid.err


@pytest.mark.parametrize("added_up", [(), ("--coalesce",)])
def test_validate_says_of_usage_under_both_schemes_what_send_says(
    sandbox: Sandbox, shell: Shell, added_up: Sequence[str]
) -> None:
    """
    By product code and by license: the service would bill it twice, so neither is sent.
    """
    license_arn = "arn:aws:license-manager::294406891311:license:l-1"
    given = [line(1), line(2), line(1, license_arn=license_arn, product_code="prod")]
    valid = shell("validate", *added_up, "--product-code", "prod", "-", stdin="\n".join(given))
    sent = shell("send", *added_up, *target(sandbox), "-", stdin="\n".join(given))

    assert ["Rejected", "Valid", "Rejected"] == valid.statuses
    assert ["Rejected", "Success", "Rejected"] == sent.statuses
    errors = [[one.get("error") for one in done.lines] for done in (valid, sent)]
    assert ["BothSchemesError", None, "BothSchemesError"] == errors[0] == errors[1]
    assert "-:3: -:1, -:3 name one customer's hour" in valid.err


def test_validate_tells_of_the_lines_before_a_file_that_ends_too_early(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Also where whoever reads the results is slow.
    """

    def slowly(data: bytes) -> None:
        time.sleep(0.1)
        os.write(1, data)

    monkeypatch.setattr(result_writer, "stdout", lambda: slowly)
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl.gz"
    whole.write_text(f"{line(1)}\n")
    part.write_bytes(gzip.compress(f"{line(2)}\n".encode())[:-4])
    done = shell("validate", "--product-code", "p", whole, part)

    assert Exit.USAGE == done.code
    assert str(whole) in [one["file"] for one in done.lines]
    assert "ends too early" in done.err


def test_validate_ends_well_on_good_input(shell: Shell) -> None:
    """
    Also where events of an hour only fit together when they are added up.
    """
    given = "\n".join([line(1), line(1, quantity=7)])

    assert 1 == shell("validate", "--product-code", "p", "-", stdin=given).code
    added = shell("validate", "--coalesce", "--product-code", "p", "-", stdin=given)
    assert (0, ["Valid", "Valid"]) == (added.code, added.statuses)


def test_validate_tells_which_lines_make_an_hour_too_large(shell: Shell) -> None:
    """
    The first line of the hour names it; each of its lines is rejected.
    """
    given = [line(2), line(1, quantity=9_999_999_999), line(1), line(3, quantity=-1), line(2)]

    done = shell("validate", "--coalesce", "--product-code", "p", "-", stdin="\n".join(given))

    assert ["Valid", "Rejected", "Rejected", "Rejected", "Valid"] == done.statuses
    assert "-:2: 'requests' of p, customer …0001" in done.err
    assert 1 == done.code


# Adding up


def test_events_are_added_up_to_hours(sandbox: Sandbox, shell: Shell) -> None:
    """
    Each line is answered with the fate of its hour; malformed lines keep their place.
    """
    given = [line(1, timestamp=(HOUR + timedelta(minutes=m)).isoformat()) for m in range(60)]
    given[30:30] = [line(3, quantity=-1), line(2, quantity=7)]

    done = shell("send", "--coalesce", *target(sandbox), "-", stdin="\n".join(given))

    assert 1 == done.code
    assert {"requests": 307} == sandbox.book.totals()
    assert {HOUR} == {record.timestamp for record in sandbox.book.records}
    assert ["Success"] * 30 + ["Rejected"] + ["Success"] * 31 == done.statuses
    assert list(range(1, 63)) == [entry["line"] for entry in done.lines]
    assert {300, 7, None} == {entry.get("hour_quantity") for entry in done.lines}
    assert {HOUR.isoformat(), None} == {entry.get("hour") for entry in done.lines}
    assert "-:31: quantity: expected 0 to" in done.err
    assert re.search(r"Success +61 +2\b", done.err)


def test_the_hour_that_is_not_over_is_held(sandbox: Sandbox, shell: Shell) -> None:
    """
    Held hours are listed and exit with 3, before the rejected; --include-current-hour sends them.
    """
    now = datetime.now(UTC)
    running = line(2, timestamp=now.isoformat())
    given = [line(1), running, line(3, quantity=-1)]

    done = shell("send", "--coalesce", *target(sandbox), "-", stdin="\n".join(given))

    assert 3 == done.code
    assert ["Success", "Held", "Rejected"] == done.statuses
    assert {"requests": 5} == sandbox.book.totals()
    assert "1 hour is not over and held back" in done.err
    assert re.search(rf"{now:%Y-%m-%dT%H}:00Z +requests +1 +5\b", done.err)
    assert "send it all again after" in done.lines[1]["advice"]

    options = ["--coalesce", "--include-current-hour", *target(sandbox)]
    assert 0 == shell("send", *options, "-", stdin=running).code
    assert {"requests": 10} == sandbox.book.totals()


def test_a_sum_above_all_quantities_is_refused_and_hurts_no_other(
    sandbox: Sandbox, shell: Shell
) -> None:
    """
    Loudly, on every line of the hour; the customer's id is not in the complaint. Covers: V02
    """
    given = [line(1, quantity=9_999_999_999), line(2), line(1)]

    done = shell("send", "--coalesce", *target(sandbox), "-", stdin="\n".join(given))

    assert 1 == done.code
    assert ["Rejected", "Success", "Rejected"] == done.statuses
    assert "QuantityOverflowError" == done.lines[0]["error"]
    assert "the sum 10000000004 is above 9999999999.999999" in done.err
    assert "000000000001" not in done.err


def test_an_hour_the_service_refuses_is_told_by_its_first_line(
    sandbox: Sandbox, shell: Shell
) -> None:
    """
    And every line of it is rejected.
    """
    sandbox.declare_product("prod", dimensions=["requests"])
    given = [line(1), line(2, dimension="misspelt"), line(2, dimension="misspelt")]

    done = shell("send", "--coalesce", *target(sandbox), "-", stdin="\n".join(given))

    assert ["Success", "Rejected", "Rejected"] == done.statuses
    assert {"-:2: InvalidUsageDimensionException"} == {
        ":".join(entry["message"].split(":")[:3]) for entry in done.lines[1:]
    }
    assert 1 == done.err.count("-:2: InvalidUsageDimensionException")


def test_a_plan_of_hours(sandbox: Sandbox, shell: Shell) -> None:
    """
    What --coalesce would send, and what it would hold.
    """
    given = [line(n % 3) for n in range(30)]
    given += [line(9, timestamp=datetime.now(UTC).isoformat()), line(10, quantity=-1)]

    done = shell("send", "--coalesce", "--dry-run", *target(sandbox), "-", stdin="\n".join(given))

    rows = dict(re.findall(r"^(\w[\w ]+?)  +(.+?) *$", done.err, re.MULTILINE))
    assert ("32", "3", "1", "1", "1") == (
        rows["lines read"],
        rows["records to send"],
        rows["hours held back"],
        rows["would be refused"],
        rows["calls"],
    )
    assert 3 == done.code
    assert 0 == sandbox.calls.total()


def test_real_traffic_in_small(sandbox: Sandbox, shell: Shell) -> None:
    """
    Thousands of events become full requests of hourly records, and the sums are exact.
    """
    start = HOUR - timedelta(hours=8)
    events = [
        (n % 37, start + timedelta(seconds=(n * 7919) % 28_800), dimension, quantity)
        for n in range(4000)
        for dimension, quantity in (("requests", 1), ("kilobytes", n % 91))
    ]
    given = "\n".join(
        line(customer, timestamp=when.isoformat(), dimension=dimension, quantity=quantity)
        for customer, when, dimension, quantity in events
    )
    hours = len({(c, int(w.timestamp()) // 3600, d) for c, w, d, _ in events})

    done = shell("send", "--coalesce", *target(sandbox), "-", stdin=given)

    assert 0 == done.code
    assert len(events) == len(done.lines)
    assert hours == len(sandbox.book)
    wanted = sum(quantity for _, _, dimension, quantity in events if dimension == "kilobytes")
    assert {"kilobytes": wanted, "requests": 4000} == sandbox.book.totals()
    assert -(-hours // 25) <= sandbox.calls["BatchMeterUsage"] <= -(-hours // 25) + 1


# The other operations


def test_the_other_operations(sandbox: Sandbox, shell: Shell) -> None:
    """
    resolve, meter and register print the answer as JSON, or the service's error in a line.
    """
    token = sandbox.issue_token("prod", customer_aws_account_id="123456789012")
    where = ["--endpoint-url", sandbox.url]
    product = [*where, "--product-code", "prod"]

    resolved = shell("resolve", *where, token)
    from_stdin = shell("resolve", *where, "-", stdin=token + "\n")
    forged = shell("resolve", *where, "forged")
    metered = shell("meter", *product, "--dimension", "d", "--quantity", 3)
    dry = shell("meter", *product, "--dimension", "d", "--quantity", 3, "--dry-run")
    old = shell(
        "meter", *product, "--dimension", "d", "--quantity", 3, "--timestamp", "2020-01-01T00:00Z"
    )
    registered = shell("register", *product)

    assert "123456789012" == resolved.lines[0]["customer_aws_account_id"]
    assert resolved.lines[0]["product_code"] == from_stdin.lines[0]["product_code"]
    assert (1, "") == (forged.code, forged.out)
    assert "InvalidTokenException" in forged.err
    assert metered.lines[0]["metering_record_id"]
    assert dry.lines[0]["dry_run"] is True
    assert "metering_record_id" not in dry.lines[0]
    assert (1, True) == (old.code, "TimestampOutOfBoundsException" in old.err)
    assert registered.lines[0]["signature"]


def test_every_command_has_help(shell: Shell) -> None:
    """
    With every option documented.
    """
    commands = ["demo", "send", "validate", "resolve", "meter", "register", "sandbox", "doctor"]

    overview = shell("--help")

    assert 0 == overview.code
    for name in commands:
        assert name in overview.out
        assert 0 == shell(name, "--help").code
    assert 2 == shell().code
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", shell("--version").out)
