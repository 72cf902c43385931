"""
How much memory do many records take? `python benchmarks/memory.py [rounds]` (Linux)

Records come from a generator. Streamed: by how much more the process grows over a million than
over ten thousand. Kept: bytes a record of `batch_meter_usage` with all its results, beside what
aiobotocore's answers take when they are kept, at 100,000 records.
"""

from lab.harness import Server, in_turn, ratio, results, rounds_asked, spread

MANY = 100_000


def main() -> None:
    with results("memory") as found, Server() as server:
        few = server.run("ours-iter", "memory", records=10_000)
        million = server.run("ours-iter", "memory", records=1_000_000)
        found["streamed"] = (million["growth"] - few["growth"]) / 2**20
        print(f"streaming a million takes {found['streamed']:.1f} MiB more than ten thousand")
        rows = in_turn(
            server, ("ours", "aiobotocore"), "memory", rounds=rounds_asked(3), records=MANY
        )
        for kind in ("ours", "aiobotocore"):
            kept = spread([row["growth"] / MANY for row in rows if row["kind"] == kind])
            print(f"{kind}: {kept} bytes a record kept")
        found["kept, ours / aiobotocore"] = ratio(rows, "growth", "ours", "aiobotocore")
        print(f"ratio: {spread(found['kept, ours / aiobotocore'])}")
        found["rows"] = [few, million, *rows]


if __name__ == "__main__":
    main()
