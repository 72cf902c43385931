"""Calls per second: a token bucket for each account, region and operation, on real time."""

from collections.abc import ItemsView
from numbers import Real
from typing import Final, TypeGuard

from marketplace_metering_async.sandbox.service.refusals import Refusal

_OF_NUMBER: Final = {"RegisterUsage": 0.5}
"""The published quotas are 10 a second, and 5 for RegisterUsage; ResolveCustomer has none."""


def _rate_of(operation: str, calls_per_second: float | None) -> float | None:
    if calls_per_second is None:
        return None
    return calls_per_second * _OF_NUMBER.get(operation, 1.0)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, bool) and value < float("inf")


def _checked(calls_per_second: float | None) -> float | None:
    if calls_per_second is None or (_is_number(calls_per_second) and calls_per_second > 0):
        return calls_per_second
    text = "calls_per_second: expected a number above 0, or None"
    raise ValueError(f"{text}, got {calls_per_second!r}")


class Quota:
    """A token bucket: so many calls a second, and so many at once."""

    def __init__(self, calls_per_second: float | None, burst: float) -> None:
        self.calls_per_second = calls_per_second
        self.burst = burst
        self._tokens = burst
        self._since: float | None = None

    def require(self, now: float) -> None:
        """Take a token at monotonic *now*, or raise the refusal that says there is none."""
        if self.calls_per_second is None:
            return
        self._tokens = self.left(now)
        self._since = now
        if self._tokens < 1:
            raise Refusal("ThrottlingException", "Rate exceeded")
        self._tokens -= 1

    def left(self, now: float) -> float:
        """Return how many calls could be made at once at monotonic *now*."""
        elapsed = 0.0 if self._since is None else now - self._since
        return min(self.burst, self._tokens + elapsed * (self.calls_per_second or 0.0))


class Quotas:
    """A quota for each account, region and operation that has called."""

    def __init__(self, calls_per_second: float | None, burst: float) -> None:
        self._quotas: dict[tuple[str, str, str], Quota] = {}
        self.set(calls_per_second, burst)

    @property
    def calls_per_second(self) -> float | None:
        """The rate; set, it holds at once, and the buckets keep what is in them."""
        return self._calls_per_second

    @calls_per_second.setter
    def calls_per_second(self, calls_per_second: float | None) -> None:
        self._calls_per_second = _checked(calls_per_second)
        for (_, _, operation), quota in self.items():
            quota.calls_per_second = _rate_of(operation, self._calls_per_second)

    def set(self, calls_per_second: float | None, burst: float) -> None:
        """Change rates and bursts; all buckets are full."""
        if not _is_number(burst) or not burst >= 1:
            raise ValueError(f"burst: expected 1 or more, got {burst!r}")
        self._calls_per_second, self._burst = _checked(calls_per_second), burst
        self._quotas.clear()

    def of(self, account: str, region: str, operation: str) -> Quota:
        """Return the quota that a request counts against."""
        whose = (account, region, operation)
        quota = self._quotas.get(whose)
        if quota is None:
            quota = Quota(_rate_of(operation, self._calls_per_second), self._burst)
            self._quotas[whose] = quota
        return quota

    def items(self) -> ItemsView[tuple[str, str, str], Quota]:
        """Return (account, region, operation) and quota, of those that have called until now."""
        return self._quotas.copy().items()
