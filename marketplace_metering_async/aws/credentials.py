"""
As whom to sign: keys that were passed in or found by aiobotocore's chain of providers, kept fresh.

Whoever asks while keys are being fetched waits for the same fetch and shares its outcome, so that
a hundred requests that meet an expiry cost one call to the provider.
"""

# ruff: noqa: ANN401 - botocore has no types

import asyncio
import copy
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final, Generic, TypeVar

from attrs import define, field

from marketplace_metering_async.aws.sigv4 import Keys
from marketplace_metering_async.errors import (
    ClientClosedError,
    ConfigurationError,
    MeteringError,
    NoCredentialsError,
    UnexpectedError,
)

_PAUSE: Final = 5.0
"""Seconds before a provider that failed, or brought what it had before, is asked again."""
_LONGEST: float = 120.0
"""Seconds after which a provider that does not answer has failed; STS alone is given 60."""

_PLAIN: Final = (
    "ConfigNotFound",
    "InfiniteLoopConfigError",
    "InvalidConfigError",
    "LoginError",
    "MissingDependencyException",
    "PartialCredentialsError",
    "ProfileNotFound",
    "RefreshWithMFAUnsupportedError",
    "SSOError",
    "UnknownCredentialError",
)
"""Errors of botocore, and their kinds, whose texts name settings only: no process printed them."""

Again = Callable[[], Awaitable[Any]]
"""Asks the same provider for fresh credentials."""

Result = TypeVar("Result")
Work = Callable[[], Coroutine[Any, Any, Result]]


class SingleFlight(Generic[Result]):
    """
    Runs a piece of work once for all who ask for it at the same time; all get its outcome.

    Whoever is cancelled leaves the others waiting. Work that nobody waits for any more is
    cancelled, unless it was begun ahead of need.
    """

    def __init__(self) -> None:
        self._running: asyncio.Task[Result] | None = None
        self._waiting = 0
        self._ahead = False  # whether it was begun ahead of need
        self._closed = False

    def begin(self, work: Work[Result], *, ahead: bool = True) -> "asyncio.Task[Result]":
        """Begin *work*, *ahead* of need or not, unless some is running."""
        if self._running is None:
            if self._closed:
                raise ClientClosedError("the client is closed")
            self._running = asyncio.create_task(work())
            self._running.add_done_callback(self._end)
            self._ahead = ahead
        return self._running

    async def run(self, work: Work[Result]) -> Result:
        """Return or raise what *work*, run for this or an earlier caller, comes to."""
        running = self.begin(work, ahead=False)
        self._waiting += 1
        try:
            await asyncio.wait((running,))
        finally:
            self._waiting -= 1
            if not (self._waiting or self._ahead or running.done()):
                running.cancel()
                self._running = None
        if running.cancelled():
            if self._closed:
                raise ClientClosedError("the client is closed")
            raise UnexpectedError("CancelledError")  # the work's own, and nobody's wish
        error = running.exception()
        if error is not None:
            raise copy.copy(error)  # a copy each, so that tracebacks do not pile up
        return running.result()

    async def aclose(self) -> None:
        """Cancel what runs; whoever waits for it gets ClientClosedError."""
        self._closed = True
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait((self._running,), timeout=_PAUSE)

    def _end(self, task: "asyncio.Task[Result]") -> None:
        if not task.cancelled():
            task.exception()  # nobody may have waited for it
        if self._running is task:
            self._running = None


class FixedKeys:
    """
    Keys that were passed in.

    Attributes:
        latest: The keys.
    """

    source = "arguments"

    def __init__(self, keys: Keys) -> None:
        self.latest = keys

    async def keys(self) -> Keys:
        """Return the keys."""
        return self.latest

    async def renew(self) -> bool:
        """Explicit keys cannot be renewed."""
        return False

    async def aclose(self) -> None:
        """Nothing runs."""


class EnvironmentKeys(FixedKeys):
    """Keys that stand in the environment, where the program may put others later."""

    source = "env"

    async def renew(self) -> bool:
        """Look again."""
        before, self.latest = self.latest, from_environment(os.environ) or self.latest
        return self.latest != before


def from_environment(environ: Mapping[str, str]) -> Keys | None:
    """Return the keys in *environ*, in the order of botocore's EnvProvider; None without a pair."""
    access_key = environ.get("AWS_ACCESS_KEY_ID")
    secret_key = environ.get("AWS_SECRET_ACCESS_KEY")
    if not access_key or not secret_key:
        return None
    token = environ.get("AWS_SECURITY_TOKEN") or environ.get("AWS_SESSION_TOKEN")
    return Keys(access_key, secret_key, token)


