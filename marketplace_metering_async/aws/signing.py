"""
Signed requests: opens at the first one, finding out where to send and as whom.

Only `endpoints` and `credentials`, which this builds on, know botocore and aiobotocore. No SDK
client is made: that is what would be slow.
"""

# ruff: noqa: ANN401 - botocore has no types

import asyncio
import os
from collections.abc import Callable
from datetime import datetime
from inspect import iscoroutinefunction
from typing import Any, Final

from attrs import define, field

from marketplace_metering_async.aws import credentials, endpoints
from marketplace_metering_async.aws.credentials import SingleFlight
from marketplace_metering_async.aws.endpoints import FoundEndpoint
from marketplace_metering_async.aws.sigv4 import Keys, SigV4
from marketplace_metering_async.aws.transport import Request
from marketplace_metering_async.errors import ConfigurationError

_UNSIGNED: Final = {
    "User-Agent": "marketplace-metering-async/0.1.0",
    "Accept-Encoding": "identity",
}
"""The version stands here, since to look it up takes longer than all else at the first request."""


@define(kw_only=True, slots=False, eq=False, repr=False)
class Signer:
    """
    Finds region, endpoint and credentials at the first call, and signs requests with them.

    Attributes: what the client was given.
    """

    region_name: str | None = None
    endpoint_url: str | None = None
    profile_name: str | None = None
    aws_access_key_id: str | None = None
    aws_secret_access_key: str | None = None
    aws_session_token: str | None = None
    session: Any = None
    _opening: SingleFlight[FoundEndpoint] = field(init=False, factory=SingleFlight)
    _endpoint: FoundEndpoint | None = field(init=False, default=None)
    _credentials: credentials.Credentials | None = field(init=False, default=None)
    _sigv4: SigV4 | None = field(init=False, default=None)

    @property
    def source(self) -> str | None:
        """Where the credentials come from: `arguments`, or botocore's word; None before open()."""
        return None if self._credentials is None else self._credentials.source

    async def open(self) -> FoundEndpoint:
        """
        Find region, endpoint and credentials; later calls return what the first one found.

        Files and modules are read in a thread. Cancelling leaves the signer as it was.

        Raises:
            NoRegionError: no region anywhere.
            NoCredentialsError: no credentials anywhere.
            ConfigurationError: keys, a profile or an endpoint that cannot be used.
        """
        if self._endpoint is not None:
            return self._endpoint
        return await self._opening.run(self._open)

    async def sign(self, operation: str, body: bytes, now: Callable[[], datetime]) -> Request:
        """
        Return a signed request of *operation*; *now* returns the service's time, aware.

        It is asked once there are keys, which may take long where they have expired. Cancelling
        leaves whoever else waits for them waiting.

        Raises:
            ConfigurationError: not open, or the credentials have expired and cannot be refreshed.
        """
        if self._endpoint is None or self._sigv4 is None or self._credentials is None:
            raise ConfigurationError("the signer is not open")
        keys = await self._credentials.keys()
        return Request(self._endpoint.url, self._sigv4.headers(operation, body, now(), keys), body)

    async def renew(self, refused: Request) -> bool:
        """
        Find credentials anew, after the service refused those of *refused*.

        Asks once for all who call at the same time, and not at all if newer keys than those of
        *refused* are in use by now. False if the same ones came back, or were passed in by hand.

        Raises:
            ConfigurationError: the provider of the credentials failed.
        """
        if self._credentials is None:
            return False
        latest = self._credentials.latest
        if latest is not None and not latest.signed(refused.headers):
            return True
        return await self._credentials.renew()

    async def aclose(self) -> None:
        """End what looks for credentials now; whoever waits for it gets ClientClosedError."""
        await self._opening.aclose()
        if self._credentials is not None:
            await self._credentials.aclose()

    async def _open(self) -> FoundEndpoint:
        given = self._given_keys()
        endpoint, source = await asyncio.to_thread(self._look_up, given)
        if isinstance(source, Keys):
            fixed = credentials.FixedKeys if given else credentials.EnvironmentKeys
            found: credentials.Credentials = fixed(source)
        else:
            ours = self.session is None
            found = await credentials.from_session(source, endpoint.region_name, ours=ours)
        self._credentials = found
        self._sigv4 = SigV4(endpoint.url, endpoint.region_name, unsigned=_UNSIGNED)
        self._endpoint = endpoint
        return endpoint

    def _given_keys(self) -> Keys | None:
        access_key, secret_key = self.aws_access_key_id, self.aws_secret_access_key
        if access_key is not None and secret_key is not None:
            return Keys(access_key, secret_key, self.aws_session_token)
        if (access_key, secret_key, self.aws_session_token) != (None, None, None):
            raise ConfigurationError(
                "aws_access_key_id, aws_secret_access_key: expected both or neither, and "
                "aws_session_token only with them"
            )
        return None

    # In a thread: it reads files and imports heavy modules.

    def _look_up(self, given: Keys | None) -> tuple[FoundEndpoint, Any]:
        """Find the endpoint, and the keys or the session that can find some."""
        names = {"region_name": self.region_name, "endpoint_url": self.endpoint_url}
        if self.session is None and self.profile_name is None:
            keys = given or credentials.from_environment(os.environ)
            endpoint = endpoints.from_environment(os.environ, **names) if keys else None
            if endpoint is not None:
                return endpoint, keys
        session = self._new_session(given) if self.session is None else self._callers_session()
        return endpoints.from_session(session, **names), given or session

    def _new_session(self, given: Keys | None) -> Any:
        if given is not None:
            import botocore.session  # noqa: PLC0415 - without the chain, half the import

            return botocore.session.Session(profile=self.profile_name)
        from aiobotocore.session import AioSession  # noqa: PLC0415 - heavy

        return AioSession(profile=self.profile_name)

    def _callers_session(self) -> Any:
        if self.profile_name is not None:
            raise ConfigurationError(
                "profile_name: expected none beside a session, which has its own"
            )
        if not iscoroutinefunction(getattr(self.session, "get_credentials", None)):
            kind = type(self.session)
            raise ConfigurationError(
                f"session: expected one of aiobotocore, got {kind.__module__}.{kind.__qualname__}"
            )
        return self.session
