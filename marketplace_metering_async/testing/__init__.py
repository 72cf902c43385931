"""
What tests of metering code need: a pytest plugin, fakes, and Hypothesis strategies.

The plugin is found by pytest itself, and gives the fixtures `metering_sandbox`,
`metering_sandbox_server` and `metering_ledger`. Nothing here is imported by the rest of the
package, and nothing heavy before it is used: pytest loads the plugin of every package that is
installed.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from marketplace_metering_async.testing.fakes import FakeClock, ScriptedTransport, Step
    from marketplace_metering_async.testing.ledgers import LedgerSandbox, SandboxTime
    from marketplace_metering_async.testing.servers import SandboxServer
    from marketplace_metering_async.testing.threads import SandboxThread
    from marketplace_metering_async.testing.transport import SandboxTransport

__all__ = [
    "FakeClock",
    "LedgerSandbox",
    "SandboxServer",
    "SandboxThread",
    "SandboxTime",
    "SandboxTransport",
    "ScriptedTransport",
    "Step",
]

_HOMES: Final = {
    "FakeClock": "fakes",
    "LedgerSandbox": "ledgers",
    "SandboxServer": "servers",
    "SandboxThread": "threads",
    "SandboxTime": "ledgers",
    "SandboxTransport": "transport",
    "ScriptedTransport": "fakes",
    "Step": "fakes",
}


def __dir__() -> list[str]:
    """List what a test may import, for completion and help()."""
    return sorted(__all__)


if not TYPE_CHECKING:  # where it would make a name of any misspelled one

    def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
        """Import what is asked for."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
