"""
The service's JSON, both ways: records to a request's body, an answer's body to a reply or an error.

awsJson1.1 (service model). A record has the same bytes in every request that carries it, whether
orjson is installed or not. Answers are matched to records by what they say, never by where they
stand, and whatever they leave open, repeat or contradict is noted and settles nothing.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from attrs import Factory, define

from marketplace_metering_async.errors import InvalidResponseError, MarketplaceMeteringException
from marketplace_metering_async.quantities import AS_DECIMAL
from marketplace_metering_async.records import SECONDS_PER_HOUR
from marketplace_metering_async.service_errors import MODELLED_ERRORS

UNPROCESSED: Final = "Unprocessed"
"""Stands for "is in UnprocessedRecords" among a reply's statuses; the service has no such word."""

_LONGEST_CODE: Final = 128


try:  # the extra `speedups`
    import orjson
except ImportError:
    orjson = None  # type: ignore[assignment]


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_decode: Final = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=Decimal).decode


def standard_dumps(value: object) -> bytes:
    """Return *value* as compact JSON in UTF-8: the bytes that orjson writes."""
    return _encode(value).encode()


dumps: Final[Callable[[object], bytes]] = standard_dumps if orjson is None else orjson.dumps


Members = dict[str, Any]
"""A record as an element of `UsageRecords`: `UsageRecord.to_wire()`."""


LARGEST_PLAIN_RECORD: Final = 8_000
"""
Bytes that a record without allocations stays below, with the comma behind it: 255 characters each
of dimension and customer at up to six bytes, 1,300 of license and 255 of account, and the names.
"""


def record_size(members: Members) -> int:
    """Return the bytes of a record in a request, with a comma, or a bound that is cheap to know."""
    return len(dumps(members)) + 1 if "UsageAllocations" in members else LARGEST_PLAIN_RECORD


def encode_batch(product_code: str | None, records: Sequence[Members]) -> bytes:
    """Return the body of a BatchMeterUsage request; without *product_code* for license records."""
    product = {} if product_code is None else {"ProductCode": product_code}
    return dumps({**product, "UsageRecords": records})


def batch_overhead(product_code: str | None) -> int:
    """Return the bytes of a request's body around its records."""
    return len(encode_batch(product_code, ()))


def decode(body: bytes) -> dict[str, Any]:
    """
    Read the body of an answer: strict JSON in UTF-8.

    Numbers with a point or an exponent are Decimals: unlike orjson's floats they are exact.

    Raises:
        InvalidResponseError: if it is no JSON object.
    """
    try:
        answer = _decode(body.decode())
    except (ValueError, ArithmeticError, RecursionError):
        kind = "an empty body" if not body.strip() else "a body that is no JSON"
        raise InvalidResponseError(f"{kind} where the service's answer should be") from None
    if not isinstance(answer, dict):
        raise InvalidResponseError("the response is JSON, but not an object")
    return answer


_loads: Final[Callable[[bytes], Any]] = decode if orjson is None else orjson.loads


def read_error(
    operation: str, status: int, headers: Mapping[str, str], body: bytes
) -> MarketplaceMeteringException | InvalidResponseError:
    """
    Read an answer to a call of *operation* whose *status* is not 200.

    The code may be in the header, in `__type` or in `code`, with a namespace before and a URI
    behind it. Without a code, or without the service's request id, the answer is somebody else's,
    and so is whatever is neither a 4xx nor a 5xx.
    """
    request_id, retry_after = header(headers, "x-amzn-RequestId"), _retry_after(headers)
    try:
        members = decode(body)
    except InvalidResponseError:
        members = {}
    places = (header(headers, "x-amzn-ErrorType"), *map(members.get, ("__type", "code", "Code")))
    code = next((code for place in places if (code := _bare_code(place))), None)
    if 300 <= status < 400:
        reason = "a redirect, which is not followed"
    elif code is None:
        reason = "no error of the service in the answer"
    elif request_id is None or status < 400:
        reason = f"{code}, but no request id of the service"
    else:
        texts = map(members.get, ("message", "Message"))
        return MODELLED_ERRORS.get(code, MarketplaceMeteringException)(
            code,
            next((text for text in texts if isinstance(text, str)), ""),
            operation=operation,
            status=status,
            request_id=request_id,
            retry_after=retry_after,
        )
    return InvalidResponseError(reason, status, request_id, retry_after)


