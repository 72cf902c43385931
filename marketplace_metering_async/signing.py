"""
Where to send and as whom, found the way every AWS SDK finds it. Only this file knows botocore.

Region, endpoint, certificate authorities and proxies come from botocore's configuration,
credentials from aiobotocore's chain of providers, which also refreshes them. Whatever reads files
or imports heavy modules runs in a thread. No SDK client is made: that is what would be slow.
"""

import asyncio
import ipaddress
import os
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from attrs import evolve, frozen

from marketplace_metering_async.errors import ConfigurationError, NoCredentialsError, NoRegionError
from marketplace_metering_async.sigv4 import Keys, SigV4
from marketplace_metering_async.transport import Request, TransportSettings

if TYPE_CHECKING:
    from aiobotocore.session import AioSession

_BOTO_NAME: Final = "meteringmarketplace"


@frozen(kw_only=True)
class Endpoint:
    """
    Where requests go.

    Attributes:
        url: Of the service.
        region_name: That requests are signed for.
        transport: What the transport needs to know to get there.
    """

    url: str
    region_name: str
    transport: TransportSettings

    def settings(self, max_connections: int) -> TransportSettings:
        """Return the settings of a transport with so many connections."""
        return evolve(self.transport, max_connections=max_connections)


class Signer:
    """Finds region, endpoint and credentials at the first call, and signs requests with them."""

    def __init__(
        self,
        *,
        region_name: str | None = None,
        endpoint_url: str | None = None,
        profile_name: str | None = None,
        aws_access_key_id: str | None = None,
        aws_secret_access_key: str | None = None,
        aws_session_token: str | None = None,
        session: "AioSession | None" = None,
    ) -> None:
        self._region_name = region_name
        self._endpoint_url = endpoint_url
        self._profile_name = profile_name
        self._given = (aws_access_key_id, aws_secret_access_key, aws_session_token)
        self._session: Any = session
        self._endpoint: Endpoint | None = None
        self._sigv4: SigV4 | None = None
        self._keys: Keys | None = None  # credentials that do not expire by themselves
        self._provider: Any = None  # botocore's refreshable credentials, where they do
        self._signed_with: Keys | None = None  # the keys of the last signature
        self._agent = "marketplace-metering-async"
        self._opening = asyncio.Lock()

    async def open(self) -> Endpoint:
        """
        Find region, endpoint and credentials; later calls return what the first one found.

        Raises:
            NoRegionError: no region anywhere.
            NoCredentialsError: no credentials anywhere.
            ConfigurationError: a profile or an endpoint that cannot be used.
        """
        if self._endpoint is not None:
            return self._endpoint
        async with self._opening:
            if self._endpoint is None:
                endpoint = await asyncio.to_thread(self._look_up)
                await self._find_credentials()
                self._sigv4 = SigV4(endpoint.url, endpoint.region_name)
                self._endpoint = endpoint
        return self._endpoint

    async def sign(self, operation: str, body: bytes, now: datetime) -> Request:
        """
        Return a signed request of *operation*; *now* is the time as the service has it.

        Raises:
            NoCredentialsError: the credentials cannot be refreshed.
        """
        endpoint, sigv4 = self._endpoint, self._sigv4
        if endpoint is None or sigv4 is None:
            raise ConfigurationError("the signer is not open")
        keys = self._keys or await self._fresh_keys()
        self._signed_with = keys
        headers = sigv4.headers(operation, body, now, keys)
        headers["User-Agent"] = self._agent
        return Request(endpoint.url, headers, body)

    async def renew(self) -> bool:
        """
        Find the credentials anew, after the service called them expired; once for all callers.

        False if the same ones came back, or if they were passed in by hand.
        """
        if self._given[0] is not None:
            return False
        stale = self._signed_with
        async with self._opening:
            if self._signed_with != stale:
                return True  # somebody else has renewed them meanwhile
            try:
                await self._find_credentials(afresh=True)
                fresh = self._keys or await self._fresh_keys()
            except NoCredentialsError:
                return False
            self._signed_with = fresh
            return fresh != stale

    # Off the event loop, in a thread.

    def _look_up(self) -> Endpoint:
        from botocore.exceptions import BotoCoreError  # noqa: PLC0415 - heavy

        try:
            session = self._session = self._session or self._new_session()
            self._agent = f"marketplace-metering-async/{_version()} {session.user_agent()}"
            region = self._region_name or _region(session)
            if not region:
                raise NoRegionError
            url = self._endpoint_url or _configured_endpoint(session) or _endpoint(session, region)
            _require_safe(url)
            transport = TransportSettings(
                ca_bundle=_ca_bundle(session),
                client_cert=_client_cert(session),
                proxy_url=_proxy(url),
            )
        except BotoCoreError as error:
            raise ConfigurationError(str(error)) from error
        return Endpoint(url=url, region_name=region, transport=transport)

    def _new_session(self) -> Any:  # noqa: ANN401 - botocore has no types
        if self._given[0] is not None:
            import botocore.session  # noqa: PLC0415 - without the chain, half the import

            return botocore.session.Session(profile=self._profile_name)
        from aiobotocore.session import AioSession  # noqa: PLC0415 - heavy

        return AioSession(profile=self._profile_name)

    # Credentials.

    async def _find_credentials(self, *, afresh: bool = False) -> None:
        access_key, secret_key, token = self._given
        if access_key is not None or secret_key is not None:
            if access_key is None or secret_key is None:
                raise ConfigurationError("aws_access_key_id and aws_secret_access_key go together")
            self._keys = Keys(access_key, secret_key, token)
            return
        from botocore.exceptions import BotoCoreError  # noqa: PLC0415 - loaded by now

        try:
            if afresh:
                chain = self._session.get_component("credential_provider")
                found = await chain.load_credentials()
            else:
                found = await self._session.get_credentials()
        except BotoCoreError as error:
            raise NoCredentialsError(type(error).__name__) from error
        if found is None:
            raise NoCredentialsError
        self._provider = found
        refreshable = hasattr(found, "refresh_needed")
        self._keys = None if refreshable else _keys(await found.get_frozen_credentials())

    async def _fresh_keys(self) -> Keys:
        """Take access key, secret and token together; the provider refreshes them before time."""
        try:
            return _keys(await self._provider.get_frozen_credentials())
        except Exception as error:  # a provider may raise anything: files, HTTP, processes
            raise NoCredentialsError(type(error).__name__) from error


