"""The harness of the strangers, with the boto3 that the tests have and a part of the suite."""

import sys

import pytest
from strangers import run

from marketplace_metering_async.sandbox.conformance.runner import Outcome, Verdict
from marketplace_metering_async.sandbox.conformance.suite import Case, cases
from marketplace_metering_async.testing import SandboxThread

BOTO3 = run.STRANGERS[0]


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    chosen = [case for case in cases() if case.about in ("Licenses", "ResolveCustomer")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(BOTO3.variable, sys.executable)
        assert BOTO3.missing() is None
        with SandboxThread(run.sandbox()) as thread, run.running(BOTO3, thread.sandbox) as program:
            assert program.version.startswith("boto3 1.")
            return run.outcomes_of(program, thread.sandbox, chosen)


def test_boto3_passes(outcomes: list[Outcome]) -> None:
    """
    Signed, by the environment alone.
    """
    assert [] == run.unexpected(BOTO3, outcomes)
    assert {Verdict.AGREES} == {one.verdict for one in outcomes}
    assert "| Licenses | 6 of 6 |" in run.table({"boto3": outcomes})
    assert "| Times | - |" in run.table({"boto3": outcomes})


def test_what_differs_is_unexpected_unless_it_is_known(
    outcomes: list[Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    And what is known of an SDK names a case that there is.
    """
    case: Case = outcomes[0].case
    differs = Outcome(case=case, verdict=Verdict.DIFFERS, why="so")
    assert [f"boto3: {case.name} ({case.rule}): so"] == run.unexpected(BOTO3, [differs])
    monkeypatch.setattr(run, "KNOWN", {("boto3", case.name): "why"})
    assert [] == run.unexpected(BOTO3, [differs])


def test_a_program_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Its cases are not as expected, and nobody waits for it.
    """
    says_its_name_alone = 'print(\'{"version": "x"}\', flush=True); import time; time.sleep(60)'
    stuck = run.Stranger(
        name="stuck", variable="PATH", command=(sys.executable, "-c", says_its_name_alone)
    )
    monkeypatch.setattr(run, "_PATIENCE", 2.0)
    with SandboxThread(run.sandbox()) as thread, run.running(stuck, thread.sandbox) as program:
        found = run.outcomes_of(program, thread.sandbox, cases()[:2])
    assert 2 == len(run.unexpected(stuck, found))


def test_names_are_those_of_the_suite() -> None:
    """
    Of what is known of SDKs, and of the few cases for the slow ones.
    """
    names = {case.name for case in cases()}
    sdks = {stranger.name for stranger in run.STRANGERS}
    assert {sdk for sdk, _ in run.KNOWN} <= sdks
    assert {name for _, name in run.KNOWN} | run.FEW <= names


def test_what_is_not_here_has_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A variable that is not set, or a program that there is not.
    """
    monkeypatch.delenv("METERING_TEST_BOTO3", raising=False)
    monkeypatch.setenv("METERING_TEST_JAVA_SDK", "/x")
    monkeypatch.setenv("PATH", "/nowhere")
    reasons = {stranger.name: stranger.missing() for stranger in run.STRANGERS}
    assert reasons["boto3"] == "METERING_TEST_BOTO3 is not set"
    assert reasons["Java v2"] == "there is no java"
