"""
How long until the first call is done? `python benchmarks/start.py [rounds]`

A process of its own each time: import, make a client, meter one record over TLS. What else is
installed counts: aiohttp with all its extras takes longer to import. A first run of each is not
counted; it writes the bytecode that installing a package writes.
"""

from lab.harness import Server, in_turn, ratio, results, rounds_asked, spread

KINDS = ("ours", "aiobotocore", "boto3")


def main() -> None:
    with results("start") as found, Server() as server:
        in_turn(server, KINDS, "start", rounds=1)
        rows = in_turn(server, KINDS, "start", rounds=rounds_asked(7))
        for kind in KINDS:
            took = spread([row["seconds"] for row in rows if row["kind"] == kind])
            print(f"{kind}: {took} s")
        found["ours / aiobotocore"] = ratio(rows, "seconds", "ours", "aiobotocore")
        print(f"ratio: {spread(found['ours / aiobotocore'])}")
        found["rows"] = rows


if __name__ == "__main__":
    main()
