"""
The conformance suite through SDKs that nobody here wrote: `python tests/strangers/run.py`.

Each SDK has a small program beside this file. It finds the sandbox by its environment, as any
program would; it reads a call as a line of JSON, makes it, and writes what its SDK made of the
response as another. Controls are carried out here, over HTTP.

What is not there is left out with a reason; `.ci/run` installs it. Exit code 1: some SDK was
answered otherwise than the suite expects, and that is not known of it (KNOWN).
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path
from threading import Timer
from typing import Any, Final

from attrs import frozen

from marketplace_metering_async.sandbox import AccessKey, Sandbox
from marketplace_metering_async.sandbox.conformance.http_client import HttpControls
from marketplace_metering_async.sandbox.conformance.judge import Answer
from marketplace_metering_async.sandbox.conformance.runner import Outcome, Verdict, run
from marketplace_metering_async.sandbox.conformance.suite import Case, cases
from marketplace_metering_async.testing import SandboxThread

HERE: Final = Path(__file__).parent
_PATIENCE: Final = 600.0
_SECRET: Final = "secret/of+the=witness"


@frozen(kw_only=True)
class Stranger:
    """
    An SDK, and the program that drives it.

    Attributes:
        name: As its makers call it.
        variable: The environment variable that says where it is.
        needs: A program that must be on PATH; None: none.
        command: What is run; {} is the value of the variable.
        few: Whether only a part of the suite is run, since each call starts a process.
    """

    name: str
    variable: str
    command: tuple[str, ...]
    needs: str | None = None
    few: bool = False

    def missing(self) -> str | None:
        """Return why it cannot be run here, if it cannot."""
        if self.needs is not None and shutil.which(self.needs) is None:
            return f"there is no {self.needs}"
        return None if os.environ.get(self.variable) else f"{self.variable} is not set"

    def arguments(self) -> list[str]:
        """Return the command line."""
        return [part.replace("{}", os.environ[self.variable]) for part in self.command]


STRANGERS: Final = (
    Stranger(
        name="boto3", variable="METERING_TEST_BOTO3", command=("{}", str(HERE / "by_boto3.py"))
    ),
    Stranger(
        name="aws CLI",
        variable="METERING_TEST_AWS_CLI",
        command=(sys.executable, str(HERE / "by_aws_cli.py"), "{}"),
        few=True,
    ),
    Stranger(
        name="JavaScript v3",
        variable="METERING_TEST_JS_SDK",
        needs="node",
        command=("node", str(HERE / "by_javascript.mjs"), "{}"),
    ),
    Stranger(
        name="Java v2",
        variable="METERING_TEST_JAVA_SDK",
        needs="java",
        command=("java", "-cp", "{}/classes:{}/dependency/*", "Stranger"),
    ),
    Stranger(name="Go v2", variable="METERING_TEST_GO_SDK", command=("{}",)),
    Stranger(name="Rust", variable="METERING_TEST_RUST_SDK", command=("{}",)),
)

KNOWN: Final[Mapping[tuple[str, str], str]] = {
    ("JavaScript v3", "agreement-id"): "it does not know Metadata, and leaves it out",
    ("Java v2", "agreement-id"): "it does not know Metadata, and leaves it out",
    ("Java v2", "token"): "it does not know LicenseArn, and leaves it out",
    ("Java v2", "InvalidLicenseException"): "it does not know licenses",
    ("Go v2", "InvalidLicenseException"): "it does not know licenses",
    ("Go v2", "IdempotencyConflictException"): "it does not know ClientToken",
    ("Go v2", "agreement-id"): "it does not know Metadata, and leaves it out",
    ("Go v2", "token"): "it does not know LicenseArn, and leaves it out",
}
"""SDK and case to what the SDK does by itself."""

FEW: Final = {
    "a-record",
    "26-records",
    "other-quantity",
    "decimal",
    "not-adding-up",
    "too-old",
    "closing-hour",
    "suspended",
    "license",
    "token",
    "metered",
    "dry-run",
    "client-token",
    "registered",
    "unprocessed",
    "throttles-retried",
    "access-denied",
}
_ERRORS: Final = "Errors of the model"


class Program:
    """A stranger's program while it runs; a `Client` of the suite's runner."""

    can = frozenset({"retries"})

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        said = self._read()
        self.version = str(said["version"])
        self.legacy = bool(said.get("legacy"))

    def call(self, operation: str, request: Mapping[str, Any], region: str) -> Answer:
        """Have it make a call."""
        assert self._process.stdin is not None
        line = {"operation": operation, "request": request, "region": region}
        self._process.stdin.write(json.dumps(line) + "\n")
        self._process.stdin.flush()
        said = self._read()
        return Answer(
            status=said.get("status"),
            reply=said.get("reply"),
            code=said.get("code"),
            modelled=said.get("modelled"),
            cannot=said.get("cannot"),
        )

    def send(self, operation: str, body: bytes, region: str) -> Answer:
        """No SDK sends any bytes."""
        raise NotImplementedError(operation, len(body), region)

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise OSError("the program has ended")
        said: dict[str, Any] = json.loads(line)
        return said


@contextmanager
def running(stranger: Stranger, place: Sandbox) -> Iterator[Program]:
    """Start a stranger's program with nothing but a sandbox in its environment."""
    kept = ("HOME", "PATH", "JAVA_HOME", "LANG")
    variables = {name: os.environ[name] for name in kept if name in os.environ}
    variables |= place.environment | {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_MAX_ATTEMPTS": "3",
        "AWS_RETRY_MODE": "standard",
    }
    with subprocess.Popen(
        stranger.arguments(),
        env=variables,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        watchdog = Timer(_PATIENCE, process.kill)
        watchdog.start()
        try:
            yield Program(process)
        finally:
            watchdog.cancel()
            assert process.stdin is not None
            with suppress(BrokenPipeError):
                process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def outcomes_of(program: Program, place: Sandbox, chosen: list[Case]) -> list[Outcome]:
    """Run cases through a program."""
    return list(run(chosen, program, HttpControls(place.url), name=program.version))


def sandbox() -> Sandbox:
    """Return a sandbox that verifies every signature."""
    return Sandbox(access_keys={"AKIDWITNESS": AccessKey(_SECRET)})


def unexpected(stranger: Stranger, outcomes: list[Outcome]) -> list[str]:
    """Return what was not as expected, and is not known of the SDK; a line each."""
    return [
        f"{stranger.name}: {one.case.name} ({one.case.rule}): {one.why}"
        for one in outcomes
        if one.verdict is Verdict.DIFFERS and (stranger.name, one.case.name) not in KNOWN
    ]


def table(found: Mapping[str, list[Outcome]]) -> str:
    """Return cases that agree of those that could be run, by part of the suite and SDK."""
    parts = list(dict.fromkeys(case.about for case in cases()))
    lines = [
        f"| behaviour | {' | '.join(found)} |",
        f"| --- |{' --- |' * len(found)}",
    ]
    for part in parts:
        cells = [_cell([one for one in some if one.case.about == part]) for some in found.values()]
        lines.append(f"| {part} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(outcomes: list[Outcome]) -> str:
    ran = [one for one in outcomes if one.verdict is not Verdict.SKIPPED]
    agree = sum(one.verdict is Verdict.AGREES for one in ran)
    return f"{agree} of {len(ran)}" if ran else "-"


def main() -> int:
    found: dict[str, list[Outcome]] = {}
    wrong: list[str] = []
    for stranger in STRANGERS:
        if reason := stranger.missing():
            print(f"left out: {stranger.name}: {reason}")
            continue
        began = time.monotonic()
        with SandboxThread(sandbox()) as thread, running(stranger, thread.sandbox) as program:
            chosen = [
                case
                for case in cases(legacy=program.legacy)
                if not stranger.few or case.name in FEW or case.about == _ERRORS
            ]
            outcomes = outcomes_of(program, thread.sandbox, chosen)
        found[program.version] = outcomes
        wrong += unexpected(stranger, outcomes)
        seconds = time.monotonic() - began
        print(f"{program.version}: {len(outcomes)} cases in {seconds:.1f} s")
        skipped = [one for one in outcomes if one.verdict is Verdict.SKIPPED]
        by_reason = sorted(skipped, key=lambda one: one.why)
        for why, some in groupby(by_reason, key=lambda one: one.why):
            print(f"  skipped: {why}: {', '.join(one.case.name for one in some)}")
        for one in outcomes:
            known = KNOWN.get((stranger.name, one.case.name))
            if known:
                still = one.verdict is Verdict.DIFFERS
                print(f"  {'known' if still else 'no longer'}: {one.case.name}: {known}")
    if found:
        print(table(found))
    for line in wrong:
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
