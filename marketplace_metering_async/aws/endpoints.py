"""
Where to send: region, URL, certificate authorities and proxy, as every AWS SDK finds them.

botocore decides, in a thread, since it reads files and takes long to import. Where the environment
alone says everything, as in most containers and functions, the answer is known without it.
"""

# ruff: noqa: ANN401 - botocore has no types

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from attrs import frozen

from marketplace_metering_async.aws.transport import TransportSettings
from marketplace_metering_async.errors import ConfigurationError, NoRegionError
from marketplace_metering_async.limits import service_metadata

_BOTO_NAME: Final = "meteringmarketplace"
_SERVICE_ID: Final = "marketplace-metering"
_SERVICE_URL: Final = "AWS_ENDPOINT_URL_MARKETPLACE_METERING"

_BEYOND_US: Final = (
    "AWS_DEFAULT_PROFILE",
    "AWS_PROFILE",
    "AWS_DATA_PATH",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
    "AWS_USE_DUALSTACK_ENDPOINT",
    "AWS_USE_FIPS_ENDPOINT",
    "AWS_CREDENTIAL_EXPIRATION",
)
"""Variables that take botocore to interpret; a test holds the list against botocore's own."""

_REGION: Final = re.compile(r"(?![0-9]+\Z)(?!-)[a-zA-Z0-9-]{1,63}(?<!-)")
"""A host label, as botocore's validate_region_name() has it: regions become part of host names."""

_HOST: Final = re.compile(r"[a-zA-Z0-9._-]+|\[[0-9a-fA-F:.]+\]")


@frozen(kw_only=True)
class Endpoint:
    """
    Where requests go.

    Attributes:
        url: Of the service.
        region_name: That requests are signed for.
        configured: Whether an argument, the environment or a profile named the URL, and not AWS.
    """

    url: str
    region_name: str
    configured: bool


@frozen(kw_only=True)
class FoundEndpoint(Endpoint):
    """
    The same, with what the transport needs to know to get there.

    Attributes:
        transport: Proxy and certificates.
    """

    transport: TransportSettings


def from_environment(
    environ: Mapping[str, str], *, region_name: str | None, endpoint_url: str | None
) -> FoundEndpoint | None:
    """
    Return the endpoint where *environ* alone decides about it, else None: then ask botocore.

    Raises:
        ConfigurationError: a region, endpoint, proxy or certificate file that cannot be used.
    """
    if any(environ.get(name) for name in _BEYOND_US) or _has_profiles(environ):
        return None
    region = region_name or environ.get("AWS_DEFAULT_REGION") or environ.get("AWS_REGION")
    if not region or "fips" in region:
        return None
    configured = endpoint_url or environ.get(_SERVICE_URL) or environ.get("AWS_ENDPOINT_URL")
    host = service_metadata().endpoints.get(region)
    if not configured and host is None:
        return None
    return _checked(
        region=region,
        url=configured or f"https://{host}",
        configured=bool(configured),
        ca_bundle=environ.get("AWS_CA_BUNDLE") or environ.get("REQUESTS_CA_BUNDLE"),
    )


def _has_profiles(environ: Mapping[str, str]) -> bool:
    files = (
        environ.get("AWS_CONFIG_FILE", "~/.aws/config"),
        environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
    )
    # os.path, since a machine without a home directory is no error here.
    return any(
        os.path.isfile(os.path.expanduser(os.path.expandvars(file)))  # noqa: PTH111, PTH113
        for file in files
    )


def from_session(
    session: Any, *, region_name: str | None, endpoint_url: str | None
) -> FoundEndpoint:
    """
    Return the endpoint that a client of *session*, botocore's or aiobotocore's, would have.

    Reads files, so not on the event loop.

    Raises:
        NoRegionError: no region anywhere.
        ConfigurationError: a profile, region, endpoint, proxy or certificate file that cannot be
            used.
    """
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415 - heavy

    try:
        return _asked(session, region_name, endpoint_url)
    except ConfigurationError:
        raise
    except Exception as error:  # noqa: BLE001 - botocore trips over a section in a text's place
        odd = f"the AWS profile cannot be read ({type(error).__name__}): look at its indented lines"
        reason = str(error) if isinstance(error, BotoCoreError) else odd
    raise ConfigurationError(reason)


def _asked(session: Any, region_name: str | None, endpoint_url: str | None) -> FoundEndpoint:
    region = region_name or _region(session)
    if not region:
        raise NoRegionError
    fips = _setting(session, "use_fips_endpoint") or False
    if "fips-" in region or "-fips" in region:  # pseudo-regions of old, which botocore still takes
        fips, region = True, region.replace("fips-", "").replace("-fips", "")
    require_region(region)
    configured = endpoint_url or _configured_url(session)
    return _checked(
        region=region,
        url=configured or _service_url(session, region, fips=fips),
        configured=bool(configured),
        ca_bundle=session.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE"),
        client_cert=_setting(session, "client_cert"),
        proxies=_setting(session, "proxies"),
    )


