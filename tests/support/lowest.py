"""`python tests/support/lowest.py`: the lowest versions of what the package and its extras need."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path


def lowest() -> Iterator[str]:
    """Yield a constraint for each of them; of the tests' own tools the newest are right."""
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8")
    project = tomllib.loads(text)["project"]
    parts = list(project["dependencies"])
    for extra, needed in project["optional-dependencies"].items():
        parts += needed if extra != "test" else []
    for part in parts:
        if found := re.fullmatch(r"([a-z-]+)(?:\[[a-z]+\])?>=([0-9.]+)", part):
            yield f"{found[1]}=={found[2]}"


if __name__ == "__main__":
    print("\n".join(lowest()))  # noqa: T201
