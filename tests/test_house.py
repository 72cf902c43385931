"""The house itself: what its files may hold, and that no failure case is forgotten."""

import re
import tomllib
from pathlib import Path

from cases import LEFT_OUT, covered, missing

import marketplace_metering_async

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
SOURCES = sorted(Path(marketplace_metering_async.__file__).parent.rglob("*.py"))


def names_of(pattern: str) -> set[str]:
    return {path.name for path in SOURCES if re.search(pattern, path.read_text(encoding="utf-8"))}


def test_every_failure_case_has_a_test_or_a_reason() -> None:
    """
    And none has both.
    """
    assert [] == missing()
    assert not set(LEFT_OUT) & set(covered())


def test_time_is_read_in_few_places() -> None:
    """
    The clock, the sandbox's own time, and the outermost commands; zones are never looked up.
    Covers: H19, H20
    """
    outermost = {"demo.py", "doctor.py", "plan.py", "sending.py", "__init__.py", "coalescing.py"}

    readers = names_of(r"datetime\.now\(|time\.time\(|time\.monotonic\(|utcnow")

    assert readers <= {"clock.py", "app.py"} | outermost
    assert set() == names_of("zoneinfo")


def test_nothing_unsafe_is_loaded() -> None:
    """
    No pickle, eval, exec or YAML in the package. Covers: A19
    """
    assert set() == names_of(r"\bimport pickle|\beval\(|\bexec\(|\byaml\b|\bmarshal\b")


def test_sql_is_in_the_stores_alone() -> None:
    """
    What the ledger decides, it decides over values. Design, Laws of the ledger
    """
    sql = r"\bSELECT\b|\bINSERT INTO\b|\bUPDATE \w+ SET\b|\bDELETE FROM\b"
    stores = Path("ledger", "stores")

    assert [] == [
        str(path)
        for path in SOURCES
        if re.search(sql, path.read_text(encoding="utf-8")) and stores not in _parents(path)
    ]


def _parents(path: Path) -> list[Path]:
    return list(path.relative_to(Path(marketplace_metering_async.__file__).parent).parents)


def test_every_decision_of_the_ledger_has_a_test_of_its_name() -> None:
    """
    So that each is tested by itself, without a store.
    """
    contracts = tomllib.loads((README.parent / "pyproject.toml").read_text("utf-8"))
    (decisions,) = [
        contract["source_modules"]
        for contract in contracts["tool"]["importlinter"]["contracts"]
        if contract["name"] == "Decisions do no I/O"
    ]
    names = {name.rpartition(".")[2] for name in decisions if ".ledger." in name} - {"model"}
    tests = {path.stem.removeprefix("test_") for path in (HERE / "unit" / "ledger").iterdir()}

    assert set() == names - tests


def test_every_extra_brings_what_is_imported() -> None:
    """
    And `all` brings every extra but those of tests. Newcomer M12.
    """
    project = tomllib.loads((README.parent / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    named = re.findall(r"[a-z]+", extras.pop("all")[0].partition("[")[2])
    brought = {re.split(r"[\[>]", one)[0] for name in named for one in extras[name]}
    modules = {"jwt" if one == "pyjwt" else one for one in brought}

    unused = {module for module in modules if not names_of(rf"\b(import|from) {module}\b")}

    assert set() == unused
    assert {"test"} == set(extras) - set(named)


def test_the_words_of_a_dialect_are_kept_out() -> None:
    """
    Plain English, as design.md has it: fix, configured, permanently, n-th.
    """
    dialect = re.compile(r"\bmend(s|ed|ing)?\b|\btold\b|\bfor ever\b|\bmanieth\b", re.IGNORECASE)

    found = [
        f"{path.name}: {line.strip()}"
        for path in SOURCES
        for line in path.read_text(encoding="utf-8").splitlines()
        if dialect.search(line)
    ]

    assert [] == found
