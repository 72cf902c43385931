"""The sandbox's memory in a file: what is kept between runs, and what cannot be used."""

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from marketplace_metering_async import (
    MarketplaceMeteringClient,
    RecordStatus,
    UsageRecord,
    verify_registration,
)
from marketplace_metering_async.sandbox import (
    Principal,
    Rules,
    Sandbox,
    SandboxClock,
    StateFileError,
)
from marketplace_metering_async.sandbox.as_json import as_json
from marketplace_metering_async.sandbox.service.memory import copy_of

NOW = datetime.now(UTC).replace(microsecond=0)
BUYER = "111122223333"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sandbox.state"


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def size_of(path: Path) -> int:
    return path.stat().st_size


def tear(path: Path) -> None:
    """Leave the file as a process does that is killed while it writes."""
    with path.open("a", encoding="utf-8") as file:
        file.write('{"records": [[["us-east-1"')


def usage(**members: Any) -> UsageRecord:
    common: dict[str, Any] = {"quantity": 5, "dimension": "requests", "product_code": "p"}
    hour = NOW - timedelta(hours=1)
    common |= {"timestamp": hour, "customer_aws_account_id": BUYER}
    return UsageRecord(**(common | members))


async def test_all_is_there_again(path: Path) -> None:
    """
    Records, products, agreements, tokens, ClientTokens, signing keys and the clock.
    """
    allocations = [
        {
            "AllocatedUsageQuantity": 5,
            "Tags": [{"Key": "b", "Value": "x"}, {"Key": "a", "Value": "y"}],
        }
    ]
    workload: dict[str, Any] = {
        "product_code": "p",
        "timestamp": NOW,
        "usage_dimension": "requests",
        "usage_quantity": 3,
        "client_token": "t",
    }
    async with Sandbox(state=path, clock=SandboxClock(NOW, speed=0)) as place:
        place.declare_product("p", dimensions=["requests"], registration_url="http://localhost/")
        agreement = place.subscribe("p", BUYER, begins=NOW - timedelta(days=1))
        token = place.issue_token("p", customer_aws_account_id=BUYER)
        key = place.public_key()
        place.suspend("9")
        async with MarketplaceMeteringClient(**place.client_arguments) as client:
            record = usage().to_boto() | {"UsageAllocations": allocations}
            await client.batch_meter_usage([record], product_code="p")
            metered = await client.meter_usage(**workload)
        before = place.book.records

    async with (
        Sandbox(state=path) as place,
        MarketplaceMeteringClient(**place.client_arguments) as client,
    ):
        (again,) = await client.batch_meter_usage([usage(quantity=7)])
        same = await client.meter_usage(**workload)
        who = await client.resolve_customer(token)
        signed = await client.register_usage(product_code="p", public_key_version=1, nonce="n")

    assert before == place.book.records
    assert RecordStatus.DUPLICATE_RECORD is again.status
    assert metered.metering_record_id == same.metering_record_id
    assert BUYER == who.customer_aws_account_id
    verify_registration(signed.signature, key, product_code="p", public_key_version=1, nonce="n")
    assert (NOW, 0) == (place.clock.now(), place.clock.speed)
    assert {agreement.agreement_id: agreement} == place.book.catalogue.agreements
    assert {"9"} == place.book.catalogue.suspended
    assert "http://localhost/" == place.book.products["p"].registration_url


