"""
What does telemetry cost of a call's CPU? `python benchmarks/telemetry.py [rounds]`

Calls over TLS as in `cpu.py`: without it (`ours`), with an OpenTelemetryObserver where the program
has the API alone (`ours-otel-api`), and with an SDK that exports spans in batches to memory
(`ours-otel-sdk`).
"""

from lab.harness import Server, in_turn, ratio, results, rounds_asked, spread

KINDS = ("ours", "ours-otel-api", "ours-otel-sdk")


def main() -> None:
    with results("telemetry") as found, Server() as server:
        rows = in_turn(server, KINDS, "throughput", rounds=rounds_asked(), records=10_000)
        for kind in KINDS:
            call = spread([row["cpu_us_call"] for row in rows if row["kind"] == kind])
            print(f"{kind:14} {call} us CPU a call")
        found["ratios"] = {
            f"cpu, {kind} / ours": ratio(rows, "cpu_us_call", kind, "ours") for kind in KINDS[1:]
        }
        found["rows"] = rows
        for name, values in found["ratios"].items():
            print(f"{name}: {spread(values)}")


if __name__ == "__main__":
    main()
