"""
Does a delivery in the background hold up the program? `python benchmarks/event_loop.py [rounds]`

A tick of one millisecond runs beside 20,000 records, 32 calls at once, 20 ms of latency. Told is
how late it comes: the 99th percentile and the worst, in milliseconds.
"""

from lab.harness import Server, in_turn, ratio, results, rounds_asked, spread

KINDS = ("ours", "aiobotocore", "boto3")


def main() -> None:
    with results("event-loop") as found, Server(latency_ms=20) as server:
        rows = in_turn(server, KINDS, "lateness", rounds=rounds_asked(), records=20_000)
        for kind in KINDS:
            mine = [row for row in rows if row["kind"] == kind]
            p99, worst = spread([row["p99"] for row in mine]), spread([row["max"] for row in mine])
            print(f"{kind}: p99 {p99} ms, worst {worst} ms")
        found["p99, ours / aiobotocore"] = ratio(rows, "p99", "ours", "aiobotocore")
        print(f"ratio: {spread(found['p99, ours / aiobotocore'])}")
        found["rows"] = rows


if __name__ == "__main__":
    main()