def _setting(session: Any, name: str) -> Any:
    """Look first at the configuration that a session's owner set for all its clients."""
    chosen = getattr(session.get_default_client_config(), name, None)
    return session.get_config_variable(name) if chosen is None else chosen


def _region(session: Any) -> str | None:
    """Botocore's rules, and AWS_REGION, which the other SDKs read, before the profile's region."""
    chosen = getattr(session.get_default_client_config(), "region_name", None)
    chosen = session.instance_variables().get("region") if chosen is None else chosen
    found = os.environ.get("AWS_DEFAULT_REGION") or os.environ.get("AWS_REGION")
    return chosen if chosen is not None else found or session.get_config_variable("region")


def _configured_url(session: Any) -> str | None:
    from botocore.configprovider import ConfiguredEndpointProvider  # noqa: PLC0415 - heavy

    if _setting(session, "ignore_configured_endpoint_urls"):
        return None
    chain = ConfiguredEndpointProvider(
        full_config=session.full_config,
        scoped_config=session.get_scoped_config(),
        client_name=_SERVICE_ID,
    )
    return chain.provide() or None


def _service_url(session: Any, region: str, *, fips: bool) -> str:
    """Ask botocore's rule set: it knows partitions, FIPS and dual-stack hosts."""
    from botocore.endpoint_provider import EndpointProvider  # noqa: PLC0415 - heavy

    loader = session.get_component("data_loader")
    rules = EndpointProvider(
        ruleset_data=loader.load_service_model(_BOTO_NAME, "endpoint-rule-set-1"),
        partition_data=loader.load_data("partitions"),
    )
    found = rules.resolve_endpoint(
        Region=region,
        UseFIPS=fips,
        UseDualStack=_setting(session, "use_dualstack_endpoint") or False,
    )
    return str(found.url)


def _checked(
    *,
    region: str,
    url: str,
    configured: bool,
    ca_bundle: str | None,
    client_cert: str | tuple[str, str] | None = None,
    proxies: Mapping[str, str] | None = None,
) -> FoundEndpoint:
    require_region(region)
    _require_safe(url)
    encrypted = url.lower().startswith("https:")
    transport = TransportSettings(
        ca_bundle=_authorities(ca_bundle) if encrypted else None,
        client_cert=(client_cert, None) if isinstance(client_cert, str) else client_cert,
        # What is not encrypted goes to loopback, and a proxy is somewhere else.
        proxy_url=_proxy(url, proxies) if encrypted else None,
    )
    return FoundEndpoint(url=url, region_name=region, configured=configured, transport=transport)


def _authorities(configured: str | None) -> str:
    """The configured bundle, or the one that botocore would take: certifi's before its own."""
    if configured:
        if not os.path.isfile(configured):  # noqa: PTH113 - a pasted certificate names none
            raise ConfigurationError(f"AWS_CA_BUNDLE: expected a file, got {configured[:60]!r}")
        return configured
    try:
        from certifi import where  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
    except ImportError:
        import botocore  # noqa: PLC0415 - its beginning alone, which is light

        return str(Path(botocore.__file__).with_name("cacert.pem"))
    return str(where())


def _proxy(url: str, proxies: Mapping[str, str] | None) -> str | None:
    """The proxy that botocore would take from the environment; `.netrc` is never read."""
    parts = urlsplit(url)
    if proxies is None:
        proxies = {} if proxy_bypass(parts.netloc) else getproxies()
    proxy = proxies.get(parts.scheme)
    if not proxy or proxy.startswith(("http:", "https:")):
        return proxy or None
    return f"http:{proxy}" if proxy.startswith("//") else f"http://{proxy}"


def require_region(region: str) -> None:
    """
    Refuse what can be no region.

    Raises:
        ConfigurationError: it names none.
    """
    if _REGION.fullmatch(region) is None:
        raise ConfigurationError(f"region: expected a name such as us-east-1, got {region[:60]!r}")


def _require_safe(url: str) -> None:
    """Refuse an endpoint that is read in two ways, or to which a token would go in the clear."""
    host = _host_of(url)
    if host is None:
        raise ConfigurationError(
            "endpoint_url: expected http(s)://host[:port][/path] and no user, query or fragment, "
            "got something else"
        )
    if url.lower().startswith("http:") and not _is_loopback(host):
        raise ConfigurationError(
            f"endpoint_url: expected https, since requests carry credentials, got http to {host}; "
            "plain http is for loopback only"
        )


def _host_of(url: str) -> str | None:
    """The host, or None where another parser might see another one."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port is not None else ""
    except ValueError:
        return None
    host = parts.netloc.removesuffix(port)
    plain = (
        parts.scheme in ("http", "https")
        and _HOST.fullmatch(host)
        and url.isascii()
        and url.isprintable()
        and not set(' "<>\\^`{|}?#') & set(url)
    )
    return parts.hostname if plain else None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