def _keys(frozen: Any) -> Keys:  # noqa: ANN401 - botocore has no types
    return Keys(frozen.access_key, frozen.secret_key, frozen.token)


def _version() -> str:
    try:
        return version("marketplace-metering-async")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "0"


def _region(session: Any) -> str | None:  # noqa: ANN401
    """Botocore's rules, and AWS_REGION, which the other SDKs read, before the profile's region."""
    if os.environ.get("AWS_DEFAULT_REGION") or not os.environ.get("AWS_REGION"):
        found = session.get_config_variable("region")
        return str(found) if found else None
    return os.environ["AWS_REGION"]


def _configured_endpoint(session: Any) -> str | None:  # noqa: ANN401
    from botocore.configprovider import ConfiguredEndpointProvider  # noqa: PLC0415 - heavy

    if session.get_config_variable("ignore_configured_endpoint_urls"):
        return None
    chain = ConfiguredEndpointProvider(
        full_config=session.full_config,
        scoped_config=session.get_scoped_config(),
        client_name="marketplace-metering",
    )
    found = chain.provide()
    return str(found) if found else None


def _endpoint(session: Any, region: str) -> str:  # noqa: ANN401
    """Ask botocore's rule set: it knows partitions, FIPS and dual-stack hosts."""
    from botocore.endpoint_provider import EndpointProvider  # noqa: PLC0415 - heavy

    loader = session.get_component("data_loader")
    rules = EndpointProvider(
        ruleset_data=loader.load_service_model(_BOTO_NAME, "endpoint-rule-set-1"),
        partition_data=loader.load_data("partitions"),
    )
    endpoint = rules.resolve_endpoint(
        Region=region,
        UseFIPS=bool(session.get_config_variable("use_fips_endpoint")),
        UseDualStack=bool(session.get_config_variable("use_dualstack_endpoint")),
    )
    return str(endpoint.url)


def _ca_bundle(session: Any) -> str | None:  # noqa: ANN401
    """The configured bundle, or the one that AWS's SDKs for Python bring along."""
    configured = session.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE")
    if configured:
        return str(configured)
    import botocore  # noqa: PLC0415 - heavy

    bundled = os.path.join(os.path.dirname(botocore.__file__), "cacert.pem")  # noqa: PTH118, PTH120
    return bundled if os.path.exists(bundled) else None  # noqa: PTH110


def _client_cert(session: Any) -> tuple[str, str | None] | None:  # noqa: ANN401
    config = session.get_default_client_config()
    cert = getattr(config, "client_cert", None)
    if cert is None:
        return None
    return (cert, None) if isinstance(cert, str) else (cert[0], cert[1])


def _proxy(url: str) -> str | None:
    """The proxy that botocore would take from the environment; `.netrc` is never read."""
    from botocore.utils import get_environ_proxies  # noqa: PLC0415 - heavy

    parts = urlsplit(url)
    proxies = get_environ_proxies(url)
    found = proxies.get(parts.scheme) or proxies.get("all")
    return None if not found else found if "://" in found else f"http://{found}"


def _require_safe(url: str) -> None:
    """Refuse an endpoint to which a security token must not go in the clear."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
        _ = parts.port
    except ValueError:
        raise ConfigurationError(
            "endpoint_url: expected a URL, got none that can be read"
        ) from None
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigurationError(f"endpoint_url: expected http(s)://host, got {url[:60]!r}")
    if parts.query or parts.fragment or parts.username:
        raise ConfigurationError("endpoint_url: expected no user, query or fragment")
    if parts.scheme == "http" and not _is_loopback(host):
        raise ConfigurationError(
            f"endpoint_url: expected https, since requests carry credentials; plain http goes to "
            f"loopback only, got {host}"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
