"""What is published: metadata, the bill of materials, and what `.github` says of it."""

import re
import tomllib
from pathlib import Path

from support import sbom

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def test_the_bill_of_materials_is_that_of_this_version() -> None:
    """
    `python tests/support/sbom.py` writes it anew.
    """
    assert sbom.text() == sbom.FILE.read_text(encoding="utf-8")


def test_the_metadata_is_whole() -> None:
    """
    An index shows who it is by, what it is for and where to look. Newcomer, smaller 15.
    """
    assert {"Homepage", "Documentation", "Changelog", "Issues", "Source"} == set(PROJECT["urls"])
    assert PROJECT["authors"]
    assert {"Framework :: AsyncIO", "Framework :: Pytest"} <= set(PROJECT["classifiers"])


def test_the_lowest_versions_are_real_ones() -> None:
    """
    So that a test of them can install them: each floor has the form of a release.
    """
    floors = [
        requirement
        for parts in ([PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()])
        for requirement in parts
        if not requirement.startswith(PROJECT["name"])
    ]

    assert all(re.fullmatch(r"[a-z0-9-]+(\[[a-z]+\])?>=\d+(\.\d+)+", one) for one in floors)


def test_the_release_says_that_it_was_never_run() -> None:
    """
    Until it was; and it refuses the placeholder.
    """
    release = (ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8")

    assert "NEVER BEEN RUN" in release
    assert "id-token: write" in release
    assert "attest-build-provenance" in release
    assert "github.com/OWNER" in release
