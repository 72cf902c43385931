"""The hall: what a program imports is what public signatures mention, and nothing else."""

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
from support.signatures import mentioned_by

import marketplace_metering_async
from marketplace_metering_async import MeteringError, ledger, sandbox, testing

DOORS = {
    "AdaptivePacer",  # a Pacer
    "Coalescer",
    "LoggingObserver",  # an Observer
    "MarketplaceMeteringClient",
    "OpenTelemetryObserver",  # an Observer
    "SystemClock",  # a Clock
    "UsageBatcher",
    "UsageLedger",
    "coalesce",
    "verify_registration",
}
NAMES_OF_UNIONS = {"Event", "FaultFunction", "Step"}
HALVES = {"LedgerOperations"}  # of UsageLedger; nobody has one by itself
MADE_BY_THE_LEDGER = {"UsageLedger.__init__", "Relaying.__init__"}
HALLS = [marketplace_metering_async, ledger, sandbox, testing]


def mentioned_in(hall: ModuleType) -> dict[str, str]:
    return {
        found: where
        for name in hall.__all__
        for found, where in mentioned_by(name, getattr(hall, name), MADE_BY_THE_LEDGER)
    }


@pytest.mark.parametrize("hall", HALLS, ids=lambda hall: hall.__name__.rpartition(".")[2])
def test_everything_that_a_signature_mentions_is_exported(hall: ModuleType) -> None:
    """
    From the package itself; from the sandbox and the tests' helpers, what is theirs.
    """
    exported = set(marketplace_metering_async.__all__) | set(hall.__all__) | HALVES
    if hall is testing:
        exported |= set(sandbox.__all__)

    missing = {name: at for name, at in mentioned_in(hall).items() if name not in exported}

    assert {} == missing


def test_nothing_else_is_exported() -> None:
    """
    But for the doors, and errors, which are caught by their names.
    """
    mentioned = set(mentioned_in(marketplace_metering_async)) | NAMES_OF_UNIONS
    errors = {
        name
        for name in marketplace_metering_async.__all__
        if isinstance(found := getattr(marketplace_metering_async, name), type)
        and issubclass(found, MeteringError)
    }

    assert set() == set(marketplace_metering_async.__all__) - mentioned - errors - DOORS


@pytest.mark.parametrize("hall", HALLS, ids=lambda hall: hall.__name__.rpartition(".")[2])
def test_the_hall_lists_what_it_exports(hall: ModuleType) -> None:
    """
    To dir() and help(), before anything is used; and each name is there.
    """
    program = f"import {hall.__name__} as hall; print(*(n for n in dir(hall) if n[0] != '_'))"
    listed = subprocess.run(  # noqa: S603 - our own words
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )

    assert set(hall.__all__) <= set(listed.stdout.split())
    assert sorted(hall.__all__) == hall.__all__
    assert all(hasattr(hall, name) for name in hall.__all__)


def test_type_checkers_look_where_a_lazy_name_is_looked_for() -> None:
    """
    In the same modules: what `__getattr__` finds has its type, and what has a type is found.
    """
    text = Path(marketplace_metering_async.__file__).read_text(encoding="utf-8")
    seen = re.findall(r"from marketplace_metering_async\.(\S+) import", text)

    assert sorted(marketplace_metering_async._HOMES) == seen


def test_type_checkers_know_no_other_name() -> None:
    """
    Each name is imported for them from where it is; by a `*` they would take internal ones too.
    """
    tree = ast.parse(Path(marketplace_metering_async.__file__).read_text(encoding="utf-8"))
    block = next(one for one in tree.body if isinstance(one, ast.If))
    assert "TYPE_CHECKING" == ast.unparse(block.test)
    imports = [one for one in block.body if isinstance(one, ast.ImportFrom)]
    seen = {str(one.module): [alias.name for alias in one.names] for one in imports}

    exported = [
        name
        for home, names in seen.items()
        for name in (_given_by_a_star(import_module(home)) if names == ["*"] else names)
    ]

    assert marketplace_metering_async.__all__ == sorted(exported)


def _given_by_a_star(module: ModuleType) -> list[str]:
    public = [name for name in vars(module) if not name.startswith("_")]
    return list(getattr(module, "__all__", public))


def test_type_checkers_know_a_misspelled_name() -> None:
    """
    They never see `__getattr__`, by which each name would be there, and of any type.
    """
    for hall in (marketplace_metering_async, testing):
        text = Path(str(hall.__file__)).read_text(encoding="utf-8")
        seen = [
            inner
            for outer in ast.parse(text).body
            if not (isinstance(outer, ast.If) and "not TYPE_CHECKING" == ast.unparse(outer.test))
            for inner in ast.walk(outer)
        ]
        functions = {one.name for one in seen if isinstance(one, ast.FunctionDef)}

        assert {"__dir__"} == functions


def test_the_hall_lists_nothing_else() -> None:
    """
    The package and the tests' helpers import lazily, so that nothing of theirs stands around.
    """
    for hall in (marketplace_metering_async, testing):
        assert hall.__all__ == [name for name in dir(hall) if name[0] != "_"]


def test_help_lists_the_public_names() -> None:
    """
    With what each is for; a lazy name is no reason to hide it.
    """
    shown = subprocess.run(
        [sys.executable, "-c", "import marketplace_metering_async as m; help(m)"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout

    missing = [name for name in marketplace_metering_async.__all__ if name not in shown]

    assert [] == missing


def test_a_name_that_nobody_exports_is_no_attribute() -> None:
    """
    As in any module.
    """
    for hall in (marketplace_metering_async, testing):
        with pytest.raises(AttributeError, match=f"module '{hall.__name__}' has no attribute 'x'"):
            _ = hall.x


def test_all_modules_can_be_imported_by_their_path() -> None:
    """
    A name of the hall hides none of the folders beside it.
    """
    for name in ("client", "ledger", "sandbox", "registration"):
        module = import_module(f"marketplace_metering_async.{name}")
        assert module.__name__.endswith(name)
