"""The wire: records to bytes, answers to replies, whatever comes."""

import copy
import json
import time
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.memory import usage
from support.strategies import json_values, records

from marketplace_metering_async.aws import wire
from marketplace_metering_async.errors import InvalidResponseError, MarketplaceMeteringException
from marketplace_metering_async.records import UsageRecord
from marketplace_metering_async.service_errors import ThrottlingException

SENT = [record.to_wire() for record in usage(5)]


def answer(results: list[Any], unprocessed: list[Any] | None = None) -> bytes:
    return json.dumps({"Results": results, "UnprocessedRecords": unprocessed or []}).encode()


def result(members: dict[str, Any], status: str = "Success", **changes: Any) -> dict[str, Any]:
    return {"UsageRecord": {**members, **changes}, "Status": status, "MeteringRecordId": "id"}


GOOD = [result(members) for members in SENT]


@given(st.lists(records(), max_size=5))
def test_orjson_and_the_standard_library_write_the_same_bytes(given_: list[UsageRecord]) -> None:
    """
    Strict, compact, in UTF-8.
    """
    members = [record.to_wire() for record in given_]
    body = {"ProductCode": "p", "UsageRecords": members}

    assert wire.standard_dumps(body) == wire.dumps(body) == wire.encode_batch("p", members)
    assert json.loads(wire.dumps(body)) == body


@given(st.lists(records(), min_size=1, max_size=25))
def test_sizes_are_never_underestimated(given_: list[UsageRecord]) -> None:
    """
    So a chunk that is planned to fit does fit. Covers: W18
    """
    members = [record.to_wire() for record in given_]
    planned = wire.batch_overhead("p") + sum(map(wire.record_size, members))

    assert len(wire.encode_batch("p", members)) <= planned


def test_the_largest_plain_record_is_within_its_bound() -> None:
    """
    Escapes take six bytes a character.
    """
    (widest,) = usage(
        1, dimension="\x00" * 255, customer_aws_account_id=None, customer_identifier="\x01" * 255
    )

    assert len(wire.dumps(widest.to_wire())) < wire.LARGEST_PLAIN_RECORD


@given(st.permutations(GOOD))
def test_results_are_matched_by_what_they_say(shuffled: list[Any]) -> None:
    """
    In any order. Covers: R03
    """
    reply = wire.read_reply(SENT, answer(shuffled))

    assert ["Success"] * 5 == reply.statuses
    assert not reply.oddities


@pytest.mark.parametrize("missing", range(5))
def test_missing_results_settle_nothing(missing: int) -> None:
    """
    Fewer results than records. Covers: R01
    """
    reply = wire.read_reply(SENT, answer(GOOD[:missing] + GOOD[missing + 1 :]))

    assert [i for i in range(5) if reply.statuses[i] is None] == [missing]
    assert ["no answer for 1 of 5 records"] == reply.oddities


@pytest.mark.parametrize(
    ("results", "unprocessed", "open_at", "says"),
    [
        ([*GOOD, result(SENT[0], Dimension="other")], [], [], "was not sent"),
        ([*GOOD, GOOD[0]], [], [], None),
        ([*GOOD, result(SENT[0], "DuplicateRecord")], [], [0], "disagree"),
        (GOOD, [SENT[2]], [2], "in UnprocessedRecords"),
        ([result(SENT[0], Quantity=7), *GOOD[1:]], [], [0], "another quantity"),
        ([{"Status": "Success"}, *GOOD[1:]], [], [0], "does not say"),
        ([{"UsageRecord": SENT[0]}, *GOOD[1:]], [], [0], "without a status"),
        ([None, 7, "x", *GOOD], [], [], "does not say"),
    ],
)
def test_odd_answers_settle_only_what_is_clear(
    results: list[Any], unprocessed: list[Any], open_at: list[int], says: str | None
) -> None:
    """
    Foreign, doubled, contradicting, altered and echoless results. Covers: R02, R04, R05, R06, R08
    """
    reply = wire.read_reply(SENT, answer(results, unprocessed))

    assert open_at == [i for i in range(5) if reply.statuses[i] is None]
    assert (says is None) == (not reply.oddities)
    assert says is None or says in "; ".join(reply.oddities)