def header(headers: Mapping[str, str], name: str) -> str | None:
    """Return a header of an answer by its *name*, in whatever letter case it came."""
    lower = name.lower()
    return headers.get(name) or next((v for n, v in headers.items() if n.lower() == lower), None)


def _bare_code(value: object) -> str | None:
    if not isinstance(value, str):
        return None
    code = value.partition(":")[0].rpartition("#")[2].strip()
    known_shape = code.isascii() and code.replace(".", "").replace("_", "").isalnum()
    return code if known_shape and len(code) <= _LONGEST_CODE else None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds to wait: AWS's header has milliseconds, the one of proxies seconds."""
    for name, a_second in (("x-amz-retry-after", 1000), ("Retry-After", 1)):
        hint = header(headers, name) or ""
        if hint.isascii() and hint.isdigit():  # a date, or anything else, is ignored
            return int(hint[:9]) / a_second
    return None


_EXACT: Final = frozenset({int, type(None)})
_NO_WORDS: Final = ("", UNPROCESSED)
"""Statuses that the usual answer does not have."""


@define
class Reply:
    """
    What an answer says of the records that were sent, at the index of each.

    Attributes:
        statuses: The service's word, `UNPROCESSED`, or None where the answer settles nothing.
        record_ids: The metering record id, where there is one.
        oddities: What is wrong with the answer, in words without ids.
    """

    statuses: list[str | None]
    record_ids: list[str | None]
    oddities: list[str] = Factory(list)


def read_reply(sent: Sequence[Members], body: bytes) -> Reply:
    """
    Read the answer to a BatchMeterUsage request that carried the records *sent*.

    Raises:
        InvalidResponseError: if the body is no JSON object.
    """
    try:
        return _plain_reply(sent, _loads(body)) or _odd_reply(sent, decode(body))
    except ValueError:  # what orjson cannot read, another may
        return _odd_reply(sent, decode(body))


def _plain_reply(sent: Sequence[Members], answer: Any) -> Reply | None:  # noqa: ANN401 - any JSON
    """Read the usual answer: one result a record, in order, each with the very record."""
    try:
        results = answer["Results"]
        if len(results) != len(sent) or answer.get("UnprocessedRecords"):
            return None
        echoes = [result["UsageRecord"] for result in results]
        statuses = [result["Status"] for result in results]
        record_ids = [result["MeteringRecordId"] for result in results]
        words = set(statuses)
    except (KeyError, TypeError):
        return None
    are_texts = {str}.issuperset(map(type, (*words, *record_ids)))
    is_usual = are_texts and words.isdisjoint(_NO_WORDS) and echoes == sent and _are_exact(echoes)
    return Reply(statuses, record_ids) if is_usual else None


def _are_exact(echoes: Iterable[Members]) -> bool:
    """Whether the quantities, equal to those sent, were integers or text: a float is rounded."""
    numbers = [echo.get("Quantity") for echo in echoes]
    for parts in [echo["UsageAllocations"] for echo in echoes if "UsageAllocations" in echo]:
        numbers += [part.get("AllocatedUsageQuantity") for part in parts]
    return _EXACT.issuperset(map(type, numbers))


def _odd_reply(sent: Sequence[Members], answer: dict[str, Any]) -> Reply:
    """Read any other answer, record by record, and note what is wrong with it."""
    reply = Reply([None] * len(sent), [None] * len(sent))
    identities = list(map(_identity, sent))
    settled: set[int] = set()
    for echo, status, record_id in _stated(answer, reply):
        place = _place_of(echo, sent, identities)
        if isinstance(place, str):
            reply.oddities.append(place)
            continue
        if status is None:
            reply.oddities.append("a result without a status")
        if place not in settled:
            settled.add(place)
            reply.statuses[place] = status
            reply.record_ids[place] = record_id
        elif status != reply.statuses[place]:
            reply.statuses[place] = None
            both = "a record in Results and in UnprocessedRecords"
            contrary = "two results for one record that disagree"
            reply.oddities.append(both if status == UNPROCESSED else contrary)
    if len(settled) < len(sent):
        reply.oddities.append(f"no answer for {len(sent) - len(settled)} of {len(sent)} records")
    return reply


