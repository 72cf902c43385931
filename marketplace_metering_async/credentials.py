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
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Generic, Protocol, TypeVar

from marketplace_metering_async.errors import ConfigurationError, MeteringError, NoCredentialsError
from marketplace_metering_async.sigv4 import Keys

_PAUSE: Final = 5.0
"""Seconds before a provider that failed, or brought what it had before, is asked again."""

_PLAIN: Final = frozenset(
    {
        "ConfigNotFound",
        "InfiniteLoopConfigError",
        "InvalidConfigError",
        "PartialCredentialsError",
        "ProfileNotFound",
        "SSOTokenLoadError",
        "UnauthorizedSSOTokenError",
        "UnknownCredentialError",
    }
)
"""Errors of botocore whose texts name settings only. Others may repeat what a process printed."""

Again = Callable[[], Awaitable[Any]]
"""Asks the provider that found some credentials for such once more."""

Result = TypeVar("Result")


class SingleFlight(Generic[Result]):
    """
    Runs a piece of work once for all who ask for it at the same time; all get its outcome.

    If the one who runs it is cancelled, the next of those who wait runs it.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._ended = 0
        self._result: Result
        self._error: MeteringError | None = None

    async def run(self, work: Callable[[], Awaitable[Result]]) -> Result:
        """Return or raise what *work*, run by this or an earlier caller, comes to."""
        ended = self._ended
        async with self._lock:
            if self._ended == ended:
                self._error = None
                try:
                    self._result = await work()
                except MeteringError as error:
                    self._error = error
                self._ended += 1
        if self._error is not None:
            raise copy.copy(self._error)  # a copy each, so that tracebacks do not pile up
        return self._result


class Credentials(Protocol):
    """Where keys come from."""

    @property
    def source(self) -> str:
        """Where, in a word: `arguments`, or the provider as botocore calls it."""
        ...

    async def keys(self) -> Keys:
        """
        Return the keys of this moment.

        Raises:
            ConfigurationError: there are none any more.
        """
        ...

    async def renew(self) -> bool:
        """
        Ask for new keys although the old ones look good; whether other ones came.

        Raises:
            ConfigurationError: the provider failed.
        """
        ...


class FixedKeys:
    """Keys that were passed in."""

    source = "arguments"

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def keys(self) -> Keys:
        """Return the keys."""
        return self._keys

    async def renew(self) -> bool:
        """Find nothing: whoever passed them in has others, if anybody."""
        return False


class EnvironmentKeys(FixedKeys):
    """Keys that stand in the environment, where the program may put others later."""

    source = "env"

    async def renew(self) -> bool:
        """Look again."""
        before, self._keys = self._keys, from_environment(os.environ) or self._keys
        return self._keys != before


def from_environment(environ: Mapping[str, str]) -> Keys | None:
    """Return the keys in *environ*, in the order of botocore's EnvProvider; None without a pair."""
    access_key = environ.get("AWS_ACCESS_KEY_ID")
    secret_key = environ.get("AWS_SECRET_ACCESS_KEY")
    if not access_key or not secret_key:
        return None
    token = environ.get("AWS_SECURITY_TOKEN") or environ.get("AWS_SESSION_TOKEN")
    return Keys(access_key, secret_key, token)


class FoundCredentials:
    """
    Credentials that a provider of aiobotocore found, and refreshes before they expire.

    A refresh that fails is no error while the keys at hand are good: some minutes remain then.
    """

    def __init__(
        self,
        found: Any,
        again: Again,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Hold what was *found*; *again* asks the same provider for it once more."""
        self._found = found
        self._again = again
        self._monotonic = monotonic
        self._frozen: Any = None
        self._keys: Keys | None = None  # of _frozen
        self._failure: MeteringError | None = None  # of the last refresh
        self._rest_until = -1.0  # no refresh before then
        self._refreshing = SingleFlight[Keys]()
        self._renewing = SingleFlight[bool]()

    @property
    def source(self) -> str:
        """The provider, as botocore calls it."""
        return str(getattr(self._found, "method", "") or type(self._found).__name__)

    async def keys(self) -> Keys:
        """Return access key, secret and token as one; the provider refreshes them before time."""
        if not self._needs_refresh():
            return self._as_keys(await self._found.get_frozen_credentials())
        if self._monotonic() < self._rest_until:
            return self._still_good()
        return await self._refreshing.run(self._refresh)

    async def renew(self) -> bool:
        """Ask the same provider again; another one might stand for another account."""
        return await self._renewing.run(self._ask_again)

    async def _refresh(self) -> Keys:
        self._failure = None
        try:
            keys = self._as_keys(await self._found.get_frozen_credentials())
        except Exception as error:  # noqa: BLE001 - a provider may raise anything
            self._failure = _failure(self.source, error)
        else:
            if not self._needs_refresh():
                return keys
        self._rest_until = self._monotonic() + _PAUSE
        return self._still_good()

    async def _ask_again(self) -> bool:
        if self._monotonic() >= self._rest_until:
            self._failure, before = None, self._keys
            try:
                found = await self._again()
                if found is not None:
                    fresh = self._as_keys(await found.get_frozen_credentials())
                    if fresh != before:
                        self._found = found
                        return True
            except Exception as error:  # noqa: BLE001 - a provider may raise anything
                self._failure = _failure(self.source, error)
            self._rest_until = self._monotonic() + _PAUSE
        if self._failure is not None:
            raise copy.copy(self._failure)
        return False

    def _needs_refresh(self, within: float | None = None) -> bool:
        needed = getattr(self._found, "refresh_needed", None)
        return needed is not None and bool(needed(within))

    def _still_good(self) -> Keys:
        if self._keys is not None and not self._needs_refresh(within=0):
            return self._keys
        raise copy.copy(
            self._failure or ConfigurationError(f"credentials of {self.source}: expired")
        )

    def _as_keys(self, frozen: Any) -> Keys:
        if self._keys is None or frozen != self._frozen:
            self._keys = Keys(frozen.access_key, frozen.secret_key, frozen.token)
            self._frozen = frozen
        return self._keys


async def from_session(session: Any, region_name: str, *, ours: bool) -> FoundCredentials:
    """
    Return the credentials of *session*, aiobotocore's; *ours* says that nobody else uses it.

    Raises:
        NoCredentialsError: none anywhere.
        ConfigurationError: a profile or provider that cannot be used.
    """
    try:
        found, again = await _find(session, region_name, ours=ours)
    except Exception as error:  # noqa: BLE001 - a provider may raise anything
        failure = _failure("chain", error)
    else:
        if found is None:
            raise NoCredentialsError
        credentials = FoundCredentials(found, again)
        await credentials.keys()
        return credentials
    raise failure


async def _find(session: Any, region_name: str, *, ours: bool) -> tuple[Any, Again]:
    """Return what the chain found, and how to ask the same provider again."""
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

    return found, again


def _failure(source: str, error: Exception) -> MeteringError:
    """Say what failed without secrets, and without the error, which may hold some, as context."""
    if isinstance(error, MeteringError):
        return error
    kind = type(error).__name__
    reason = str(error) if kind in _PLAIN else kind
    return ConfigurationError(f"credentials of {source}: {reason}")