def test_a_lone_record_needs_no_echo() -> None:
    """
    There is only one it can be of. Covers: R08
    """
    reply = wire.read_reply(SENT[:1], answer([{"Status": "Success"}]))

    assert ["Success"] == reply.statuses


@pytest.mark.parametrize("odd", [None, 7, "x", [], {}])
def test_what_is_no_result_settles_nothing_of_a_lone_record(odd: Any) -> None:
    """
    It stays in doubt.
    """
    reply = wire.read_reply(SENT[:1], answer([odd]))

    assert [None] == reply.statuses
    assert ["a result without a status"] == reply.oddities


@pytest.mark.parametrize("form", ["float", "fraction", "iso", "hour"])
def test_timestamps_may_be_echoed_in_other_forms(form: str) -> None:
    """
    As a float, with fractions, as text, or floored to the hour. Covers: R07
    """
    epoch = SENT[0]["Timestamp"]
    echoed = {
        "float": float(epoch),
        "fraction": epoch + 0.776,
        "iso": "2026-11-23T10:00:00.776+00:00",
        "hour": epoch // 3600 * 3600,
    }[form]

    reply = wire.read_reply(SENT, answer([result(m, Timestamp=echoed) for m in SENT]))

    assert ["Success"] * 5 == reply.statuses


@pytest.fixture
def _machine_in_new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "America/New_York")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("_machine_in_new_york")
def test_an_echoed_time_without_a_zone_is_utc() -> None:
    """
    And not the local time of this machine. (core F17)
    """
    echo = result(SENT[0], Timestamp="2026-11-23T10:00:00")

    assert ["Success"] == wire.read_reply(SENT[:1], answer([echo])).statuses


@pytest.mark.parametrize("odd", ["nul\0", "bell\a", "\x1b[31mred", "\u202eright to left", "🦆"])
def test_odd_characters_are_matched(odd: str) -> None:
    """
    As they were sent, raw or escaped; they stay out of texts for people. Covers: R15
    """
    sent = {**SENT[0], "Dimension": odd}
    body = {"Results": [result(sent)]}

    for raw in (True, False):
        encoded = json.dumps(body, ensure_ascii=not raw).encode()
        assert ["Success"] == wire.read_reply([sent], encoded).statuses
    foreign = wire.read_reply(SENT[:1], json.dumps(body).encode())
    assert not any(odd in oddity for oddity in foreign.oddities)


def test_zero_may_be_echoed_as_nothing() -> None:
    """
    An absent quantity is a zero. Covers: R14
    """
    zero = {**SENT[0], "Quantity": 0}
    echo = {name: value for name, value in zero.items() if name != "Quantity"}

    assert ["Success"] == wire.read_reply([zero], answer([result(echo)])).statuses


def test_unprocessed_records_and_new_members() -> None:
    """
    Unknown members are ignored; the service may add ids that it knows. Covers: R12, R13
    """
    named = result(SENT[0], CustomerIdentifier="added", New={"a": 1})
    body = {"Results": [named], "UnprocessedRecords": SENT[1:], "Extra": 1}

    reply = wire.read_reply(SENT, json.dumps(body).encode())

    assert ["Success"] + [wire.UNPROCESSED] * 4 == reply.statuses


