"""
The wheel's bill of materials (CycloneDX, PEP 770), made from pyproject.toml.

`python tests/support/sbom.py` writes it anew. The wheel holds nothing but the package's own code,
so what is listed is what an installer brings, by name and lowest version.
"""

import json
import re
import tomllib
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
FILE: Final = ROOT / ".ci" / "sbom.cdx.json"


def bill() -> dict[str, Any]:
    """Return the bill of materials of the version that pyproject.toml has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    name, version = project["name"], project["version"]
    extras = project["optional-dependencies"]
    brought = dict.fromkeys(project["dependencies"], "required")
    for extra, parts in extras.items():
        if extra not in ("all", "test"):
            brought |= dict.fromkeys(parts, "optional")
    components = [_component(part, scope) for part, scope in sorted(brought.items())]
    itself = f"{name}@{version}"
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "library",
                "bom-ref": itself,
                "name": name,
                "version": version,
                "purl": f"pkg:pypi/{itself}",
                "licenses": [{"license": {"id": project["license"]}}],
            }
        },
        "components": components,
        "dependencies": [{"ref": itself, "dependsOn": [one["bom-ref"] for one in components]}],
    }


def _component(requirement: str, scope: str) -> dict[str, Any]:
    found = re.fullmatch(r"([a-z-]+)(?:\[[a-z]+\])?(>=[0-9.]+)", requirement)
    assert found is not None, requirement
    return {
        "type": "library",
        "bom-ref": found[1],
        "name": found[1],
        "purl": f"pkg:pypi/{found[1]}",
        "scope": scope,
        "properties": [{"name": "pypi:requires", "value": found[2]}],
    }


def text() -> str:
    """Return the file's content."""
    return json.dumps(bill(), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
