"""What the tests' README calls a longer run of all properties is one: none is short or missing."""

import ast
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parents[1]


@cache
def trees() -> dict[str, ast.Module]:
    """Return every module of the tests by its path."""
    return {
        path.relative_to(TESTS.parent).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(TESTS.rglob("*.py"))
    }


def documented() -> list[str]:
    """The arguments of pytest in the README's command for all properties."""
    readme = (TESTS / "README.md").read_text(encoding="utf-8")
    (command,) = (line for line in readme.splitlines() if "# every property" in line)
    return shlex.split(command.partition("#")[0].partition("-m pytest")[2])


def properties() -> Iterator[str]:
    """Yield every test of Hypothesis as pytest names it, as the source has it."""
    for file, tree in trees().items():
        for node in ast.walk(tree):
            match node:
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    if any(is_given(decorator) for decorator in node.decorator_list):
                        yield f"{file}::{node.name}"
                case ast.Assign(targets=[ast.Name(name)], value=ast.Attribute(attr="TestCase")):
                    yield f"{file}::{name}::runTest"


def is_given(decorator: ast.expr) -> bool:
    """Whether it is `@given(…)`, under whatever name its module goes."""
    match decorator:
        case ast.Call(func=ast.Name("given") | ast.Attribute(attr="given")):
            return True
    return False


def test_every_property_is_in_the_longer_run() -> None:
    """
    In whatever folder it lies, and state machines too. House, finding 1.
    """
    assert not [argument for argument in documented() if argument.startswith("tests")]  # all of it
    files = sorted({name.partition("::")[0] for name in properties()})  # the others take long
    done = subprocess.run(  # noqa: S603 - the README's own command
        [
            sys.executable,
            "-m",
            "pytest",
            "--collect-only",
            "-q",
            "--assert=plain",
            *documented(),
            *files,
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=TESTS.parent,
        env={**os.environ, "HYPOTHESIS_PROFILE": "thorough"},
    )
    collected = {line.partition("[")[0] for line in done.stdout.splitlines() if "::" in line}

    assert 0 == done.returncode, done.stdout + done.stderr
    assert set(properties()) == collected


def test_no_property_stays_short_in_the_longer_run() -> None:
    """
    One that wants another number of examples than most takes it from examples(), which grows.
    """
    fixed = [
        f"{file}:{node.value.lineno}"
        for file, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword)
        and node.arg == "max_examples"
        and not (isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "examples")
    ]

    assert ["tests/conftest.py"] * 2 == [place.partition(":")[0] for place in fixed], fixed
