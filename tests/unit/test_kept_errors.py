"""Errors as verdicts: kept by somebody, they keep nothing else alive."""

import gc
import weakref
from collections import UserDict
from typing import Any

import pytest
from support.memory import MemoryService, client_of, usage
from support.virtual import run_virtual

from marketplace_metering_async import RetryPolicy
from marketplace_metering_async.sandbox import FaultKind, Refusal


@pytest.mark.parametrize("door", ["batch", "stream"])
@pytest.mark.parametrize("wrong", ["refused here", "refused by the service", "lost"])
def test_an_error_that_is_kept_keeps_nothing_else_alive(door: str, wrong: str) -> None:
    """
    Such as all that was given: a traceback would, and a million rejected records had 6 GB of them.
    """
    fault = FaultKind.RESET_BEFORE if wrong == "lost" else Refusal("InvalidUsageDimensionException")
    service = MemoryService(lambda number, body: None if wrong == "refused here" else fault)

    async def send() -> tuple[BaseException | None, weakref.ref[Any]]:
        given: list[Any] = [record.to_boto() for record in usage(3)]
        first = given[0] = UserDict(given[0] | ({"Odd": 1} if wrong == "refused here" else {}))
        async with client_of(service, retry=RetryPolicy(timeout=1)) as client:
            if door == "batch":
                results = list(await client.batch_meter_usage(given, product_code="product"))
            else:
                found = client.iter_batch_meter_usage(given, product_code="product")
                results = [result async for result in found]
        return next(r.error for r in results if r.record is first), weakref.ref(first)

    error, given = run_virtual(send())
    gc.collect()

    assert error is not None
    assert given() is None