def _stated(
    answer: dict[str, Any], reply: Reply
) -> Iterator[tuple[object, str | None, str | None]]:
    """Yield what the answer says of each record: its echo, the status and the record id."""
    for result in _listed(answer, "Results", reply):
        members = result if isinstance(result, dict) else {}
        status, record_id = members.get("Status"), members.get("MeteringRecordId")
        is_word = isinstance(status, str) and status not in _NO_WORDS
        record_id = record_id if isinstance(record_id, str) else None
        yield members.get("UsageRecord"), status if is_word else None, record_id
    for echo in _listed(answer, "UnprocessedRecords", reply):
        yield echo, UNPROCESSED, None


def _listed(answer: dict[str, Any], name: str, reply: Reply) -> Sequence[Any]:
    value = answer.get(name)
    if isinstance(value, list):
        return value
    if value is not None or (name == "Results" and "UnprocessedRecords" not in answer):
        reply.oddities.append(f"{name} is no list")
    return ()


_NAMES: Final = ("Dimension", "CustomerAWSAccountId", "CustomerIdentifier", "LicenseArn")


def _identity(members: Members) -> dict[str, Any]:
    """What tells a record from others: the ids that are named, dimension and clock hour."""
    named = {name: members[name] for name in _NAMES if name in members}
    return named | {"hour": _hour(members.get("Timestamp"))}


def _place_of(
    echo: object, sent: Sequence[Members], identities: Sequence[dict[str, Any]]
) -> int | str:
    """Return the index of the record that an echo is of, by what it says, or why there is none."""
    if not isinstance(echo, dict):
        is_lone = echo is None and len(sent) == 1
        return 0 if is_lone else "a result that does not say of which record it is"
    echoed = _identity(echo).items()  # with ids that the service adds, where it knows more
    found = [place for place, known in enumerate(identities) if known.items() <= echoed]
    if len(found) != 1:
        return "a result for a record that was not sent"
    if not _same_content(sent[found[0]], echo):
        return "a result for a record with another quantity or other allocations"
    return found[0]


def _same_content(members: Members, echo: dict[str, Any]) -> bool:
    """Whether quantity and, where they are echoed, allocations are those that were sent."""
    if _quantity(echo, "Quantity") != _quantity(members, "Quantity"):
        return False
    echoed = echo.get("UsageAllocations")
    if not echoed:
        return True
    ours = {_allocation(part) for part in members.get("UsageAllocations", ())}
    return isinstance(echoed, list) and {_allocation(part) for part in echoed} == ours


def _allocation(part: object) -> object:
    """An allocation in a form without order; None if it has none."""
    try:
        tags = frozenset((tag["Key"], tag["Value"]) for tag in part.get("Tags") or ())  # type: ignore[attr-defined]
    except (AttributeError, KeyError, TypeError):
        return None
    return (tags, _quantity(part, "AllocatedUsageQuantity"))  # type: ignore[arg-type]


def _quantity(members: Mapping[str, Any], name: str) -> int | Decimal | None:
    """
    Return a quantity by value, from the integer member, the decimal one or both; absent, it is 0.

    None if there is no such quantity: it equals no other.
    """
    given = [members.get(member) for member in (name, f"{name}{AS_DECIMAL}")]
    values = {_number(value) for value in given if value is not None}
    return values.pop() if len(values) == 1 else None if values else 0


_DECIMAL: Final = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?")


def _number(value: object) -> int | Decimal | None:
    if isinstance(value, str):
        return Decimal(value) if _DECIMAL.fullmatch(value) else None
    return value if isinstance(value, int | Decimal) and not isinstance(value, bool) else None


def _hour(timestamp: Any) -> int | Decimal | None:  # noqa: ANN401 - whatever was echoed
    """The clock hour of an echoed timestamp: epoch seconds, whole or not, or ISO 8601."""
    try:
        if isinstance(timestamp, str):
            moment = datetime.fromisoformat(timestamp)
            timestamp = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        return timestamp // SECONDS_PER_HOUR  # type: ignore[no-any-return]
    except (ArithmeticError, TypeError, ValueError):
        return None
