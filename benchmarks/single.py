"""
What does one record alone cost? `python benchmarks/single.py [rounds]`

Records one after the other over TLS, each in a call of its own, without latency: milliseconds
from the call to the verdict.
"""

from lab.harness import Server, in_turn, ratio, results, rounds_asked, spread

KINDS = ("ours", "aiobotocore", "boto3")


def main() -> None:
    with results("single") as found, Server() as server:
        rows = in_turn(server, KINDS, "single", rounds=rounds_asked(), records=500)
        for kind in KINDS:
            mine = [row for row in rows if row["kind"] == kind]
            p50, p99 = spread([row["p50"] for row in mine]), spread([row["p99"] for row in mine])
            print(f"{kind}: median {p50} ms, p99 {p99} ms")
        found["p50, ours / aiobotocore"] = ratio(rows, "p50", "ours", "aiobotocore")
        print(f"ratio: {spread(found['p50, ours / aiobotocore'])}")
        found["rows"] = rows


if __name__ == "__main__":
    main()
