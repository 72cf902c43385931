"""
Draw what was measured last: `python benchmarks/chart.py` writes benchmarks/speed.svg.

Each bar is this client beside aiobotocore, whose own is the whole width, from the newest results
of each question. The colours are readable on light and on dark pages.
"""

import json
import statistics
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
WIDTH, LEFT, BAR, STEP = 760, 300, 380, 34
STYLE = """
text { font: 14px system-ui, sans-serif; fill: #24292f }
.note { font-size: 12px; fill: #57606a }
.whole { fill: #d0d7de }
.ours { fill: #1a7f37 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .note { fill: #9198a1 }
  .whole { fill: #3d444d }
  .ours { fill: #3fb950 }
}
"""

Found = dict[str, Any]
ROWS: list[tuple[str, str, Callable[[Found], list[float]]]] = [
    ("CPU a record", "cpu", lambda found: found["ratios"]["cpu, ours / aiobotocore"]),
    (
        "time for many records",
        "cpu",
        lambda found: [1 / r for r in found["ratios"]["records a second, ours / aiobotocore"]],
    ),
    ("time for one record", "single", lambda found: found["p50, ours / aiobotocore"]),
    ("CPU with 100 allocations", "allocations", lambda found: found["cpu, ours / aiobotocore"]),
    ("memory of kept results", "memory", lambda found: found["kept, ours / aiobotocore"]),
    ("lateness of the event loop", "event-loop", lambda found: found["p99, ours / aiobotocore"]),
    ("import and first call", "start", lambda found: found["ours / aiobotocore"]),
]


def newest(question: str) -> Found | None:
    """Return the last results of a question."""
    files = (HERE / "results").glob(f"*-{question}.json")
    last = max(files, key=lambda path: (path.name[:10], path.stat().st_mtime), default=None)
    if last is None:
        return None
    found: Found = json.loads(last.read_text())
    return found


def drawn() -> str:
    parts: list[str] = []
    y = 44
    told = ""
    for name, question, ratios in ROWS:
        found = newest(question)
        if found is None:
            continue
        share = statistics.median(ratios(found))
        told = f"{found['date']}, {found['machine']['processor']}, Python "
        told += f"{found['machine']['python']}, aiobotocore {found['packages']['aiobotocore']}"
        parts += [
            f'<text x="{LEFT - 12}" y="{y + 14}" text-anchor="end">{escape(name)}</text>',
            f'<rect class="whole" x="{LEFT}" y="{y}" width="{BAR}" height="18" rx="3"/>',
            (
                f'<rect class="ours" x="{LEFT}" y="{y}" width="{BAR * min(share, 1):.1f}" '
                f'height="18" rx="3"/>'
            ),
            f'<text x="{LEFT + BAR + 12}" y="{y + 14}">{share:.2f}</text>',
        ]
        y += STEP
    title = "This client (green) beside aiobotocore (the whole bar); less is better"
    return "\n".join(
        [
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 24}" '
                f'width="{WIDTH}" height="{y + 24}" role="img" aria-label="{title}">'
            ),
            f"<style>{STYLE}</style>",
            f'<text x="12" y="24">{title}</text>',
            *parts,
            f'<text class="note" x="12" y="{y + 12}">{escape(told)}</text>',
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    (HERE / "speed.svg").write_text(drawn())
