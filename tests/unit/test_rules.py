"""Rules: what each says of plain values, whatever their type, and that the fast checks agree."""

from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace_metering_async import limits, rules
from marketplace_metering_async.errors import InvalidRecordError, InvalidRecordTypeError, Violation

anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(),
    st.lists(st.text()),
)
LICENSE = "arn:aws:license-manager::111122223333:license:l-0123456789abcdef0123456789abcdef"


@given(st.text() | st.text("09aZ ", max_size=300))
def test_a_fast_check_is_never_wrong(text: str) -> None:
    """
    True means that the rule finds nothing.
    """
    if rules.is_plain_text(text):
        assert () == rules.text("x", text)
    if rules.is_account_id(text):
        assert () == rules.text("x", text, pattern=limits.ACCOUNT_ID)


@pytest.mark.parametrize("value", [0, -1, 2**31, 10**40, True, 1.0, "1", None])
def test_a_key_version_is_a_whole_number_from_1(value: Any) -> None:
    """
    Of int32, and no text or float of one.
    """
    (violation,) = rules.key_version("here", value)

    assert violation.expected.endswith("1 to 2147483647")
    assert violation.wrong_type is (type(value) is not int)
    assert len(violation.got) < 80


def test_a_key_version_may_be_any_other() -> None:
    """
    Up to the greatest.
    """
    assert () == rules.key_version("here", 1) == rules.key_version("here", 2**31 - 1)


@given(anything)
def test_nothing_that_is_given_breaks_a_rule_itself(value: Any) -> None:
    """
    Each returns its violations, with the path that it was given; none raises.
    """
    for found in (
        rules.text("here", value),
        rules.timestamp("here", value),
    ):
        assert all(violation.path == "here" for violation in found)
    assert rules.tag(value, value) or isinstance(value, str)
    assert rules.product_code(value) or isinstance(value, str)
    rules.identity(value, value, value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        ("a\n", r"'a\n'"),
        (True, "True (bool)"),
        (5, "5 (int)"),
        ([1], "a list"),
        ("x" * 70, f"'{'x' * 59}…"),
    ],
)
def test_values_are_described_short_and_escaped(value: object, text: str) -> None:
    """
    For an error's text.
    """
    assert text == rules.describe(value)


def test_an_id_is_described_by_its_end() -> None:
    """
    Whatever is wrong with it.
    """
    assert "'…3333'" == rules.describe("111122223333", masked=True)


class _NoOffset(tzinfo):
    def utcoffset(self, moment: datetime | None) -> None:
        return None

    def dst(self, moment: datetime | None) -> None:
        return None

    def tzname(self, moment: datetime | None) -> None:
        return None


@pytest.mark.parametrize(
    ("value", "got"),
    [
        (datetime(2026, 1, 1), "one without"),  # noqa: DTZ001 - that is the point
        (datetime(2026, 1, 1, tzinfo=_NoOffset()), "one without"),
        (datetime.min.replace(tzinfo=timezone(timedelta(hours=1))), "OverflowError"),
        ("2026-01-01T00:00:00Z", "'2026-01-01T00:00:00Z'"),
    ],
)
def test_what_is_no_timestamp(value: object, got: str) -> None:
    """
    A time that is somebody's local one, or one that UTC cannot express.
    """
    assert [got] == [violation.got for violation in rules.timestamp("t", value)]
    assert () == rules.timestamp("t", datetime(2026, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("ids", "path"),
    [
        (("111122223333", None, None), None),
        ((None, "legacy", None), None),
        (("111122223333", None, LICENSE), None),
        ((None, None, None), "customer_aws_account_id"),
        ((None, None, LICENSE), "customer_aws_account_id"),
        ((None, "legacy", LICENSE), "customer_aws_account_id"),
        (("111122223333", "legacy", None), "customer_identifier"),
        (("x", None, None), "customer_aws_account_id"),
        (("111122223333", None, "arn:x"), "license_arn"),
    ],
)
def test_a_customer_is_named_under_one_scheme(
    ids: tuple[str | None, ...], path: str | None
) -> None:
    """
    And the violation says which member is too much, or lacking.
    """
    assert ([] if path is None else [path]) == [v.path for v in rules.identity(*ids)]


def test_violations_are_raised_together() -> None:
    """
    As a TypeError too, where one is of a type; none raises nothing.
    """
    rules.raise_if_any(())
    wrong = [Violation("a", "x", "y"), Violation("b", "x", "y", wrong_type=True)]

    with pytest.raises(InvalidRecordError) as caught:
        rules.raise_if_any(wrong[:1])
    assert InvalidRecordError is type(caught.value)
    with pytest.raises(InvalidRecordTypeError) as caught:
        rules.raise_if_any(iter(wrong))
    assert tuple(wrong) == caught.value.violations