@define(slots=False, eq=False, repr=False)
class FoundCredentials:
    """
    Credentials that a provider of aiobotocore found, and refreshes before they expire.

    A refresh that fails is no error while the keys at hand are good: some minutes remain then.

    Attributes:
        latest: The keys at hand, good or not; None before any were asked for.
    """

    _found: Any
    _again: Again  # asks the same provider once more
    _monotonic: Callable[[], float] = time.monotonic
    latest: Keys | None = field(init=False, default=None)
    _failure: MeteringError | None = field(init=False, default=None)  # of the last refresh
    _rest_until: float = field(init=False, default=-1.0)  # no refresh before then
    _refreshing: SingleFlight[Keys] = field(init=False, factory=SingleFlight)
    _renewing: SingleFlight[bool] = field(init=False, factory=SingleFlight)

    @property
    def source(self) -> str:
        """The provider, as botocore calls it."""
        return str(getattr(self._found, "method", "") or type(self._found).__name__)

    async def keys(self) -> Keys:
        """
        Return access key, secret and token as one.

        Keys that are about to expire are refreshed ahead of time, while they are still used; only
        where they have expired is a refresh awaited, which cancelling leaves to the others.

        Raises:
            ConfigurationError: there are none any more.
        """
        if not self._needs_refresh():
            return self._note(await self._found.get_frozen_credentials())
        if self._monotonic() < self._rest_until:
            return self._still_good()
        if (keys := self._good()) is not None:
            self._refreshing.begin(self._refresh)
            return keys
        return await self._refreshing.run(self._refresh)

    async def renew(self) -> bool:
        """
        Ask the same provider again; another one might stand for another account.

        Returns: whether other keys came.

        Raises:
            ConfigurationError: the provider failed.
        """
        return await self._renewing.run(self._ask_again)

    async def aclose(self) -> None:
        """End what asks the provider now."""
        await self._refreshing.aclose()
        await self._renewing.aclose()

    async def _refresh(self) -> Keys:
        await self._ask()
        if self._needs_refresh():
            self._rest_until = self._monotonic() + _PAUSE
        return self._still_good()

    async def _ask_again(self) -> bool:
        if self._monotonic() >= self._rest_until:
            before = self.latest
            await self._ask(self._again)
            if self.latest != before:
                return True
            self._rest_until = self._monotonic() + _PAUSE
        if self._failure is not None:
            raise copy.copy(self._failure)
        return False

    async def _ask(self, again: Again | None = None) -> None:
        """Take what was found, or is found *again*, within a time; note why that fails."""
        self._failure = None
        try:
            async with asyncio.timeout(_LONGEST):
                found = self._found if again is None else await again() or self._found
                self._note(await found.get_frozen_credentials())
                if again is not None:
                    self._found = found
        except Exception as error:  # noqa: BLE001 - a provider may raise anything
            self._failure = _failure(self.source, error)

    def _needs_refresh(self, within: float | None = None) -> bool:
        needed = getattr(self._found, "refresh_needed", None)
        return needed is not None and bool(needed(within))

    def _still_good(self) -> Keys:
        if (keys := self._good()) is not None:
            return keys
        expired = ConfigurationError(f"credentials of {self.source}: expired")
        raise copy.copy(self._failure or expired)

    def _good(self) -> Keys | None:
        """Return the keys at hand, if they have not expired."""
        if self._needs_refresh(within=0):
            return None
        if self.latest is None:  # it has some, but to ask for them would wait for newer ones
            frozen = getattr(self._found, "_frozen_credentials", None)
            return None if frozen is None else self._note(frozen)
        return self.latest

    def _note(self, frozen: Any) -> Keys:
        self.latest = Keys(frozen.access_key, frozen.secret_key, frozen.token)
        return self.latest


Credentials = FixedKeys | FoundCredentials
"""Where keys come from."""


async def from_session(session: Any, region_name: str, *, ours: bool) -> FoundCredentials:
    """
    Return the credentials of *session*, aiobotocore's; *ours* says that nobody else uses it.

    Raises:
        NoCredentialsError: none anywhere.
        ConfigurationError: a profile or provider that cannot be used.
    """
    try:
        async with asyncio.timeout(_LONGEST):
            credentials = await _find(session, region_name, ours=ours)
            await credentials.keys()
            return credentials
    except Exception as error:  # noqa: BLE001 - a provider may raise anything
        failure = _failure("chain", error)
    raise failure


async def _find(session: Any, region_name: str, *, ours: bool) -> FoundCredentials:
    """Return what the chain found, of whichever provider; that one is asked again later."""
    cache: dict[str, Any] = {}  # of roles that were assumed
    if ours:
        from aiobotocore.credentials import create_credential_resolver  # noqa: PLC0415 - heavy

        chain: Any = create_credential_resolver(session, cache=cache, region_name=region_name)
        found: Any = await chain.load_credentials()
    else:
        chain = session.get_component("credential_provider")
        found = await session.get_credentials()

    async def again() -> Any:
        if found.method == "explicit":  # set by the session's owner, who alone has others
            return None
        cache.clear()
        return await chain.get_provider(found.method).load()

    if found is None:
        raise NoCredentialsError
    return FoundCredentials(found, again)


def _failure(source: str, error: Exception) -> MeteringError:
    """Say what failed without secrets, and without the error, which may hold some, as context."""
    if isinstance(error, MeteringError):
        return error
    kind = type(error).__name__
    if isinstance(error, TimeoutError) and not error.args:
        return ConfigurationError(f"credentials of {source}: no response within {_LONGEST:g} s")
    is_plain = any(one.__name__ in _PLAIN for one in type(error).__mro__)
    reason = str(error) if is_plain else kind
    return ConfigurationError(f"credentials of {source}: {reason}")