def growing() -> dict[str, Callable[[Sandbox, int], object]]:
    """Return what makes a sandbox remember more, each time with a number of its own."""

    def meter_usage(place: Sandbox, number: int) -> object:
        usage = {"UsageDimension": "requests", "UsageQuantity": 1, "Timestamp": NOW.timestamp()}
        request = {"ProductCode": "p", "ClientToken": f"t{number:04d}", **usage}
        return place.book.meter_usage(request, now=place.clock.now(), principal=Principal())

    def batch(place: Sandbox, number: int) -> object:
        record = {"Timestamp": NOW.timestamp(), "Dimension": "requests", "Quantity": 1}
        records = [record | {"CustomerAWSAccountId": f"{number:04d}"}]
        request = {"ProductCode": "p", "UsageRecords": records}
        return place.book.batch_meter_usage(request, now=place.clock.now())

    def not_subscribed(place: Sandbox, number: int) -> object:
        place.set_subscribed("p", f"{number:04d}", subscribed=False)
        return batch(place, number)

    def resolve(place: Sandbox, number: int) -> object:
        token = place.issue_token("p", customer_aws_account_id=f"{number:04d}")
        request = {"RegistrationToken": token}
        return place.book.resolve_customer(request, now=place.clock.now())

    def register(place: Sandbox, number: int) -> object:
        request = {"ProductCode": "p", "PublicKeyVersion": 1}
        principal = Principal(access_key_id=f"AK{number:04d}")
        return place.book.register_usage(request, now=place.clock.now(), principal=principal)

    return {
        "meter_usage": meter_usage,
        "batch": batch,
        "resolve": resolve,
        "register": register,
        "subscribe": lambda place, number: place.subscribe("p", f"{number:04d}"),
        "cancel": lambda place, number: place.cancel(
            place.subscribe("p", f"{number:04d}").agreement_id
        ),
        "buyers": lambda place, number: place.set_subscribed("p", f"{number:04d}", subscribed=True),
        "suspend": lambda place, number: place.suspend(f"{number:04d}"),
        "restore": lambda place, number: (place.restore if number & 4 else place.suspend)("1"),
        "not subscribed": not_subscribed,
        "products": lambda place, number: place.declare_product(f"{number:04d}"),
        "rotate": lambda place, number: place.rotate_key("p"),
        "clock": lambda place, number: place.advance(seconds=1),
    }


@pytest.mark.parametrize("kind", growing())
async def test_the_file_grows_with_what_is_new(path: Path, kind: str) -> None:
    """
    The hundredth save of a busy sandbox writes as much as the tenth; and all is there again. S4
    """
    rules = Rules(not_subscribed_takes_key=True)
    more, sizes = growing()[kind], []
    clock = SandboxClock(NOW, speed=0)
    async with Sandbox(state=path, rules=rules, clock=clock, calls_per_second=None) as place:
        place.declare_product("p")
        assert place._state is not None
        for number in range(400):
            more(place, number)
            if number % 4 == 3:
                place._state.save(place)
                sizes.append(size_of(path))
        place._state.save(place)
        assert size_of(path) == sizes[-1]  # nothing was new

    early, late = sizes[19] - sizes[9], sizes[99] - sizes[89]
    assert late <= 1.1 * early + 50, (early, late)
    again = Sandbox(state=path, rules=rules)
    assert as_json(copy_of(place.book)) == as_json(copy_of(again.book))
    assert place.clock.now() == again.clock.now()


async def test_products_that_are_taken_away_stay_away(path: Path) -> None:
    """
    By whatever means; and buyers that a new declaration leaves out.
    """
    async with Sandbox(state=path) as place:
        place.declare_product("p", customers=["1", "2"])
        place.declare_product("q")
        assert place._state is not None
        place._state.save(place)
        del place.book.products["q"]
        place._state.save(place)
        place.declare_product("p", customers=["2"])

    found = Sandbox(state=path).book.products
    assert {"p": {"2": True}} == {code: one.customers for code, one in found.items()}


async def test_what_was_forgotten_stays_forgotten(path: Path) -> None:
    """
    A reset writes the file anew.
    """
    async with Sandbox(state=path, clock=SandboxClock(NOW, speed=0)) as place:
        place.declare_product("p")
        async with MarketplaceMeteringClient(**place.client_arguments) as client:
            await client.batch_meter_usage([usage()])
        assert place._state is not None
        place._state.save(place)
        place.reset()

    assert BUYER not in text_of(path)
    assert ["p"] == list(Sandbox(state=path).book.products)


async def test_a_key_that_is_remembered_for_a_while_is_billed_twice_for_good(path: Path) -> None:
    """
    Both records come back, and the later one holds the key.
    """
    rules = Rules(key_memory=timedelta(hours=1))
    async with (
        Sandbox(state=path, rules=rules, clock=SandboxClock(NOW, speed=0)) as place,
        MarketplaceMeteringClient(**place.client_arguments) as client,
    ):
        await client.batch_meter_usage([usage()])
        place.advance(hours=2)
        await client.batch_meter_usage([usage()])

    assert [5, 5] == [record.quantity for record in Sandbox(state=path).book.records]


