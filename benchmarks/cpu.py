"""
What does a delivery cost the process it runs in? `python benchmarks/cpu.py [rounds]`

25,000 records, 32 calls at once, TLS, no latency, all results kept. Told are the CPU a call and the
records a second, as ratios to aiobotocore and to aiohttp alone with requests signed beforehand;
and how much of its time the server was busy, with what it can take at most (`load`).
"""

from lab.harness import Server, in_turn, median, ratio, results, rounds_asked, spread

KINDS = ("ours", "aiobotocore", "boto3", "aiohttp", "load")


def main() -> None:
    with results("cpu") as found, Server() as server:
        rows = in_turn(server, KINDS, "throughput", rounds=rounds_asked())
        for kind in KINDS:
            mine = [row for row in rows if row["kind"] == kind]
            call = spread([row["cpu_us_call"] for row in mine])
            rate = spread([row["records_per_second"] for row in mine])
            busy = median([row["server_busy"] for row in mine])
            print(f"{kind:12} {call} us CPU a call; {rate} records/s; server busy {busy}")
        found["ratios"] = {
            "cpu, ours / aiobotocore": ratio(rows, "cpu_us_call", "ours", "aiobotocore"),
            "cpu, boto3 / aiobotocore": ratio(rows, "cpu_us_call", "boto3", "aiobotocore"),
            "cpu, ours / aiohttp": ratio(rows, "cpu_us_call", "ours", "aiohttp"),
            "records a second, ours / aiobotocore": ratio(
                rows, "records_per_second", "ours", "aiobotocore"
            ),
        }
        found["rows"] = rows
        for name, values in found["ratios"].items():
            print(f"{name}: {spread(values)}")


if __name__ == "__main__":
    main()
