"""
The failure cases of the wire, service, response, throttling, cancellation, crashes, disks, several
processes, time, input, credentials, batcher and command line, and the tests that cover each:
`python tests/support/cases.py`.

A test names what it covers in its docstring: `Covers: W05, S16`. A case that no test names is
left out for a reason that stands here; a case that is neither makes this command fail.
"""

import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Final

PARTS: Final = {
    "W": 20,
    "S": 23,
    "R": 15,
    "T": 13,
    "C": 26,
    "K": 21,
    "D": 19,
    "M": 20,
    "H": 20,
    "V": 18,
    "A": 22,
    "B": 10,
    "X": 16,
}
"""How many cases each part has."""


_RELEASE = "of the release process: there has been no release"

LEFT_OUT: Final = {
    "T04": "there is no token quota of retries; an ill service is probed one call at a time (T03)",
    "T07": "relays take their turns through the database, however many seal at once",
    "C06": "a commit lands though its caller is cancelled; its event id makes repeating harmless",
    "C13": "the ledger has on disk what it acknowledged, however the loop ends (test_torture)",
    "C21": "a blocked loop lets a lease run out, which the fence covers (M02)",
    "C24": "nothing of the client runs outside a call, so nothing can hang at the exit",
    "C25": "uvloop and later Pythons are not part of the test environment",
    "K18": "what a disk that lies damages is not sent (D08), and what it lost is seen by a "
    "watermark on another disk (K19); one on the same disk is lost together with it",
    "V15": "a load test, not for every run; streams are held to a bound by test_client",
    "A09": "the client writes nothing to disk",
    "A20": _RELEASE,
    "A21": _RELEASE,
    "A22": _RELEASE,
}

_COVERS: Final = re.compile(r"Covers:((?:\s*[A-Z]\d\d,?)+)")
_TEST: Final = re.compile(r"def (test_\w+)")


def covered() -> dict[str, list[str]]:
    """Return the tests that name each case."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(Path(__file__).parents[1].rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        tests = [(match.start(), match[1]) for match in _TEST.finditer(text)]
        for match in _COVERS.finditer(text):
            test = next((n for at, n in reversed(tests) if at < match.start()), path.stem)
            for case in re.findall(r"[A-Z]\d\d", match[1]):
                found[case].append(f"{path.stem}::{test}")
    return found


def missing() -> list[str]:
    """Return the cases that are neither covered nor left out for a reason."""
    found = covered()
    cases = [f"{part}{n:02d}" for part, size in PARTS.items() for n in range(1, size + 1)]
    return [case for case in cases if case not in found and case not in LEFT_OUT]


def main() -> None:
    found = covered()
    for part, size in PARTS.items():
        for number in range(1, size + 1):
            case = f"{part}{number:02d}"
            told = ", ".join(found[case]) if case in found else f"left out: {LEFT_OUT.get(case)}"
            sys.stdout.write(f"{case}  {told}\n")
    sys.exit(bool(missing()))


if __name__ == "__main__":
    main()