@given(
    json_values | st.fixed_dictionaries({"Results": json_values, "UnprocessedRecords": json_values})
)
def test_any_json_is_read_without_a_crash(value: Any) -> None:
    """
    And none of it is taken for a success. Covers: R10
    """
    try:
        reply = wire.read_reply(SENT, json.dumps(value).encode())
    except InvalidResponseError:
        return
    assert all(status is None for status in reply.statuses)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b'{"Results": NaN}',
        b"[" * 100_000,
        b'{"Results":',
        b"\xff\xfe{\x00}\x00",
        b"\xef\xbb\xbf{}",
        b'{"a":' + b"9" * 5000 + b"}",
    ],
)
@pytest.mark.parametrize("loads", [orjson.loads, wire.decode])
def test_what_is_no_json_is_one_class_of_error(
    body: bytes, loads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    With orjson and without: no other exception gets out, and nothing is settled. Covers: R11, W10
    """
    monkeypatch.setattr(wire, "_loads", loads)

    try:
        reply = wire.read_reply(SENT, body)
    except InvalidResponseError:
        return
    assert [None] * 5 == reply.statuses


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"x-amzn-ErrorType": "ThrottlingException"}, {}),
        ({"x-amzn-ErrorType": "ThrottlingException:http://internal.amazon.com/coral/"}, {}),
        ({"x-amzn-ErrorType": "aws.ns#ThrottlingException:http://x/"}, {}),
        ({}, {"__type": "ThrottlingException"}),
        ({}, {"__type": "aws.ns#ThrottlingException"}),
        ({}, {"__type": "aws.ns#ThrottlingException:http://x/"}),
        ({}, {"code": "ThrottlingException"}),
        ({}, {"Code": "ns#ThrottlingException"}),
    ],
)
def test_codes_are_found_wherever_they_hide(headers: dict[str, str], body: dict[str, str]) -> None:
    """
    In header or body, with a namespace before and a URI behind. Covers: S03
    """
    read = wire.read_error(
        "BatchMeterUsage", 400, headers | {"x-amzn-RequestId": "r"}, json.dumps(body).encode()
    )

    assert isinstance(read, ThrottlingException)
    assert ("ThrottlingException", 400) == (read.code, read.status)


def test_unknown_codes_are_kept() -> None:
    """
    With message, status, request id and the service's hint. Covers: T02
    """
    headers = {"x-amzn-RequestId": "r-1", "x-amz-retry-after": "1500"}

    read = wire.read_error(
        "BatchMeterUsage", 418, headers, b'{"__type":"ns#TeapotException","Message":"short"}'
    )

    assert type(read) is MarketplaceMeteringException
    assert ("TeapotException", "short", 418, "r-1", 1.5) == (
        read.code,
        read.message,
        read.status,
        read.request_id,
        read.retry_after,
    )


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "3"}, 3.0),
        ({"Retry-After": "3", "x-amz-retry-after": "1500"}, 1.5),
        ({"Retry-After": "3", "x-amz-retry-after": "soon"}, 3.0),
        ({"Retry-After": "Fri, 27 Nov 2026 12:00:00 GMT"}, None),
        ({"Retry-After": "-3"}, None),
        ({"x-amz-retry-after": ""}, None),
        ({"x-amz-retry-after": "-5"}, None),
        ({"x-amz-retry-after": "1e9"}, None),
        ({"x-amz-retry-after": "٣"}, None),
        ({}, None),
    ],
)
@pytest.mark.parametrize("body", [b'{"__type":"ThrottlingException"}', b"<html>busy</html>"])
def test_a_hint_may_come_in_seconds(
    headers: dict[str, str], seconds: float | None, body: bytes
) -> None:
    """
    From a proxy, with an answer of its own or the service's; what the service says goes first. A
    delay is digits. Covers: T02
    """
    read = wire.read_error("BatchMeterUsage", 429, headers, body)

    assert seconds == read.retry_after
    assert seconds == copy.copy(read).retry_after


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"__type": 5}', b'{"__type": "a b"}'])
@pytest.mark.parametrize("status", [200, 302, 400, 403, 404, 413, 429, 500, 503])
def test_answers_without_a_code_are_somebody_elses(body: bytes, status: int) -> None:
    """
    Whatever their status says. Covers: S02, W10
    """
    read = wire.read_error("BatchMeterUsage", status, {"x-amzn-RequestId": "r"}, body)

    assert isinstance(read, InvalidResponseError)
    assert (status, "r") == (read.status, read.request_id)


REQUEST_ID = {"x-amzn-RequestId": "r"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, status) for status in (200, 204, 302, 400, 401, 403, 404, 413, 429, 500, 503)]
    + [(REQUEST_ID, status) for status in (201, 204, 299)],
)
def test_a_code_is_no_refusal_of_the_service_unless_id_and_status_say_so(
    headers: dict[str, str], status: int
) -> None:
    """
    Without the service's request id it may be a gateway's, which did or did not hand the request
    on; the code is in the text. (core F9)
    """
    body = b'{"__type": "AccessDeniedException"}'
    read = wire.read_error("BatchMeterUsage", status, headers, body)

    assert isinstance(read, InvalidResponseError)
    assert status == 302 or "AccessDeniedException" in str(read)


@pytest.mark.parametrize("name", ["x-amzn-RequestId", "x-amzn-requestid", "X-AMZN-REQUESTID"])
def test_headers_are_found_in_any_letter_case(name: str) -> None:
    """
    In a plain dict, too, as a transport of somebody's own may hand them over.
    """
    read = wire.read_error(
        "BatchMeterUsage", 400, {name: "r"}, b'{"__type": "ThrottlingException"}'
    )

    assert isinstance(read, ThrottlingException)


def echoed(**members: Any) -> list[str | None]:
    """Return the statuses of a record of 17 units, whose echo has *members* for its quantity."""
    sent = {**SENT[0], "Quantity": 17}
    echo = {name: value for name, value in sent.items() if name != "Quantity"} | members
    return wire.read_reply([sent], answer([result(echo)])).statuses


@pytest.mark.parametrize("member", ["Quantity", "QuantityAsDecimal"])
@pytest.mark.parametrize("value", [17, 17.0, "17", "17.0", "17.00", "17.000000"])
def test_a_quantity_may_be_echoed_in_either_member_and_any_form(member: str, value: Any) -> None:
    """
    It is the same by value, also where both are echoed. (core F8)
    """
    assert ["Success"] == echoed(**{member: value}) == echoed(**{"Quantity": 17, member: value})


@pytest.mark.parametrize(
    "members",
    [
        {"Quantity": 18},
        {"Quantity": "18"},
        {"Quantity": True},
        {"Quantity": "seventeen"},
        {"Quantity": " 17"},
        {"Quantity": "1_7"},
        {"Quantity": "\u0661\u0667"},
        {"Quantity": [17]},
        {"QuantityAsDecimal": "17.000001"},
        {"QuantityAsDecimal": "NaN"},
        {"QuantityAsDecimal": "1" * 5000},
        {"Quantity": 17, "QuantityAsDecimal": "18"},
        {},
    ],
)
def test_another_quantity_is_no_answer(members: dict[str, Any]) -> None:
    """
    What is no number is none, and two members must agree. (core F8)
    """
    assert [None] == echoed(**members)


@pytest.mark.parametrize("odd", [None, 7, True, {"a": "b"}])
@pytest.mark.parametrize("loads", [orjson.loads, wire.decode])
def test_a_status_that_is_no_text_settles_nothing(
    odd: object, loads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A record id that is none costs nobody the verdict.
    """
    monkeypatch.setattr(wire, "_loads", loads)
    without_status = {**result(SENT[0]), "Status": odd}
    without_id = {**result(SENT[0]), "MeteringRecordId": odd}

    assert [None] == wire.read_reply(SENT[:1], answer([without_status])).statuses
    reply = wire.read_reply(SENT[:1], answer([without_id]))
    assert (["Success"], [None]) == (reply.statuses, reply.record_ids)


@pytest.mark.parametrize(
    ("number", "status"),
    [
        ("17.0", "Success"),
        ("17.00", "Success"),
        ("1.7e1", "Success"),
        ("170E-1", "Success"),
        ("17.0000000000000000001", None),
        ("16.99999999999999999999", None),
        ("1.7e2", None),
    ],
)
@pytest.mark.parametrize("loads", [orjson.loads, wire.decode])
def test_a_quantity_is_read_by_its_digits(
    number: str, status: str | None, loads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    No float stands between: what a float would round to 17 is not 17. (core F8)
    """
    monkeypatch.setattr(wire, "_loads", loads)
    sent = {**SENT[0], "Quantity": 17}
    body = answer([result(sent)]).replace(b'"Quantity": 17', f'"Quantity": {number}'.encode())

    assert [status] == wire.read_reply([sent], body).statuses


@pytest.mark.parametrize("quantity", ["17.420001", "9999999999.999999"])
def test_a_decimal_that_was_sent_is_compared_by_value(quantity: str) -> None:
    """
    Digits that no float has make a difference. (core F8)
    """
    sent = {name: value for name, value in SENT[0].items() if name != "Quantity"}
    sent["QuantityAsDecimal"] = quantity
    other = quantity[:-1] + ("2" if quantity[-1] == "1" else "8")

    def statuses(number: str, member: str) -> list[str | None]:
        rest = {name: value for name, value in sent.items() if name != "QuantityAsDecimal"}
        body = answer([result({**rest, member: "HERE"})]).replace(b'"HERE"', number.encode())
        return wire.read_reply([sent], body).statuses

    for member in ("Quantity", "QuantityAsDecimal"):
        assert ["Success"] == statuses(quantity, member)
        assert ["Success"] == statuses(f'"{quantity}"', member)
        assert [None] == statuses(other, member)


@given(records())
def test_records_of_all_kinds_have_one_form(record: UsageRecord) -> None:
    """
    boto3's with the wire's timestamp; and each is recognised in its own echo at a glance.
    """
    members = record.to_wire()

    assert {**record.to_boto(), "Timestamp": record.epoch} == members
    assert wire._plain_reply([members], {"Results": [result(members)]}) is not None


@pytest.mark.parametrize("member", ["AllocatedUsageQuantity", "AllocatedUsageQuantityAsDecimal"])
@pytest.mark.parametrize("value", [17, 17.0, "17.00"])
def test_allocations_may_be_echoed_in_either_member(member: str, value: Any) -> None:
    """
    By value, as the record's quantity. (core F8)
    """
    tags = [{"Key": "k", "Value": "v"}]
    sent = {**SENT[0], "Quantity": 17}
    sent["UsageAllocations"] = [{"AllocatedUsageQuantity": 17, "Tags": tags}]

    def statuses(value: Any) -> list[str | None]:
        echo = {**sent, "UsageAllocations": [{member: value, "Tags": tags}]}
        return wire.read_reply([sent], answer([result(echo)])).statuses

    assert ["Success"] == statuses(value)
    assert [None] == statuses(16)
    for garbled in (17, {"Tags": [17]}, {"Tags": [{"Key": "k"}]}, {"Tags": 17}):
        echo = {**sent, "UsageAllocations": [garbled]}
        assert [None] == wire.read_reply([sent], answer([result(echo)])).statuses


@pytest.mark.parametrize(
    "timestamp", ["9" * 400, "-" + "9" * 400, "1e400", "1e999999999", "1e-400"]
)
@pytest.mark.parametrize("loads", [orjson.loads, wire.decode])
def test_a_timestamp_beyond_all_calendars_is_another_records(
    timestamp: str, loads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    It settles nothing and breaks nothing. (core F18)
    """
    monkeypatch.setattr(wire, "_loads", loads)
    body = answer([result(SENT[0])])
    body = body.replace(str(SENT[0]["Timestamp"]).encode(), timestamp.encode())

    assert [None] == wire.read_reply(SENT[:1], body).statuses
