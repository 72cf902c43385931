"""Values of the sandbox go through JSON and back: one codec for state file, controls and copies."""

import gc
import json
import weakref
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace_metering_async.sandbox import (
    Agreement,
    Fault,
    FaultKind,
    Metered,
    Product,
    Rules,
    World,
)
from marketplace_metering_async.sandbox import as_json as codec
from marketplace_metering_async.sandbox.as_json import (
    arguments_from_json,
    as_json,
    decoded,
    from_json,
)
from marketplace_metering_async.sandbox.clock import ClockSetting
from marketplace_metering_async.sandbox.service.metered import Key
from marketplace_metering_async.sandbox.service.quantities import of_millionths
from marketplace_metering_async.sandbox.service.resolve_customer import RegistrationToken

MOMENTS = st.datetimes(timezones=st.just(UTC))
TIMES = st.timedeltas(timedelta(0), timedelta(days=100))
QUANTITIES = st.integers(0, 10**16).map(of_millionths)
ALLOCATIONS = st.tuples(st.tuples(st.just((("k", "v"),)), QUANTITIES))
OPTIONAL = st.none() | MOMENTS
SETTING = st.builds(ClockSetting, now=MOMENTS, speed=st.floats(0, 100))
LASTS = st.timedeltas(timedelta(0), timedelta(days=10_000))
VALUES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (
        Agreement,
        st.builds(
            lambda begins, lasts, free, names: Agreement(
                agreement_id=names[0],
                product_code=names[1],
                customer_aws_account_id=names[2],
                begins=begins,
                ends=None if lasts is None else begins + lasts,
                free_until=None if free is None else begins + free,
            ),
            st.datetimes(max_value=datetime(9000, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
            st.none() | LASTS,
            st.none() | LASTS,
            st.tuples(*[st.text(min_size=1)] * 3),
        ),
    ),
    (
        Fault,
        st.builds(
            Fault,
            kind=st.sampled_from(FaultKind),
            records=st.none() | st.lists(st.integers(0, 24)),
            customer=st.none() | st.text(),
        ),
    ),
    (
        Metered,
        st.builds(
            Metered,
            timestamp=MOMENTS,
            received=MOMENTS,
            quantity=QUANTITIES,
            allocations=st.just(()) | ALLOCATIONS,
        ),
    ),
    (
        Product,
        st.builds(
            Product,
            dimensions=st.frozensets(st.text()),
            customers=st.dictionaries(st.text(), st.booleans()),
            licenses=st.dictionaries(st.text(), st.text()),
            key_rotated=OPTIONAL,
        ),
    ),
    (Rules, st.builds(Rules, age=TIMES, closing=TIMES, regions=st.frozensets(st.text()))),
    (RegistrationToken, st.builds(RegistrationToken, answer=st.just({"A": {}}), issued=MOMENTS)),
    (
        Key,
        st.tuples(
            st.text(),
            *[st.none() | st.text()] * 4,
            st.text(),
            st.floats(allow_nan=False, allow_infinity=False)
            | st.text(),  # NaN equals nothing, infinity is no JSON
        ),
    ),
    (ClockSetting | None, st.none() | SETTING),
    (dict[int, ClockSetting], st.dictionaries(st.integers(), SETTING)),
    (frozenset[tuple[str, str]], st.frozensets(st.tuples(st.text(), st.text()))),
]


@pytest.mark.parametrize(("kind", "values"), VALUES, ids=lambda one: getattr(one, "__name__", ""))
@given(data=st.data())
def test_what_was_written_is_read(
    kind: Any, values: st.SearchStrategy[Any], data: st.DataObject
) -> None:
    """
    Every value comes back as it was, through text as well.
    """
    value = data.draw(values)

    assert value == from_json(kind, json.loads(json.dumps(as_json(value))))


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (Product, []),
        (Product, {"title": "t", "price": 1}),
        (Product, {"dimensions": "requests"}),
        (Fault, {"kind": "none"}),
        (Agreement, {"agreement_id": "a"}),
        (ClockSetting, {"now": "yesterday", "speed": 1}),
        (float, float("nan")),
        (float, 10**400),
        (Decimal, "1,5"),
        (list[Fault], {"kind": "slow"}),
        (tuple[str, int], ["a"]),
        (dict[str, int], [1]),
    ],
)
def test_what_is_no_value_is_refused(kind: Any, told: Any) -> None:
    """
    With one of the errors that say so, whatever it is.
    """
    with pytest.raises((TypeError, ValueError)):
        from_json(kind, told)


