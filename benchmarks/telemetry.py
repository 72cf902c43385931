"""
What does telemetry cost of a call's CPU? `python benchmarks/telemetry.py [slices]`

A call is 25 records over TLS, from signing to verdicts, as in `cpu.py`; the CPU is that of the
process, the thread that exports among it, and the exporter drops what it gets. Clients: without
telemetry, twice (`ours` and `ours-again`, which shows the noise); with an OpenTelemetryObserver
where the program has the API alone (`ours-otel-api`), where it has an SDK with a batch processor
and a reader of metrics (`-sdk`), and where that samples a tenth of the traces (`-sampled`); and
with nothing but an empty span of that SDK for each call (`-bare`), which is its own floor.

All clients stand in one process and take turns of 100 calls in an order that changes, so that what
disturbs the machine meets each alike; a ratio is of one turn. First the calls of a turn are one
batch (`together`), then each is a batch of its own (`alone`), whose telemetry shares its work with
no other call's.
"""

import statistics
import sys

from lab.harness import Server, results, spread

KINDS = (
    "ours",
    "ours-again",
    "ours-otel-api",
    "ours-otel-sdk",
    "ours-otel-sampled",
    "ours-otel-bare",
)


def main() -> None:
    slices = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    with results("telemetry") as found, Server() as server:
        found["ratios"] = {}
        for name, batch in (("together", 2_500), ("alone", 25)):
            ran = server.run(",".join(KINDS), "observed", records=2_500, batch=batch, slices=slices)
            for kind in KINDS:
                calls = [row[kind] for row in ran["slices"]]
                ratios = [round(row[kind] / row["ours"], 4) for row in ran["slices"]]
                low, middle, high = statistics.quantiles(ratios, n=4)
                found["ratios"][f"cpu, {name}, {kind} / ours"] = {
                    "median": round(middle, 3),
                    "half of them": [round(low, 3), round(high, 3)],
                }
                ratio = f"{middle:.3f}"
                print(f"{name:8} {kind:17} {ratio} times ours; {spread(calls)} us CPU a call")


if __name__ == "__main__":
    main()
