"""The cases as they stand in the files, and the values that their requests are filled with."""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import resources
from typing import Any, Final

from attrs import Factory, define, evolve, frozen

_FOLDER: Final = "marketplace_metering_async.sandbox.conformance"
_HOUR: Final = 3600
_BATCH: Final = "BatchMeterUsage"
_CONTROLS: Final = frozenset({"order", "ask"})


@frozen(kw_only=True)
class Case:
    """
    One rule of the service, as a few steps.

    Attributes:
        name: A word for it that stays.
        about: The part of the service that it belongs to.
        rule: What is expected, in a sentence.
        steps: Calls with what they are answered, orders to the stand-in, questions to it.
        now: What its clock shows at the beginning; None: the real time.
        rules: Readings that it is about.
        needs: What not every client can: `wire` (any bytes), `untyped` (values of a wrong type),
            `single` (no retries), `retries`; or `accounts` (customers by account) or `fresh` (it
            has just been reset), of the stand-in.
    """

    name: str
    about: str
    rule: str
    steps: tuple[Mapping[str, Any], ...]
    now: str | None = None
    rules: Mapping[str, Any] = Factory(dict)
    needs: frozenset[str] = frozenset()

    @property
    def needs_controls(self) -> bool:
        """Whether the stand-in has to do more than to answer calls."""
        prepared = bool(self.now or self.rules or "fresh" in self.needs)
        return prepared or any(_CONTROLS & step.keys() for step in self.steps)


def cases(*, legacy: bool = False) -> list[Case]:
    """
    Return all cases, in the order of the files' names.

    Args:
        legacy: Name customers of BatchMeterUsage by CustomerIdentifier, for a stand-in that knows
            no account ids; cases about accounts are left out.
    """
    folder = resources.files(_FOLDER).joinpath("cases")
    files = sorted(folder.iterdir(), key=lambda file: file.name)
    found = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    known = [_case(part["about"], written) for part in found for written in part["cases"]]
    return [_legacy(case) for case in known if "accounts" not in case.needs] if legacy else known


def _case(about: str, written: Mapping[str, Any]) -> Case:
    steps, needs = tuple(written["steps"]), frozenset(written.get("needs", ()))
    return Case(about=about, **{**written, "steps": steps, "needs": needs})


def _legacy(case: Case) -> Case:
    steps = [_renamed(step) if step.get("call") == _BATCH else step for step in case.steps]
    return evolve(case, steps=tuple(steps))


def _renamed(step: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON
    return json.loads(json.dumps(step).replace("CustomerAWSAccountId", "CustomerIdentifier"))


@define
class Values:
    """
    What stands for a value in a case: times, ids that nobody has used, what was answered before.

    Attributes:
        of: The run and the case, from which ids are made.
        now: The stand-in's time, in seconds since 1970.
        kept: What was answered, by name.
    """

    of: str
    now: float
    kept: dict[str, Any] = Factory(dict)

    def fill(self, value: Any, index: int = 0) -> Any:  # noqa: ANN401 - JSON
        """Return *value* with everything filled in; *index* counts what is repeated."""
        if isinstance(value, list):
            return [one for part in value for one in self._each(part, index)]
        if not isinstance(value, dict):
            return value
        match value:
            case {"$hour": hours}:
                hour = int(self.now) // _HOUR + int(hours)
                return hour * _HOUR + int(value.get("plus", 0))
            case {"$time": text}:
                return int(datetime.fromisoformat(text).timestamp())
            case {"$iso": part}:
                moment = self.fill(part, index)
                return datetime.fromtimestamp(moment, UTC).isoformat()  # noqa: TID251 - today
            case {"$account": name}:
                return self._account(name, index)
            case {"$text": text, "times": times}:
                return text * times
            case {"$kept": name}:
                return self.kept[name]
        return {name: self.fill(part, index) for name, part in value.items()}

    def _each(self, part: Any, index: int) -> list[Any]:  # noqa: ANN401 - JSON
        if isinstance(part, dict) and "$times" in part:
            return [self.fill(part["of"], number) for number in range(part["$times"])]
        return [self.fill(part, index)]

    def _account(self, name: str, index: int) -> str:
        digest = hashlib.sha256(f"{self.of} {name} {index}".encode()).hexdigest()
        return f"{int(digest, 16) % 10**12:012d}"