def test_what_has_no_form_is_not_written() -> None:
    """
    A value of another kind is a mistake of ours, and no text in its place.
    """
    with pytest.raises(TypeError, match="object"):
        as_json({"what": object()})


@pytest.mark.parametrize("library", ["orjson", "json"])
@pytest.mark.parametrize(
    ("body", "is_json"),
    [
        (rb'{"a": "\ud83d\ude00"}', True),
        (rb'{"a": "\\ud800"}', True),
        (rb'{"a": "\ud800"}', False),
        (rb'{"\udc00": 1}', False),
        (rb'{"a": ["b", {"c": "x\uDBFFy"}]}', False),
        (b'{"a": "\xed\xa0\x80"}', False),
        (b"\xef\xbb\xbf{}", False),
        (b'{"a": NaN}', False),
        (b'{"a": 1e400}', False),
        (b'{"a": [-1e400]}', False),
        (b"9" * 400, False),
        (b"9" * 5000, False),
        (b"[" * 100 + b"]" * 100, True),
        (b"[" * 101 + b"]" * 101, False),
        (b"[" + b"{}," * 200 + b"{}]", True),
        (b'{"a":' * 600 + b"1" + b"}" * 600, False),
        (b"[" * 100_000 + b"]" * 100_000, False),
    ],
)
def test_bytes_are_read_the_same_with_either_library(
    monkeypatch: pytest.MonkeyPatch, library: str, body: bytes, *, is_json: bool
) -> None:
    """
    Also what UTF-8 cannot say: half of a surrogate pair.
    """
    if library == "json":
        monkeypatch.setattr(codec, "orjson", None)
    if is_json:
        assert json.loads(body) == decoded(body)
    else:
        with pytest.raises(ValueError):  # noqa: PT011 - of either library
            decoded(body)


@pytest.mark.parametrize("library", ["orjson", "json"])
@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"18446744073709551615", 2**64 - 1),
        (b"18446744073709551616", float(2**64)),
        (b"-9223372036854775808", -(2**63)),
        (b"-9223372036854775809", -float(2**63)),
        (b"1" + b"0" * 25, 1e25),
        (b"1795989600.25", 1795989600.25),
        (b"1e3", 1000.0),
        (b"-0", 0),
    ],
)
def test_a_number_is_the_same_with_either_library(
    monkeypatch: pytest.MonkeyPatch, library: str, body: bytes, value: float
) -> None:
    """
    So that a test has the same error code where an extra is installed and where it is not.
    """
    if library == "json":
        monkeypatch.setattr(codec, "orjson", None)

    assert (value, type(value)) == (decoded(body), type(decoded(body)))


@pytest.mark.parametrize("library", ["orjson", "json"])
def test_half_a_character_is_written_with_either_library(
    monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    """
    Such as the code of a fault that a test has set; orjson takes none.
    """
    if library == "json":
        monkeypatch.setattr(codec, "orjson", None)

    assert {"__type": "\ud800"} == json.loads(codec.encoded({"__type": "\ud800"}))


def test_nothing_keeps_whoever_carries_out_an_order() -> None:
    """
    A run of tests has many worlds, each with its book, one after the other.
    """
    world = World()
    assert {"everything": True} == arguments_from_json(world.reset, {"everything": True})
    gone = weakref.ref(world)
    del world
    gc.collect()

    assert gone() is None
