"""The conformance suite: this sandbox passes it, mutants of its rules do not."""

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socketserver import BaseRequestHandler, TCPServer
from threading import Thread
from typing import Any

import pytest

from marketplace_metering_async import sandbox as package
from marketplace_metering_async.sandbox import AccessKey, Fault, FaultKind, Rules, Sandbox
from marketplace_metering_async.sandbox.conformance import runner, suite
from marketplace_metering_async.sandbox.conformance.http_client import HttpClient, HttpControls
from marketplace_metering_async.sandbox.conformance.judge import Answer, complaints
from marketplace_metering_async.sandbox.conformance.runner import Verdict, expected_of, run
from marketplace_metering_async.sandbox.http import controls, operations
from marketplace_metering_async.sandbox.service import allocations, batch_meter_usage, entitlement
from marketplace_metering_async.sandbox.service.catalogue import Catalogue
from marketplace_metering_async.sandbox.service.metered import MeteredRecords
from marketplace_metering_async.testing import SandboxThread

CASES = suite.cases()
README = (Path(package.__file__).parent / "README.md").read_text(encoding="utf-8")
FORMAT = (Path(suite.__file__).parent / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def place() -> Iterator[Sandbox]:
    with SandboxThread(Sandbox()) as running:
        yield running.sandbox


def outcomes(place: Sandbox, *about: str) -> Iterator[runner.Outcome]:
    chosen = [case for case in CASES if not about or case.about in about]
    return run(chosen, HttpClient(place.url), HttpControls(place.url), name="test")


@pytest.mark.parametrize("about", dict.fromkeys(case.about for case in CASES))
def test_the_sandbox_passes(place: Sandbox, about: str) -> None:
    """
    Every case but those about a client's own retries.
    """
    found = list(outcomes(place, about))

    assert [] == [(one.case.name, one.why) for one in found if one.verdict is Verdict.DIFFERS]
    skipped = {one.case.name for one in found if one.verdict is Verdict.SKIPPED}
    assert skipped <= {"throttles-retried", "error-retried", "lost-answer-retried"}
    assert [] == [one.case.name for one in found if one.verdict is Verdict.AGREES and one.why]


def test_cases_are_told_apart() -> None:
    """
    Names and rules are there once, and no member is misspelled.
    """
    assert f" {len(CASES)} cases in JSON" in README
    assert len(CASES) == len({case.name for case in CASES})
    assert len(CASES) == len({(case.about, case.rule) for case in CASES})
    known = {"call", "request", "expect", "region", "raw", "pad", "keep", "order", "members", "ask"}
    expected = {"statuses", "unprocessed", "code", "http", "refused", "modelled", "has", "lacks"}
    expected |= {"members", "totals"}
    for case in CASES:
        for step in case.steps:
            assert step.keys() <= known, case.name
            assert step.get("expect", {}).keys() <= expected, case.name


def presets(**changes: Any) -> Callable[[pytest.MonkeyPatch], None]:
    """A mutant that reads rules otherwise by default."""
    mutated = {"usual": Rules().changed(changes)}
    return lambda patch: patch.setattr(controls, "PRESETS", mutated)


def patched(where: Any, name: str, value: Any) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.setattr(where, name, value)


def adds_up(patch: pytest.MonkeyPatch) -> None:
    def add(self: MeteredRecords, key: Any, metered: Any) -> None:
        self._keys.append(key)
        self._records.append(metered)

    patch.setattr(MeteredRecords, "first", lambda *_: None)
    patch.setattr(MeteredRecords, "add", add)


def applies_part_of_what_it_refuses(patch: pytest.MonkeyPatch) -> None:
    kind = batch_meter_usage.BatchMeterUsage
    original = kind.answer

    def answer(self: Any, request: Any, unprocessed: Any = ()) -> Any:
        for record in request.get("UsageRecords", [])[1:]:
            original(self, {**request, "UsageRecords": [record]})
        return original(self, request, unprocessed)

    patch.setattr(kind, "answer", answer)


MUTANTS: dict[str, tuple[str, Callable[[pytest.MonkeyPatch], None]]] = {
    "25 hours": ("Times", presets(age=25 * 3600)),
    "24 hours taken": ("Times", presets(age_edge="taken")),
    "month end at seven": ("Times", presets(month_end=7 * 3600)),
    "a future of a second": ("Times", presets(future=1)),
    "keys by timestamp": ("Duplicates", presets(key_by="timestamp")),
    "keys everywhere": ("Duplicates", presets(key_scope="everywhere")),
    "not subscribed takes the key": ("Duplicates", presets(not_subscribed_takes_key=True)),
    "a repeated key": ("Duplicates", presets(repeated_key="duplicate")),
    "quantities add up": ("Duplicates", adds_up),
    "part of a refused batch": ("Allocations and tags", applies_part_of_what_it_refuses),
    "any sum of allocations": (
        "Allocations and tags",
        patched(allocations, "total", lambda _: type("Any", (), {"__ne__": lambda *_: False})()),
    ),
    "six tags": ("Allocations and tags", patched(allocations, "_MOST_TAGS", 6)),
    "26 records": ("BatchMeterUsage", patched(batch_meter_usage, "_MOST_RECORDS", 26)),
    "a byte more": ("BatchMeterUsage", patched(operations, "_TOO_LARGE", 1_000_001)),
    "any letter case": (
        "Products, buyers and their life",
        patched(entitlement, "check_dimension", lambda *_: None),
    ),
    "no closing hour": ("Products, buyers and their life", presets(closing=0)),
    "from the instant": ("Products, buyers and their life", presets(begins_from="instant")),
    "anybody's license": (
        "Licenses",
        patched(
            Catalogue,
            "agreement_of_license",
            lambda self, _: next(iter(self.agreements.values())),
        ),
    ),
    "five hours of a token": ("ResolveCustomer", presets(token_life=5 * 3600)),
    "a token once": ("ResolveCustomer", presets(token_use="once")),
    "no fractions": ("Decimals", presets(fractions="refused")),
    "seven hours of a workload": ("MeterUsage", presets(workload_age=8 * 3600)),
}
"""What each does, which part of the suite finds it, and how it is made."""


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_of_the_rules_is_found(
    place: Sandbox, monkeypatch: pytest.MonkeyPatch, mutant: str
) -> None:
    """
    By at least one case.
    """
    about, mutate = MUTANTS[mutant]
    mutate(monkeypatch)

    assert any(one.verdict is Verdict.DIFFERS for one in outcomes(place, about))


@pytest.mark.parametrize(
    ("expected", "answer", "wrong"),
    [
        ({"statuses": ["Success"]}, Answer(status=200, reply={}), True),
        ({"statuses": []}, Answer(status=200, reply={}), False),
        ({"statuses": []}, Answer(status=200, reply={"UnprocessedRecords": [{}]}), True),
        ({"statuses": []}, Answer(status=400, code="X"), True),
        ({"refused": True}, Answer(status=400, code="X"), False),
        ({"refused": True}, Answer(status=500, code="X"), True),
        ({"refused": True}, Answer(status=0, code="RemoteDisconnected"), True),
        ({"refused": True}, Answer(status=200, reply={}), True),
        ({"refused": True, "http": 413}, Answer(status=400, code="X"), True),
        ({"code": "X"}, Answer(status=400, code="X"), False),
        ({"code": "X"}, Answer(code="X"), False),
        ({"code": "X"}, Answer(status=400, code="Y"), True),
        ({"code": "X", "http": 400}, Answer(status=500, code="X"), True),
        ({"code": "X", "modelled": True}, Answer(code="X", modelled=False), True),
        ({"code": "X", "modelled": True}, Answer(code="X"), False),
        ({"has": ["a.0.b"]}, Answer(reply={"a": [{"b": 1}]}), False),
        ({"has": ["a.1.b"]}, Answer(reply={"a": [{"b": 1}]}), True),
        ({"lacks": ["a"]}, Answer(reply={"a": 1}), True),
        ({"members": {"a": 1}}, Answer(reply={"a": 2}), True),
    ],
)
def test_answers_are_judged(expected: dict[str, Any], answer: Answer, wrong: bool) -> None:  # noqa: FBT001
    """
    Nothing but what is expected is right; what a client does not say is not held against it.
    """
    assert wrong == bool(complaints(expected, answer))


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"Results": [], "UnprocessedRecords": 5}',
        b'{"Results": [], "UnprocessedRecords": {}}',
        b'{"Results": 5}',
        b'{"Results": [5, {"Status": []}]}',
    ],
)
@pytest.mark.parametrize("status", [200, 400])
def test_an_answer_of_any_kind_is_judged(body: bytes, status: int) -> None:
    """
    Whatever a stand-in says, it differs, and the suite goes on.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        client = HttpClient(f"http://127.0.0.1:{server.server_port}")
        chosen = [case for case in CASES if case.name in ("a-record", "no-records")]
        found = list(run(chosen, client, None, name="test"))
        server.shutdown()

    assert 2 == len(found)
    assert {Verdict.DIFFERS} == {one.verdict for one in found}


@pytest.mark.parametrize(
    "said", [b"what?\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n["]
)
def test_controls_that_speak_no_http_are_none(said: bytes) -> None:
    """
    As where nobody answers.
    """

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(4096)
            self.request.sendall(said)

    with TCPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(OSError, match="state: "):
            HttpControls(f"http://127.0.0.1:{server.server_address[1]}").are_there()
        server.shutdown()


def test_controls_that_are_nested_without_end_are_none() -> None:
    """
    It is an answer, and not that of a sandbox.
    """
    deep = b"[" * 100_000

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(4096)
            self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + deep)

    with TCPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        assert not HttpControls(f"http://127.0.0.1:{server.server_address[1]}").are_there()
        server.shutdown()


def test_a_stand_in_without_controls_is_checked_as_far_as_may_be() -> None:
    """
    And what it answers is told.
    """
    with SandboxThread(Sandbox(calls_per_second=None)) as running:
        running.sandbox.inject(Fault(kind=FaultKind.REFUSE, code="Nobody", operation=None))
        client = HttpClient(running.sandbox.url)
        found = list(run(CASES, client, None, name="test"))

    ran = [one for one in found if one.verdict is not Verdict.SKIPPED]
    assert 50 < len(ran) < len(CASES)
    assert all(not one.case.needs_controls for one in ran)
    (record,) = (one for one in ran if one.case.name == "a-record")
    assert ("expected Success, got 400 Nobody", ("400 Nobody",)) == (record.why, record.answers)


def test_requests_are_signed() -> None:
    """
    As a sandbox with declared keys verifies.
    """
    keys = {"AK": AccessKey("s/e+cret")}
    with SandboxThread(Sandbox(access_keys=keys)) as running:
        url = running.sandbox.url
        one = [case for case in CASES if case.name == "a-record"]
        right = run(one, HttpClient(url, "AK", "s/e+cret"), None, name="test")
        wrong = run(one, HttpClient(url, "AK", "another"), None, name="test")
        assert ["agrees", "differs"] == [found.verdict for found in (*right, *wrong)]


def test_the_table_of_moto_is_of_this_suite() -> None:
    """
    Its rows are the cases that need no controls, with what is expected today.
    """
    rows = re.findall(
        r"^\| (?!about|---)(.*?) \| (.*?) \| (.*?) \| (.*?) \|$", README, re.MULTILINE
    )
    table = [(rule, expected) for _, rule, expected, _ in rows]
    client = HttpClient("")
    wanted = [
        (case.rule, expected_of(case))
        for case in suite.cases(legacy=True)
        if not case.needs_controls and not case.needs - client.can
    ]
    assert wanted == [row for row in table if row in wanted]
    assert len(wanted) == README.count("| as expected |") + len(
        re.findall(r"\| \*\*.*\*\* \|", README)
    )


def test_the_format_is_described() -> None:
    """
    Every word of the files stands in their README.
    """
    words = {word for case in CASES for step in case.steps for word in step}
    words |= {word for case in CASES for step in case.steps for word in step.get("expect", {})}
    words |= {word for case in CASES for word in case.needs}
    words |= {"$hour", "$time", "$iso", "$account", "$text", "$times", "$kept", "now", "rules"}
    assert set() == {word for word in words - {"totals"} if f"`{word}`" not in FORMAT}


def test_time_is_filled_in() -> None:
    """
    By the stand-in's clock, and ids by run, case and place.
    """
    values = suite.Values("run case", 7261.5, {"id": "x"})
    filled = values.fill(
        {
            "a": {"$hour": -1, "plus": 5},
            "b": {"$iso": {"$hour": 0}},
            "c": [{"$times": 2, "of": {"$account": "a"}}, {"$kept": "id"}],
            "d": {"$text": "ab", "times": 2},
            "e": {"$time": "1970-01-02T00:00:00+00:00"},
        }
    )
    assert (3605, "1970-01-01T02:00:00+00:00") == (filled["a"], filled["b"])
    first, second, kept = filled["c"]
    assert [True, True, "x"] == [first != second, len(first) == 12 and first.isdecimal(), kept]
    assert ("abab", int(timedelta(days=1).total_seconds())) == (filled["d"], filled["e"])
    assert first != suite.Values("run another", 0).fill({"$account": "a"})
