"""One state file and two sandboxes: what one has written, the other does not overwrite."""

import sys
from pathlib import Path
from typing import Any

import pytest

from marketplace_metering_async.sandbox import Sandbox, StateFileError
from marketplace_metering_async.sandbox.state import StateFile
from marketplace_metering_async.sandbox.world import World


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sandbox.state"


def products_in(path: Path) -> list[str]:
    return sorted(Sandbox(state=path).book.products)


async def test_who_was_made_before_another_one_wrote_is_refused(path: Path) -> None:
    """
    As where a new process starts while the old one still ends: it knows less than the file does.
    """
    async with Sandbox(state=path) as first:
        first.declare_product("one")
        second = Sandbox(state=path)
        first.declare_product("two")

    with pytest.raises(StateFileError, match="another sandbox has written to it"):
        async with second:
            pass
    assert ["one", "two"] == products_in(path)


async def test_a_sandbox_may_be_entered_again_unless_another_one_was_between(path: Path) -> None:
    """
    Its own last words are no news to it.
    """
    first = Sandbox(state=path)
    for name in ("one", "two"):
        async with first:
            first.declare_product(name)
    async with Sandbox(state=path) as second:
        second.declare_product("three")

    with pytest.raises(StateFileError, match="another sandbox has written to it"):
        async with first:
            pass
    assert ["one", "three", "two"] == products_in(path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")
@pytest.mark.parametrize("is_there", [False, True])
def test_of_two_that_begin_at_once_one_is_refused(
    path: Path,
    is_there: bool,  # noqa: FBT001 - a parameter of the test
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    Each has seen that nobody is there, and only one may be there then.
    """
    if is_there:
        before = StateFile(path)
        before.open(World())
        before.close()
    files = [StateFile(path), StateFile(path)]
    for file in files:
        file.restore(World())
    write_all = StateFile._write_all

    def write_while_another_begins(self: StateFile, *args: Any) -> None:
        monkeypatch.setattr(StateFile, "_write_all", write_all)
        with pytest.raises(StateFileError, match="another sandbox"):
            files[1].open(World())
        write_all(self, *args)

    monkeypatch.setattr(StateFile, "_write_all", write_while_another_begins)
    world = World()
    world.declare_product("kept")
    files[0].open(world)
    files[0].close()

    assert ["kept"] == products_in(path)
    assert [path] == list(path.parent.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows lets few make links")
async def test_a_link_to_a_state_file_stays_one(tmp_path: Path) -> None:
    """
    The file itself may be on a volume that outlives the machine.
    """
    volume = tmp_path / "volume"
    volume.mkdir()
    (tmp_path / "link").symlink_to(volume / "sandbox.state")
    async with Sandbox(state=tmp_path / "link") as place:
        place.declare_product("p")

    assert (tmp_path / "link").is_symlink()
    assert ["p"] == products_in(volume / "sandbox.state")
    assert ["sandbox.state"] == [one.name for one in volume.iterdir()]