async def test_one_sandbox_at_a_time(path: Path) -> None:
    """
    The second one is told so before it opens a port; after the first has closed it may.
    """
    async with Sandbox(state=path):
        with pytest.raises(StateFileError, match="another sandbox"):
            async with Sandbox(state=path):
                pass
    async with Sandbox(state=path):
        pass


async def test_only_the_owner_reads_the_keys(path: Path) -> None:
    """
    Whatever the umask lets through.
    """
    async with Sandbox(state=path):
        pass

    assert 0o600 == mode_of(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}\n",
        "no json",
        '{"sandbox_state": 1}\n',
        '{"sandbox_state": 2}\n{"records": []}\n',
        '{"sandbox_state": 2}\n{"memory": {"records": [5]}}\n',
        "[]\n",
    ],
)
def test_what_is_no_state_file_is_left_alone(path: Path, text: str) -> None:
    """
    The file may be something else, and dear to somebody.
    """
    path.write_text(text)

    with pytest.raises(StateFileError, match=r"sandbox\.state"):
        Sandbox(state=path)
    assert text == path.read_text()


async def test_a_torn_last_line_is_left_out(path: Path) -> None:
    """
    It was never answered for.
    """
    async with Sandbox(state=path) as place:
        place.declare_product("p")
    tear(path)

    assert ["p"] == list(Sandbox(state=path).book.products)


@contextmanager
def room(number: int) -> Iterator[None]:
    """Let no file grow beyond *number* bytes, as on a disk that is full."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (number, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_full_disk_tears_nothing(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """
    What could not be kept is kept once there is room, and until then what was there before.
    """
    async with Sandbox(state=path) as sandbox:
        sandbox.declare_product("p")
        while not Sandbox(state=path).book.products:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.05)
        with room(size_of(path) + 10_000):
            for number in range(100):
                sandbox.issue_token("p", customer_aws_account_id=f"{number}")
            while "state file could not be written" not in caplog.text:  # noqa: ASYNC110 - as well
                await asyncio.sleep(0.05)
            assert ["p"] == list(Sandbox(state=path).book.products)
            assert [path] == list(path.parent.iterdir())
        sandbox.issue_token("p", customer_aws_account_id="the last")

    assert 101 == len(list(Sandbox(state=path).book.tokens))
    assert "Traceback" not in caplog.text


async def test_what_cannot_be_kept_at_the_end_is_said(path: Path) -> None:
    """
    Also where a look before had failed already.
    """
    with room(10_000), pytest.raises(OSError, match=f"{path} cannot be written: "):
        async with Sandbox(state=path) as sandbox:
            for number in range(100):
                sandbox.issue_token("p", customer_aws_account_id=f"{number}")
                await asyncio.sleep(0.02)


async def test_a_place_that_cannot_be_written_is_said_at_once(tmp_path: Path) -> None:
    """
    And not after an hour of metering.
    """
    with pytest.raises(StateFileError, match="cannot be written"):
        async with Sandbox(state=tmp_path / "none" / "sandbox.state"):
            pass
    (tmp_path / "sandbox.state.new").mkdir()  # where all is written first
    with pytest.raises(StateFileError, match="cannot be written"):
        async with Sandbox(state=tmp_path / "sandbox.state"):
            pass


@pytest.mark.skipif(sys.platform == "win32", reason="Windows kills without signals")
def test_a_killed_sandbox_remembers(path: Path) -> None:
    """
    What it had answered half a second before is in the file.
    """
    command = [
        *(sys.executable, "-m", "marketplace_metering_async", "sandbox"),
        *("--port", "0", "--state", str(path)),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:  # noqa: S603
        assert running.stdout is not None
        url = running.stdout.readline().partition("=")[2].strip()
        order = json.dumps({"product_code": "p"}).encode()
        _post(f"{url}/_sandbox/products", order)
        _wait_for(lambda: '"p"' in path.read_text())
        os.kill(running.pid, signal.SIGKILL)

    assert ["p"] == list(Sandbox(state=path).book.products)
    path.write_text("something else")
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    assert 2 == done.returncode
    assert "--state" in done.stderr


def _post(url: str, body: bytes) -> None:
    from urllib.request import Request, urlopen  # noqa: PLC0415

    headers = {"Content-Type": "application/json"}
    with urlopen(Request(url, body, headers), timeout=10) as answer:  # noqa: S310
        assert 200 == answer.status


def _wait_for(what: Any) -> None:
    end = time.monotonic() + 10
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)
