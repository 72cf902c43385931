"""
A local stand-in for the AWS Marketplace Metering Service, for development and tests.

    async with Sandbox() as sandbox:
        client = MarketplaceMeteringClient(endpoint_url=sandbox.url, …)

`World` is all that the service remembers, without HTTP; `Sandbox` is a world on a port, and its
`transport()` needs none. It imports nothing of the client, so that no mistake is made twice alike.
"""

from marketplace_metering_async.sandbox.advice import Advice
from marketplace_metering_async.sandbox.clock import ClockSetting, SandboxClock
from marketplace_metering_async.sandbox.faults import (
    Fault,
    FaultFunction,
    FaultKind,
    ScriptedResponse,
)
from marketplace_metering_async.sandbox.http.registration_page import (
    RegistrationError,
    RegistrationResponse,
)
from marketplace_metering_async.sandbox.sandbox import ClientArguments, Sandbox
from marketplace_metering_async.sandbox.service.agreements import Agreement, AgreementState
from marketplace_metering_async.sandbox.service.book import Book
from marketplace_metering_async.sandbox.service.catalogue import Product
from marketplace_metering_async.sandbox.service.metered import Metered
from marketplace_metering_async.sandbox.service.principal import AccessKey, Principal
from marketplace_metering_async.sandbox.service.quota import Quota
from marketplace_metering_async.sandbox.service.refusals import Refusal
from marketplace_metering_async.sandbox.service.register_usage import RegisteredWorkload
from marketplace_metering_async.sandbox.service.resolve_customer import RegistrationForm
from marketplace_metering_async.sandbox.service.rules import Rules
from marketplace_metering_async.sandbox.state import StateFileError
from marketplace_metering_async.sandbox.transport import (
    HttpRequest,
    HttpResponse,
    SocketlessTransport,
)
from marketplace_metering_async.sandbox.world import World

__all__ = [
    "AccessKey",
    "Advice",
    "Agreement",
    "AgreementState",
    "Book",
    "ClientArguments",
    "ClockSetting",
    "Fault",
    "FaultFunction",
    "FaultKind",
    "HttpRequest",
    "HttpResponse",
    "Metered",
    "Principal",
    "Product",
    "Quota",
    "Refusal",
    "RegisteredWorkload",
    "RegistrationError",
    "RegistrationForm",
    "RegistrationResponse",
    "Rules",
    "Sandbox",
    "SandboxClock",
    "ScriptedResponse",
    "SocketlessTransport",
    "StateFileError",
    "World",
]
