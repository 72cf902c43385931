"""
Mutated responses through all that reads them: `python tests/campaigns/fuzz.py --answers 1000000`.

Only documented errors may come out, nothing may be taken for a success that is none, and no input
may take long. The seed is printed, and given with `--seed` repeats the run.
"""

import argparse
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.memory import usage

from marketplace_metering_async.aws import wire
from marketplace_metering_async.error_kinds import classify, may_have_been_applied
from marketplace_metering_async.errors import InvalidResponseError

SENT = [record.to_wire() for record in usage(8)]
GOOD = {
    "Results": [
        {"UsageRecord": members, "Status": "Success", "MeteringRecordId": f"id-{n}"}
        for n, members in enumerate(SENT[:6])
    ],
    "UnprocessedRecords": SENT[6:],
}
ERROR = {"__type": "ns#ThrottlingException:http://x/", "message": "Rate exceeded"}
SCRAPS: list[Any] = [None, True, -1, 1e400, 2**70, "", "Success", "\ud800", [], {}, [[]], "é" * 50]
LONGEST = 0.5


def mutate_value(value: Any, random: Random) -> Any:
    """Change, drop, double or replace something somewhere in a JSON value."""
    if random.random() < 0.15:
        return random.choice(SCRAPS)
    if isinstance(value, dict) and value:
        name = random.choice(list(value))
        changed = dict(value)
        if random.random() < 0.2:
            del changed[name]
        elif random.random() < 0.2:
            changed[name.swapcase()] = changed.pop(name)
        else:
            changed[name] = mutate_value(value[name], random)
        return changed
    if isinstance(value, list) and value:
        changed_list = list(value)
        at = random.randrange(len(value))
        match random.randrange(4):
            case 0:
                del changed_list[at]
            case 1:
                changed_list.append(changed_list[at])
            case 2:
                random.shuffle(changed_list)
            case _:
                changed_list[at] = mutate_value(value[at], random)
        return changed_list
    return random.choice(SCRAPS)


def mutate_bytes(body: bytes, random: Random) -> bytes:
    """Flip, cut, insert or repeat bytes."""
    data = bytearray(body)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(data) + 1)
        match random.randrange(4):
            case 0:
                data[at : at + 1] = bytes([random.randrange(256)])
            case 1:
                del data[at : at + random.randint(1, 60)]
            case 2:
                data[at:at] = random.choice([b"{", b"[" * 2000, b"9" * 5000, b"\x00", b"NaN", b'"'])
            case _:
                data[at:at] = data[at : at + random.randint(1, 60)]
    return bytes(data)


def body_of(template: Any, random: Random) -> bytes:
    value = template
    for _ in range(random.randint(0, 3)):
        value = mutate_value(value, random)
    body = json.dumps(value).encode()
    return mutate_bytes(body, random) if random.random() < 0.5 else body


def one(random: Random) -> None:
    """Read one mutated answer as a success and one as an error."""
    body = body_of(GOOD, random)
    try:
        reply = wire.read_reply(SENT, body)
    except InvalidResponseError as garbled:
        settles = not may_have_been_applied(garbled)
        if settles:
            raise AssertionError("a garbled answer settled the doubt") from garbled
    else:
        assert len(reply.statuses) == len(reply.record_ids) == len(SENT)
        assert all(status is None or isinstance(status, str) for status in reply.statuses)
    headers = random.choice(
        [{}, {"x-amzn-ErrorType": random.choice(["", "a#B:c", "é", "x" * 999])}]
    )
    operation = random.choice(["BatchMeterUsage", "ResolveCustomer"])
    body = body_of(ERROR, random)
    error = wire.read_error(operation, random.randrange(100, 600), headers, body)
    classify(error)
    assert str(error)


def fuzz(answers: int, seed: int) -> float:
    """Read so many answers; return the longest time that one took."""
    random = Random(seed)
    longest = 0.0
    for _ in range(answers):
        started = time.perf_counter()
        one(random)
        longest = max(longest, time.perf_counter() - started)
    return longest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(2**32))
    chosen = parser.parse_args()
    started = datetime.now(UTC)
    sys.stdout.write(f"seed {chosen.seed}\n")
    longest = fuzz(chosen.answers, chosen.seed)
    took = (datetime.now(UTC) - started).total_seconds()
    sys.stdout.write(
        f"{chosen.answers} answers in {took:.0f} s, the longest {longest * 1e3:.1f} ms\n"
    )
    sys.exit(longest > LONGEST)


if __name__ == "__main__":
    main()
