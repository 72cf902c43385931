"""
What does telemetry cost of a call's CPU? `python benchmarks/telemetry.py [slices]`

Calls over TLS as in `cpu.py`: without it (`ours`), with an OpenTelemetryObserver where the program
has the API alone (`ours-otel-api`), and with an SDK whose processor exports spans in batches
(`ours-otel-sdk`). All three clients stand in one process and take turns of 100 calls, so that what
disturbs the machine meets each alike; a ratio is of one turn.
"""

import sys

from lab.harness import Server, results, spread

KINDS = ("ours", "ours-otel-api", "ours-otel-sdk")


def main() -> None:
    slices = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    with results("telemetry") as found, Server() as server:
        rows = server.run(",".join(KINDS), "observed", records=2_500, slices=slices)["slices"]
        for kind in KINDS:
            print(f"{kind:14} {spread([row[kind] for row in rows])} us CPU a call")
        found["ratios"] = {
            f"cpu, {kind} / ours": [round(row[kind] / row["ours"], 4) for row in rows]
            for kind in KINDS[1:]
        }
        for name, values in found["ratios"].items():
            print(f"{name}: {spread(values)}")


if __name__ == "__main__":
    main()
