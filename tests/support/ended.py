"""Usage that has ended in a state, as the ledger's own verbs bring it there."""

from datetime import UTC, datetime
from typing import Any

from marketplace_metering_async import HourState
from marketplace_metering_async.ledger.model import ENDED, FrozenHour, Settlement
from marketplace_metering_async.ledger.stores.words import ClaimRules
from support.ledgers import ACCOUNT, House

LAST = datetime(2026, 11, 30, 23, 30, tzinfo=UTC)


async def claimed(house: House) -> list[FrozenHour]:
    now = int(house.clock.now().timestamp())
    store = house.ledger._store
    await store.seal_due(now, 100, "us-east-1")
    return await store.claim(
        now, ClaimRules(begun=now, limit=10, lease=60, region_name="us-east-1")
    )


async def settle(house: House, claim: FrozenHour, state: HourState, **more: Any) -> Any:
    now = int(house.clock.now().timestamp())
    one = Settlement(
        hour_id=claim.hour_id,
        fence=claim.fence,
        state=state,
        status=state.value,
        quantity=claim.quantity,
        of=claim.key.summed_under(claim.license_product),
        **more,
    )
    return await house.ledger._store.settle([one], now)


async def end(house: House, state: HourState, **more: Any) -> None:
    """Let three units end in *state*."""
    if state is HourState.MONTH_OVER:
        house.clock.set(LAST)
        await house.use(0)
        house.clock.step(hours=6)
        await house.relay()
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
        await settle(house, claim, state, **more)
    assert {state: 3} == (await house.balance()).ended


async def names(house: House) -> list[str]:
    return [entry.name async for entry in house.ledger.history() if entry.state in ENDED]
