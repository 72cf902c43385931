"""`sandbox check`: a stand-in for the service held against the conformance suite."""

import asyncio
import uuid
from collections import Counter
from collections.abc import Iterable
from itertools import groupby
from urllib.parse import urlsplit

from marketplace_metering_async.cli.exit_codes import Exit, MisuseError
from marketplace_metering_async.cli.output.console import (
    Console,
    print_json_if_piped,
    printable,
    write_out,
)
from marketplace_metering_async.cli.sandbox_options import CheckOptions
from marketplace_metering_async.limits import is_of_aws
from marketplace_metering_async.sandbox.conformance.http_client import HttpClient, HttpControls
from marketplace_metering_async.sandbox.conformance.runner import (
    Outcome,
    Verdict,
    expected_of,
    in_a_line,
    run,
)
from marketplace_metering_async.sandbox.conformance.suite import Case, cases


async def check(options: CheckOptions, console: Console) -> Exit:
    """
    Run all cases that can be run there.

    Raises:
        MisuseError: for an address or a key that is none, an address of something else, a sandbox
            that has records, or one whose token is another.
    """
    return await asyncio.to_thread(_check, options, console)


def _check(options: CheckOptions, console: Console) -> Exit:
    url = _address(options.url)
    access_key_id, colon, secret = options.access_key.partition(":")
    if not (access_key_id and colon and secret):
        raise MisuseError("--access-key: expected ID:SECRET")
    chosen = _chosen(options)
    client = HttpClient(url, access_key_id, secret)
    controls = _controls(HttpControls(url, options.token), yes=options.yes)
    if controls is None:
        _require_stand_in(client, url)
        console.print("No controls of this sandbox there: cases that need them are left out.")
    outcomes = []
    for outcome in run(chosen, client, controls, name=uuid.uuid4().hex):
        outcomes.append(outcome)
        if not options.markdown:
            print_json_if_piped(_members(outcome))
        if outcome.verdict is Verdict.DIFFERS:
            console.print(f"differs: {outcome.case.rule}: {outcome.why}", markup=False)
    if controls is not None:
        controls.order("reset", {"everything": True})
    if options.markdown:
        write_out(printable(table(outcomes)))
    counts = Counter(outcome.verdict for outcome in outcomes)
    said = ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict)
    console.print(f"{len(outcomes)} cases: {said}")
    return Exit.REJECTED if counts[Verdict.DIFFERS] else Exit.OK


def _address(url: str) -> str:
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        parts, host = urlsplit(""), ""
    if "@" in url:
        raise MisuseError("URL: expected one without user and password: --access-key, --token")
    if not host or parts.scheme not in ("http", "https"):
        raise MisuseError(f"URL: expected an address such as http://127.0.0.1:8765, got {url!r}")
    if is_of_aws(host):
        raise MisuseError("URL: that is AWS itself, where what this sends would be billed")
    return f"{parts.scheme}://{parts.netloc}"


def _chosen(options: CheckOptions) -> list[Case]:
    known, only = cases(legacy=options.legacy), {*(options.only or ())}
    words = {word for case in known for word in (case.name, case.about)}
    if unknown := only - words:
        parts = ", ".join(dict.fromkeys(case.about for case in known))
        raise MisuseError(f"--only: expected a case or a part ({parts}), got {min(unknown)!r}")
    return [one for one in known if not only or {one.name, one.about} & only]


def _controls(controls: HttpControls, *, yes: bool) -> HttpControls | None:
    try:
        if not controls.are_there():
            return None
        records = controls.ask("state")["records"]
    except ValueError as error:
        raise MisuseError(f"--token: {error}") from error
    except OSError as error:
        raise MisuseError(f"URL: nobody answers at {controls.url}: {error}") from error
    if records and not yes:
        raise MisuseError(f"the sandbox there has {records} records; with --yes it forgets them")
    return controls


def _require_stand_in(client: HttpClient, url: str) -> None:
    """Have a call answered in the words of the service, whatever they say."""
    nothing = {"ProductCode": "my-product", "UsageRecords": []}
    answer = client.call("BatchMeterUsage", nothing, "us-east-1")
    if answer.reply is None and not (answer.code and answer.status):
        said = f"HTTP {answer.status} without a code" if answer.status else str(answer)
        raise MisuseError(f"URL: no stand-in for the service answers at {url}: {said}")


def _members(outcome: Outcome) -> dict[str, object]:
    case = outcome.case
    return {
        "case": case.name,
        "about": case.about,
        "rule": case.rule,
        "expected": expected_of(case),
        "verdict": outcome.verdict.value,
        "answers": list(outcome.answers),
        "why": outcome.why,
    }


def table(outcomes: Iterable[Outcome]) -> str:
    """Return the cases that were run as a Markdown table, with what was answered."""
    lines = ["| about | rule | expected | answered |", "| --- | --- | --- | --- |"]
    ran = (outcome for outcome in outcomes if outcome.verdict is not Verdict.SKIPPED)
    for about, some in groupby(ran, key=lambda outcome: outcome.case.about):
        for position, outcome in enumerate(some):
            agrees = outcome.verdict is Verdict.AGREES
            answered = "as expected" if agrees else f"**{in_a_line(outcome.answers)}**"
            cells = ("" if position else about, outcome.case.rule, expected_of(outcome.case))
            lines.append(f"| {' | '.join(cells)} | {answered} |")
    return "\n".join(lines) + "\n"
