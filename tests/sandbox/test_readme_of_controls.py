"""The sandbox's README: every control stands in it, and every line of it works."""

import inspect
import json
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from marketplace_metering_async import sandbox
from marketplace_metering_async.sandbox import Sandbox
from marketplace_metering_async.sandbox.http.controls import ROOT, Controls

TEXT = (Path(sandbox.__file__).parent / "README.md").read_text(encoding="utf-8")
ORDERS = re.findall(r"^\| `POST ([a-z-]+)` \| `(\{.*?\})` \| .+ \|$", TEXT, re.MULTILINE)
ASKED = re.findall(r"^\| `GET ([a-z-]+)(\?[^`]+)?` \| .+ \|$", TEXT, re.MULTILINE)


async def test_every_line_works_as_it_stands() -> None:
    """
    One after the other, posted as a program in another language would.
    """
    agreements = iter(["AGREEMENT", "ANOTHER"])
    known: dict[str, str] = {}
    async with Sandbox() as place, aiohttp.ClientSession(f"{place.url}{ROOT}/") as web:
        for path, text in ORDERS:
            order = json.loads(text)
            if "agreement_id" in order:
                order["agreement_id"] = known[order["agreement_id"]]
            async with web.post(path, json=order) as answer:
                assert 200 == answer.status, (path, text, await answer.text())
                reply = await answer.json()
            if path == "subscribe":
                known[next(agreements)] = reply["agreement_id"]
            for name, query in ASKED:
                if name == "public-key":
                    continue
                async with web.get(f"{name}{query}") as told:
                    assert 200 == told.status, (name, query)
        async with web.get("public-key?version=1") as told:
            assert "BEGIN PUBLIC KEY" in await told.text()
        for name in ("state", "book", "calls", "marketplace", "memory"):
            async with web.get(name) as told:
                assert "application/json" == told.content_type


def test_every_control_and_member_stands_there() -> None:
    """
    In both directions: the README has none that the sandbox has not.
    """
    place = Controls(Sandbox())
    assert {path.removeprefix(f"{ROOT}/") for path in place.ordered()} == {p for p, _ in ORDERS}
    assert {path.removeprefix(f"{ROOT}/") for path in place.asked()} == {p for p, _ in ASKED}


MEMBERS: list[tuple[str, Any]] = [
    ("clock", Controls.set_clock),
    ("faults", Controls.set_faults),
    ("quota", Sandbox.set_quota),
    ("products", Sandbox.declare_product),
    ("buyers", Controls.set_buyer),
    ("subscribe", Sandbox.subscribe),
    ("set-up-account", Controls.set_up_account),
    ("tokens", Sandbox.issue_token),
    ("reset", Sandbox.reset),
]


@pytest.mark.parametrize(("path", "control"), MEMBERS)
def test_every_member_stands_there(path: str, control: Any) -> None:
    """
    In an example of its control, or beside it.
    """
    members = {one for one in inspect.signature(control).parameters if one != "self"}
    lines = [line for line in TEXT.splitlines() if line.startswith(f"| `POST {path}` ")]

    assert set() == {name for name in members if not any(name in line for line in lines)}
