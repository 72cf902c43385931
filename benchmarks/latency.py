"""
How near does it come to what the round trip allows? `python benchmarks/latency.py [rounds]`

With 20 ms of latency and n calls at once nothing can deliver more than 25 n / 0.02 records a
second. Told is the share of that which 1 s of records reaches, for 32 and 64 calls at once; that
of `load`, which does nothing but send and receive, is what the server and the machine allow.
"""

from lab.harness import Server, in_turn, results, rounds_asked, spread

KINDS = ("ours", "aiobotocore", "aiohttp", "load")
LATENCY = 20.0


def main() -> None:
    with results("latency") as found, Server(latency_ms=LATENCY) as server:
        found["rows"], found["shares"] = [], {}
        for concurrency in (32, 64):
            bound = 25 * concurrency / (LATENCY / 1000)
            records = int(bound)
            rows = in_turn(
                server,
                KINDS,
                "throughput",
                rounds=rounds_asked(3),
                concurrency=concurrency,
                records=records,
            )
            for kind in KINDS:
                mine = [row for row in rows if row["kind"] == kind]
                shares = [round(row["records_per_second"] / bound, 3) for row in mine]
                found["shares"][f"{kind}, {concurrency} at once"] = shares
                busy = spread([row["server_busy"] for row in mine])
                print(f"{kind}, {concurrency} at once: {spread(shares)}; server busy {busy}")
            found["rows"] += rows


if __name__ == "__main__":
    main()
