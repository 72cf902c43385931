"""Which clients come to the sandbox by environment variables, and what to write for the others."""

import re
from typing import Final

from attrs import frozen

_URL: Final = re.compile(r'(?<![-\w])url\b(?!=)|"\$url"')


@frozen
class Sdk:
    """
    A client of the service.

    Attributes:
        name: As its makers call it.
        by_environment: From which version on the variables bring it here.
        in_code: What brings it here in any version, where `url` is the sandbox's address.
    """

    name: str
    by_environment: str
    in_code: str

    def in_code_at(self, url: str) -> str:
        """Return what brings it to a sandbox at *url*."""
        return _URL.sub(f'"{url}"', self.in_code)


SDKS: Final = (
    Sdk(
        "aws CLI",
        "from 1.29.0 and 2.13.0 (Debian's 2.9.19 does not)",
        'aws --endpoint-url "$url" meteringmarketplace …',
    ),
    Sdk(
        "Python",
        "boto3 from 1.28.0 (botocore 1.31.0)",
        'boto3.client("meteringmarketplace", endpoint_url=url)',
    ),
    Sdk(
        "JavaScript v3",
        "from 3.428.0 at the latest; not 3.844.0",
        "new MarketplaceMeteringClient({ endpoint: url })",
    ),
    Sdk("JavaScript v2", "never", "new AWS.MarketplaceMetering({ endpoint: url })"),
    Sdk(
        "Go v2",
        "modules of November 2023 and later",
        "marketplacemetering.NewFromConfig(cfg, marketplacemetering.WithEndpointResolver("
        "marketplacemetering.EndpointResolverFromURL(url)))",
    ),
    Sdk(
        "Go v1",
        "never",
        "marketplacemetering.New(session, aws.NewConfig().WithEndpoint(url))",
    ),
    Sdk(
        "Java v2",
        "from 2.28.1",
        "MarketplaceMeteringClient.builder().endpointOverride(URI.create(url)).build()",
    ),
    Sdk(
        "Java v1",
        "never",
        "AWSMarketplaceMeteringClientBuilder.standard().withEndpointConfiguration("
        'new EndpointConfiguration(url, "us-east-1")).build()',
    ),
    Sdk(
        "Rust",
        "seen with 1.124.0",
        "Client::from_conf(config::Builder::from(&settings).endpoint_url(url).build())",
    ),
    Sdk(
        "Ruby",
        "not with aws-sdk-core 3.168",
        "Aws::MarketplaceMetering::Client.new(endpoint: url)",
    ),
)
"""In the order of the table in `testing/README.md`, which says the same."""
