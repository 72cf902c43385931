"""What the benchmarks share: the server, one process a client, rounds in turn, results as JSON."""

import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"
PARTS = ("marketplace-metering-async", "aiobotocore", "botocore", "boto3", "aiohttp", "orjson")
Row = dict[str, Any]


def pinned(core: int) -> list[str]:
    """A prefix that keeps a process on *core*, where there are two and the system can."""
    able = hasattr(os, "sched_setaffinity") and len(os.sched_getaffinity(0)) > 1
    cores = sorted(os.sched_getaffinity(0)) if able else []
    return ["taskset", "-c", str(cores[core])] if able else []


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """Keep this process, and those that it starts in the block, on *core*, as pinned() does."""
    if not pinned(core):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(allowed)[core]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


class Server:
    """The fast server, for as long as the block lasts."""

    def __init__(self, latency_ms: float = 0.0) -> None:
        self.latency_ms = latency_ms

    def __enter__(self) -> Self:
        command = [*pinned(-1), sys.executable, str(HERE / "server.py")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout
        told = json.loads(self._process.stdout.readline())
        self.http, self.https, self.authority = told["http"], told["https"], told["authority"]
        self._ask(f"/latency/{self.latency_ms}")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(10)

    def cpu(self) -> float:
        """Return the seconds of CPU that the server has taken."""
        return float(self._ask("/cpu")["cpu"])

    def _ask(self, path: str) -> Row:
        with urllib.request.urlopen(f"{self.http}{path}", timeout=10) as answer:  # noqa: S310
            found: Row = json.loads(answer.read())
            return found

    def run(self, kind: str, work: str, *, tls: bool = True, **more: object) -> Row:
        """Run one client in a process of its own, and return what it measured."""
        url = self.https if tls else self.http
        options = [f"--{name.replace('_', '-')}={value}" for name, value in more.items()]
        command = [*pinned(0), sys.executable, str(HERE / "clients.py"), kind, work, url, *options]
        # With awscrt installed botocore signs through it; rows should not hang on what else is.
        given = {**os.environ, "AWS_CA_BUNDLE": self.authority, "BOTO_DISABLE_CRT": "true"}
        # All are to run from bytecode, as installed; this checkout's is written where it may be.
        given.pop("PYTHONDONTWRITEBYTECODE", None)
        before = self.cpu()
        done = subprocess.run(command, env=given, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{kind} {work} failed:\n{done.stderr[-2000:]}")
        row: Row = {"kind": kind, "tls": tls, **more, **json.loads(done.stdout.splitlines()[-1])}
        if "wall" in row:
            row["server_busy"] = round((self.cpu() - before) / row["wall"], 2)
        return row


def in_turn(
    server: Server, kinds: Sequence[str], work: str, *, rounds: int, **more: Any
) -> list[Row]:
    """Run each kind once a round, in an order that changes, so that noise meets all alike."""
    rows: list[Row] = []
    for number in range(rounds):
        turn = number % len(kinds)
        for kind in (*kinds[turn:], *kinds[:turn]):
            rows.append(server.run(kind, work, **more) | {"round": number})
    return rows


def ratio(rows: Sequence[Row], name: str, one: str, other: str) -> list[float]:
    """Return *one* divided by *other* in each round."""
    value = {(row["kind"], row["round"]): row[name] for row in rows}
    rounds = sorted({row["round"] for row in rows})
    return [round(value[one, n] / value[other, n], 4) for n in rounds]


def median(values: Sequence[float]) -> float:
    return round(statistics.median(values), 4)


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


@contextlib.contextmanager
def results(question: str) -> Iterator[Row]:
    """Collect what was found in a dict, and write it to results/ with machine and commit."""
    found: Row = {}
    yield found
    now = datetime.now(UTC)
    told: Row = {
        "question": question,
        "date": f"{now:%Y-%m-%d}",
        "time": f"{now:%H:%M:%S}",
        **where(),
        **found,
    }
    out = RESULTS / f"{question}.json"  # the latest only: git has the past
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(told, indent=1) + "\n")
    print(f"written to {out}")


def where() -> Mapping[str, Any]:
    """Describe the machine, what is installed, and the commit."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
        cwd=HERE,
    )
    found = {}
    for part in PARTS:
        with contextlib.suppress(PackageNotFoundError):
            found[part] = version(part)
    return {
        "commit": commit.stdout.strip() or "unknown",
        "machine": {
            "system": f"{platform.system()} {platform.release()}",
            "processor": _processor(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "load": [round(load, 2) for load in os.getloadavg()],
        },
        "packages": found,
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def rounds_asked(usual: int = 5) -> int:
    """Return the rounds that the command line asks for: `python benchmarks/cpu.py 9`."""
    return int(sys.argv[1]) if len(sys.argv) > 1 else usual
