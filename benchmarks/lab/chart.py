"""
Draw what the latest results say, as a picture: `python benchmarks/lab/chart.py`

One bar a question, each a ratio to aiobotocore doing the same; shorter is better.
"""

import json
import statistics
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"
OUT = RESULTS / "speed.svg"

BARS = (
    ("CPU a call, TLS, 32 at once", "cpu", "cpu, ours / aiobotocore"),
    ("Time of one record alone", "single", "p50, ours / aiobotocore"),
    ("Memory of results kept", "memory", "kept, ours / aiobotocore"),
    ("Lateness of the event loop", "event-loop", "p99, ours / aiobotocore"),
    ("Import and first call", "start", "ours / aiobotocore"),
)
STYLE = """
  text { font: 14px system-ui, sans-serif; fill: #24292f }
  .peer { fill: #d0d7de } .ours { fill: #1a7f37 } .small { font-size: 12px; fill: #57606a }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .peer { fill: #30363d } .ours { fill: #3fb950 } .small { fill: #9198a1 }
  }
"""
WIDTH, LEFT, ROW = 720, 230, 44


def latest(question: str) -> dict[str, Any]:
    """Return the result on *question*."""
    path = RESULTS / f"{question}.json"
    if not path.exists():
        raise SystemExit(f"no results on {question}: python benchmarks/{question}.py")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def value_of(question: str, name: str) -> float:
    found = latest(question)
    values = found.get("ratios", {}).get(name, found.get(name))
    return statistics.median(values) if isinstance(values, list) else float(values)


def bar(number: int, title: str, value: float) -> str:
    top = 40 + number * ROW
    room = WIDTH - LEFT - 90
    return (
        f'<text x="{LEFT - 12}" y="{top + 19}" text-anchor="end">{title}</text>'
        f'<rect class="peer" x="{LEFT}" y="{top}" width="{room}" height="28" rx="3"/>'
        f'<rect class="ours" x="{LEFT}" y="{top}" width="{room * min(1, value):.0f}" '
        f'height="28" rx="3"/>'
        f'<text x="{LEFT + room + 10}" y="{top + 19}">{value:.2f}</text>'
    )


def main() -> None:
    bars = [bar(n, title, value_of(*where)) for n, (title, *where) in enumerate(BARS)]
    told = latest("cpu")
    height = 40 + len(BARS) * ROW + 30
    note = f"{told['date']}, commit {told['commit']}, Python {told['machine']['python']}"
    OUT.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="Ratios to aiobotocore: shorter is better"><style>{STYLE}</style>'
        f'<text x="{LEFT}" y="24" class="small">aiobotocore = 1; shorter is better</text>'
        + "".join(bars)
        + f'<text x="{LEFT}" y="{height - 10}" class="small">{note}</text></svg>\n'
    )
    print(f"written to {OUT}")


if __name__ == "__main__":
    main()
