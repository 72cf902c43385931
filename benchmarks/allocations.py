"""
What do allocations cost? `python benchmarks/allocations.py [rounds]`

2,500 records with 100 allocations each, 32 calls at once over TLS: CPU a call of 25 records.
"""

from lab.harness import Server, in_turn, ratio, results, rounds_asked, spread

KINDS = ("ours", "aiobotocore")


def main() -> None:
    with results("allocations") as found, Server() as server:
        rows = in_turn(
            server, KINDS, "throughput", rounds=rounds_asked(), records=2_500, allocations=100
        )
        for kind in KINDS:
            call = spread([row["cpu_us_call"] / 1000 for row in rows if row["kind"] == kind])
            print(f"{kind}: {call} ms CPU a call")
        found["cpu, ours / aiobotocore"] = ratio(rows, "cpu_us_call", "ours", "aiobotocore")
        print(f"ratio: {spread(found['cpu, ours / aiobotocore'])}")
        found["rows"] = rows


if __name__ == "__main__":
    main()
