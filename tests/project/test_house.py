"""The house itself: what its files may hold, and that no failure case is forgotten."""

import ast
import re
import tomllib
from pathlib import Path

from support.cases import LEFT_OUT, covered, missing

import marketplace_metering_async

README = Path(__file__).parents[2] / "README.md"
TESTS = README.parent / "tests"
PACKAGE = Path(marketplace_metering_async.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))


def names_of(pattern: str) -> set[str]:
    return {
        str(path.relative_to(PACKAGE))
        for path in SOURCES
        if re.search(pattern, path.read_text(encoding="utf-8"))
    }


def test_every_failure_case_has_a_test_or_a_reason() -> None:
    """
    And none has both.
    """
    assert [] == missing()
    assert not set(LEFT_OUT) & set(covered())


def test_no_file_is_above_400_lines_but_for_docstrings() -> None:
    """
    What is longer has two rooms in it, but for the engine. Design, Rooms
    """
    lines = {str(path.relative_to(PACKAGE)): lines_of(path) for path in SOURCES}

    assert {"delivery/delivery.py"} == {name for name, many in lines.items() if many > 400}
    assert lines["delivery/delivery.py"] < 475


def lines_of(path: Path) -> int:
    source = path.read_text(encoding="utf-8")
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    texts = {
        (text.lineno, text.end_lineno or text.lineno)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, documented)
        for text in node.body
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }
    return len(source.splitlines()) - sum(end + 1 - start for start, end in texts)


def test_time_is_read_in_few_places() -> None:
    """
    The clock, the sandbox's own clock, and coalesce(), which has none; zones are never looked up.
    Covers: H19, H20
    """
    readers = names_of(r"datetime\.now\(|time\.time\(|time\.monotonic\(|utcnow")

    assert {"clock.py", "sandbox/clock.py", "coalescing.py"} == readers
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

    found = names_of(sql)

    assert found
    assert all(name.startswith("ledger/stores/") for name in found)


def test_every_extra_brings_what_is_imported() -> None:
    """
    And `all` brings every extra but those of tests. Newcomer M12.
    """
    project = tomllib.loads((README.parent / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    named = re.findall(r"[a-z]+", extras.pop("all")[0].partition("[")[2])
    brought = {re.split(r"[\[>]", one)[0] for name in named for one in extras[name]}
    modules = {
        {"pyjwt": "jwt", "opentelemetry-api": "opentelemetry"}.get(one, one) for one in brought
    }

    unused = {module for module in modules if not names_of(rf"\b(import|from) {module}\b")}

    assert set() == unused
    assert {"test"} == set(extras) - set(named)


def test_the_words_of_a_dialect_are_kept_out() -> None:
    """
    Plain English, as design.md has it: fix, configured, permanently, n-th.
    """
    dialect = re.compile(
        r"\bmend(s|ed|ing)?\b|(?<![a-z])told(?![a-z])|\bfor ever\b|\bmanieth\b", re.IGNORECASE
    )

    found = [
        f"{path.name}: {line.strip()}"
        for path in SOURCES
        for line in path.read_text(encoding="utf-8").splitlines()
        if dialect.search(line)
    ]

    assert [] == found


def test_every_module_of_decisions_has_a_test_module_of_its_name() -> None:
    """
    Under tests/unit, which mirrors the package. What decides is tested without a loop, a socket or
    a store. (The ledger's model has values only.)
    """
    pyproject = tomllib.loads((README.parent / "pyproject.toml").read_text("utf-8"))
    contracts = pyproject["tool"]["importlinter"]["contracts"]
    (decisions,) = (one for one in contracts if one["name"] == "Decisions do no I/O")
    missing = []
    for module in set(decisions["source_modules"]) - {"marketplace_metering_async.ledger.model"}:
        *folder, name = module.split(".")[1:]
        path = TESTS.joinpath("unit", *folder, f"test_{name}.py")
        if not path.exists():
            missing.append(path)

    assert [] == missing


def test_the_units_mirror_the_package() -> None:
    """
    No folder of tests/unit is without its folder in the package.
    """
    folders = {path.parent.relative_to(TESTS / "unit") for path in TESTS.glob("unit/**/test_*.py")}

    assert all((PACKAGE / folder).is_dir() for folder in folders)
