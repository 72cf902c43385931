"""How long to wait and when to give up; the only module that knows tenacity."""

import math
from random import Random
from typing import Final, cast

from attrs import Attribute, field, frozen
from attrs.validators import gt, lt, optional
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from marketplace_metering_async.clock import Clock
from marketplace_metering_async.error_kinds import classify
from marketplace_metering_async.errors import MeteringError
from marketplace_metering_async.rules import require_count, require_number
from marketplace_metering_async.service_codes import ErrorKind

MOST_EXTRA_HINT: Final = 5.0
"""Seconds by which a Retry-After may lengthen a delay (AWS's SDK reference, 2026)."""


def _is_number(_: object, attribute: "Attribute[float]", value: object) -> None:
    require_number(attribute.name, value)


def _is_count(_: object, attribute: "Attribute[int]", value: int) -> None:
    require_count(attribute.name, value)


@frozen(kw_only=True)
class RetryPolicy:
    """
    When records are sent again, and when that ends. All times in seconds.

    *timeout* is the time without progress: of a product, counted from its first failed attempt
    since the service last dealt with its records, whose open records then end; and of a whole
    delivery, where nothing progresses. Waiting for a turn and throttles do not count while others
    progress. A record that keeps failing while others of its product progress ends after *timeout*
    since its own first attempt and at least five failed ones; any ends after *max_attempts*.

    Attributes:
        timeout: Without progress.
        attempt_timeout: For one HTTP request, from the connection to the last byte; 5 seconds and
            more end with a whole second of the event loop's time.
        base_delay: The longest first delay.
        max_delay: The longest delay.
        max_attempts: Failed attempts for the service's fault; None: as many as fit.

    Raises:
        ValueError: for a time that is not above 0, an attempt without an end, or attempts that are
            fewer than one or not a whole number.
        TypeError: for anything that is no number.
    """

    timeout: float = field(default=900.0, validator=[_is_number, gt(0)])
    attempt_timeout: float = field(default=30.0, validator=[_is_number, gt(0), lt(math.inf)])
    base_delay: float = field(default=0.1, validator=[_is_number, gt(0)])
    max_delay: float = field(default=20.0, validator=[_is_number, gt(0)])
    max_attempts: int | None = field(default=None, validator=optional(_is_count))


def backoff(
    policy: RetryPolicy, failures: int, random: float, error: MeteringError | None = None
) -> float:
    """
    Return the seconds to wait after the last of some *failures* in a row: full jitter.

    They are the share *random* (0 to 1) of a bound, which is the policy's base delay after the
    first failure, doubles with each, and is never above its longest delay. A Retry-After that came
    with *error* makes them longer, by MOST_EXTRA_HINT at most.
    """
    bound = min(policy.max_delay, policy.base_delay * 2.0 ** min(max(failures, 1) - 1, 60))
    own = random * bound
    hint: float | None = getattr(error, "retry_after", None)
    return own if hint is None else min(max(own, hint), own + MOST_EXTRA_HINT)


def retrying(policy: RetryPolicy, *, clock: Clock, random: Random, end: float) -> AsyncRetrying:
    """
    Return tenacity's loop for one call of an operation that carries no batch.

    It raises the last error itself where the next attempt would start after the monotonic time
    *end*, or the policy's attempts are over, and at once one that is not the service's fault.
    """
    failures = 0

    def wait(state: RetryCallState) -> float:
        return backoff(policy, state.attempt_number, random.random(), _error_of(state))

    def is_over(state: RetryCallState) -> bool:
        nonlocal failures
        failures += classify(_error_of(state)) is not ErrorKind.THROTTLE
        by_attempts = policy.max_attempts is not None and failures >= policy.max_attempts
        return by_attempts or clock.monotonic() + state.upcoming_sleep >= end

    return AsyncRetrying(
        sleep=clock.sleep,
        wait=wait,
        stop=is_over,
        retry=retry_if_exception(_is_of_the_service),
        reraise=True,
    )


def _is_of_the_service(error: BaseException) -> bool:
    faults = (ErrorKind.THROTTLE, ErrorKind.SERVICE)
    return isinstance(error, MeteringError) and classify(error) in faults


def _error_of(state: RetryCallState) -> MeteringError:
    """Return what an attempt ended with; asked only where it is the service's fault."""
    return cast("MeteringError", state.outcome and state.outcome.exception())
