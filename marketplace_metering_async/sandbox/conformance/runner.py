"""Runs cases: brings the stand-in to where each begins, has a client call, judges the answers."""

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from itertools import groupby
from typing import Any, Final, Protocol

from attrs import frozen

from marketplace_metering_async.sandbox.clock import real_now
from marketplace_metering_async.sandbox.conformance.judge import (
    Answer,
    complaints,
    differences,
    expectation,
    member,
)
from marketplace_metering_async.sandbox.conformance.suite import Case, Values

_REGION: Final = "us-east-1"
_OF_THE_STAND_IN: Final = frozenset({"fresh", "accounts"})


class Client(Protocol):
    """
    What makes the calls: HTTP itself, or an SDK.

    Attributes:
        can: The words of `Case.needs` that it can.
    """

    can: frozenset[str]

    def call(self, operation: str, request: Mapping[str, Any], region: str) -> Answer:
        """Make a call."""
        ...

    def send(self, operation: str, body: bytes, region: str) -> Answer:
        """Send any bytes; only asked of who can `wire`."""
        ...


class Controls(Protocol):
    """What the stand-in takes beside its calls."""

    def order(self, path: str, members: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON
        """Carry out an order; ValueError if it is refused."""
        ...

    def ask(self, path: str) -> Any:  # noqa: ANN401 - JSON
        """Return what it tells; ValueError if it refuses."""
        ...


class Verdict(StrEnum):
    """What became of a case."""

    AGREES = "agrees"
    DIFFERS = "differs"
    SKIPPED = "skipped"


@frozen(kw_only=True)
class Outcome:
    """
    What became of a case.

    Attributes:
        case: The case.
        verdict: Whether all was as expected.
        why: What was not, or why it was skipped.
        answers: What the calls were answered, in a few words each.
    """

    case: Case
    verdict: Verdict
    why: str = ""
    answers: tuple[str, ...] = ()


def run(
    chosen: Iterable[Case], client: Client, controls: Controls | None, *, name: str
) -> Iterator[Outcome]:
    """
    Run cases one after the other.

    Args:
        chosen: Which.
        client: Makes the calls.
        controls: Of the stand-in; None: it has none, and cases that need them are skipped.
        name: Of this run; ids that nobody has used are made from it.
    """
    for case in chosen:
        yield _outcome(case, client, controls, name)


def _outcome(case: Case, client: Client, controls: Controls | None, name: str) -> Outcome:
    missing = case.needs - client.can - _OF_THE_STAND_IN
    if missing:
        why = f"this client has no {', '.join(sorted(missing))}"
        return Outcome(case=case, verdict=Verdict.SKIPPED, why=why)
    if controls is None and case.needs_controls:
        return Outcome(case=case, verdict=Verdict.SKIPPED, why="it needs controls")
    running = _Running(case, client, controls, name)
    try:
        running.prepare()
        for step in case.steps:
            why = running.step(step)
            if why:
                verdict = Verdict.SKIPPED if running.cannot else Verdict.DIFFERS
                return running.outcome(verdict, why)
    except (ValueError, LookupError, OSError) as error:
        return running.outcome(Verdict.DIFFERS, f"{type(error).__name__}: {error}")
    return running.outcome(Verdict.AGREES)


class _Running:
    """One case while it runs."""

    def __init__(self, case: Case, client: Client, controls: Controls | None, name: str) -> None:
        self._case = case
        self._client = client
        self._controls = controls
        self._values = Values(f"{name} {case.name}", real_now().timestamp())
        self._answers: list[str] = []
        self.cannot = False

    def prepare(self) -> None:
        """Bring a stand-in with controls to where the case begins."""
        if self._controls is None:
            return
        order = self._controls.order
        order("reset", {"everything": True})
        order("rules", {"preset": "usual", **self._case.rules})
        order("quota", {"calls_per_second": None})
        now = real_now() if self._case.now is None else datetime.fromisoformat(self._case.now)
        order("clock", {"now": now.isoformat(), "speed": 0})
        self._values.now = now.timestamp()

    def step(self, step: Mapping[str, Any]) -> str:
        """Take a step, and return what was not as expected."""
        if "call" in step:
            return self._call(step)
        assert self._controls is not None  # noqa: S101 - such a case needs controls
        if "order" in step:
            reply = self._controls.order(step["order"], self._values.fill(step["members"]))
            self._keep(step, reply)
            return ""
        found = self._controls.ask(step["ask"])
        return "; ".join(differences(self._values.fill(step["expect"]), found))

    def _call(self, step: Mapping[str, Any]) -> str:
        operation, region = step["call"], step.get("region", _REGION)
        if "raw" in step:
            answer = self._client.send(operation, step["raw"].encode(), region)
        elif "pad" in step:
            body = _padded(self._values.fill(step["request"]), step["pad"])
            answer = self._client.send(operation, body, region)
        else:
            answer = self._client.call(operation, self._values.fill(step["request"]), region)
        if answer.cannot is not None:
            self.cannot = True
            return answer.cannot
        self._answers.append(str(answer))
        expected = self._values.fill(dict(step["expect"]))
        self._keep(step, answer.reply)
        return "; ".join(complaints(expected, answer))

    def _keep(self, step: Mapping[str, Any], reply: Any) -> None:  # noqa: ANN401 - JSON
        for name, path in step.get("keep", {}).items():
            self._values.kept[name] = member(reply, path)

    def outcome(self, verdict: Verdict, why: str = "") -> Outcome:
        return Outcome(case=self._case, verdict=verdict, why=why, answers=tuple(self._answers))


def _padded(members: Any, size: int) -> bytes:  # noqa: ANN401 - JSON
    """Return a body of just so many bytes."""
    body = json.dumps(members).encode()
    return body + b" " * (size - len(body))


def expected_of(case: Case) -> str:
    """Say what the calls of a case are expected to be answered, in a few words."""
    return in_a_line(expectation(step["expect"]) for step in case.steps if "call" in step)


def in_a_line(parts: Iterable[str]) -> str:
    """Join what was said of one call after the other; the same again is counted."""
    runs = [(part, len(list(same))) for part, same in groupby(parts)]
    return "; ".join(f"{count} times {part}" if count > 1 else part for part, count in runs)
