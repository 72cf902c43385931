"""Usage that has ended in a state, as the ledger's own verbs bring it there."""

from datetime import UTC, datetime
from typing import Any

from marketplace_metering_async import HourState
from marketplace_metering_async.ledger.model import ENDED, FrozenHour, Settlement
from marketplace_metering_async.ledger.stores.words import ClaimRules
from support.ledgers import ACCOUNT, House

LAST = datetime(2026, 11, 30, 23, 30, tzinfo=UTC)


def claim_rules(now: int, lease: float = 60.0, limit: int = 10) -> ClaimRules:
    """Return what a relay to the service in memory asks for."""
    return ClaimRules(
        begun=now, limit=limit, lease=lease, region_name="us-east-1", host="127.0.0.1"
    )


async def claimed(house: House, lease: float = 60.0, limit: int = 10) -> list[FrozenHour]:
    """Seal what is due, and claim as a relay does."""
    now = int(house.clock.now().timestamp())
    store = house.ledger._store
    await store.bind("us-east-1", "127.0.0.1")
    await store.seal_due(now, max(100, limit), "us-east-1")
    rules = claim_rules(now, lease, limit)
    return await store.claim(now, rules)


def fate(claim: FrozenHour, state: HourState, **members: Any) -> Settlement:
    """Return a verdict on what was claimed."""
    return Settlement(claim=claim, state=state, status=state.value, **members)


async def settle(house: House, *fates: Settlement) -> list[tuple[HourState, HourState]]:
    """Write verdicts down; return the state before each that was heard, and after it."""
    heard = await house.ledger._store.settle(fates, int(house.clock.now().timestamp()))
    return [(one.before, one.state) for one in heard]


async def end(house: House, state: HourState, **more: Any) -> None:
    """Let three units end in *state*."""
    if state is HourState.MONTH_OVER:
        house.clock.set(LAST)
        await house.use(0)
        await house.relay_after(hours=6)
        await house.use(3, at=LAST)
    elif state is HourState.SUBSCRIPTION_OVER:
        who: dict[str, Any] = {"product_code": "product", "customer_aws_account_id": ACCOUNT}
        await house.ledger.close_customer(**who)
        house.clock.step(seconds=1)
        await house.use(3)
        await house.ledger.reopen_customer(**who)
    elif state in (HourState.NOT_METERED, HourState.WRITTEN_OFF):
        await end(house, HourState.CONFLICT)
        await house.ledger.resolve(await names(house), state.value, note="a test")  # type: ignore[arg-type]
    else:
        await house.use(3)
        house.clock.step(hours=1)
        (claim,) = await claimed(house)
        await settle(house, fate(claim, state, **more))
    assert {state: 3} == (await house.balance()).ended


async def names(house: House) -> list[str]:
    return [entry.name async for entry in house.ledger.history() if entry.state in ENDED]
