"""A ledger that is put back to a backup now and then: nothing is billed twice, or miscalled."""

import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from laws.test_ledger_machine import LedgerMachine
from support.examples import examples


class CopiesMachine(LedgerMachine):
    """What may happen to any ledger, and backups, which a person adopts when they are back."""

    def __init__(self) -> None:
        super().__init__()
        self._known: set[str] | None = None  # events in the backup

    @property
    def _files(self) -> tuple[Path, Path]:
        folder = Path(self._folder.name)
        return folder / "usage.db", folder / "usage.backup"

    @rule(seals=st.booleans())
    def back_up(self, *, seals: bool) -> None:
        """Perhaps while a relay has sealed what is due, and has not claimed it yet."""
        if seals:
            self.house.clock.step(minutes=90)
            now = int(self.house.clock.now().timestamp())
            self.run(self.house.ledger._store.seal_due(now, 1_000, "us-east-1"))
        file, backup = self._files
        _copy(file, backup)
        self._known = set(self.given)

    @precondition(lambda self: self._known is not None)
    @rule()
    def put_back(self) -> None:
        """The producers repeat all since then, and a relay goes on."""
        file, backup = self._files
        self.run(self.house.ledger.aclose())
        _copy(backup, file)
        self.house.ledger = self.house.another()
        self.run(self.house.ledger.__aenter__())
        latest = max((at for _, _, at in self.given.values()), default=self.house.clock.now())
        ahead = latest - self.house.clock.now()  # before the clock went back
        self.house.clock.step(seconds=max(timedelta(), ahead).total_seconds())
        for event_id in self.given.keys() - (self._known or set()):
            customer, quantity, at = self.given[event_id]
            self.run(
                self.house.use(quantity, customer_aws_account_id=customer, at=at, event_id=event_id)
            )
        self.relay([])

    @rule()
    def adopt(self) -> None:
        self.run(self.house.ledger.adopt_copy())

    async def _find_out(self) -> None:
        """Nobody does: a person would compare quantities, too."""


def _copy(one: Path, other: Path) -> None:
    with closing(sqlite3.connect(one)) as of, closing(sqlite3.connect(other)) as into:
        of.backup(into)


CopiesMachine.TestCase.settings = settings(
    max_examples=examples(10), stateful_step_count=30, deadline=None
)
TestCopiesMachine = CopiesMachine.TestCase
