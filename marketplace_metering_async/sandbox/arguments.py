"""The arguments of a sandbox as JSON, for one in another process."""

from collections.abc import Mapping
from typing import Any

from attrs import Factory, asdict, frozen

from marketplace_metering_async.sandbox.as_json import as_json, from_json
from marketplace_metering_async.sandbox.clock import ClockSetting, SandboxClock
from marketplace_metering_async.sandbox.faults import Fault
from marketplace_metering_async.sandbox.sandbox import Sandbox
from marketplace_metering_async.sandbox.service.principal import AccessKey
from marketplace_metering_async.sandbox.service.rules import Rules


@frozen(kw_only=True)
class SandboxArguments:
    """The arguments of `Sandbox`, which says what they mean; a clock by what it was set to."""

    port: int = 0
    host: str = "127.0.0.1"
    clock: ClockSetting | None = None
    calls_per_second: float | None = 10.0
    burst: float = 10.0
    faults: tuple[Fault, ...] = ()
    seed: int = 0
    rules: Rules | None = None
    access_keys: dict[str, AccessKey] = Factory(dict)
    history: int = 200
    open_to: tuple[str, ...] = ()
    token: str | None = None
    state: str | None = None

    def sandbox(self) -> Sandbox:
        """
        Return the sandbox.

        Raises:
            ValueError, StateFileError: as `Sandbox`.
        """
        clock = SandboxClock()
        clock.restore(self.clock)
        members = asdict(self, recurse=False)
        return Sandbox(**{**members, "clock": clock})


def arguments_as_json(arguments: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON
    """
    Return arguments of `Sandbox` as JSON.

    Raises:
        TypeError, ValueError: for what JSON has no form for, such as a fault that is a function.
    """
    clock = arguments.get("clock")
    settings = {"clock": clock.setting} if isinstance(clock, SandboxClock) else {}
    written = {}
    for name, value in {**arguments, **settings}.items():
        try:
            written[name] = as_json(value)
        except TypeError as error:
            raise TypeError(f"{name}: {error}") from error
    from_json(SandboxArguments, written)  # to be refused here, and not in the other process
    return written
