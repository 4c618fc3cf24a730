"""What a store says of a move that it is part of, to whoever opens it."""

from __future__ import annotations

import pytest

from chatkeep.drivers.base import Fence, Finding, Key, Row, Write
from chatkeep.drivers.memory import MemoryDriver
from chatkeep.errors import Corrupt, Moved, Replaced, Unavailable
from chatkeep.storage.relocation import (
    FILLING,
    MOVED,
    NOTE,
    Note,
    explain,
    judge_epoch,
    moved,
    origin_of,
    read_note,
    refuse_elsewhere,
    write_note,
)


@pytest.fixture
async def driver() -> MemoryDriver:
    """A store that is open."""
    made = MemoryDriver()
    await made.open()
    return made


def test_a_move_is_named_after_the_epoch_that_the_old_store_had() -> None:
    assert ["e1"] * 3 == [origin_of(epoch) for epoch in ("e1", MOVED + "e1", FILLING + "e1")]


def test_who_uses_a_store_that_was_moved_is_told_where_to_go() -> None:
    expected = (
        "The store was moved to redis://db/0 on 2026-11-29 14:30:00Z; nothing was done here. Give chatkeep the new address (in the code, "
        "as CHATKEEP_STORE or as STORE) and start it again."
    )

    assert expected == str(moved(Note(of="e1", to="redis://db/0", at=1_795_962_600.0)))
    assert str(moved(Note(of="e1"))).startswith("The store was moved to another place; nothing was done here.")


@pytest.mark.parametrize(
    ("level", "finding"),
    [
        ("fail", Finding("ok", "epoch", MOVED + "e1")),
        ("fail", Finding("ok", "epoch", FILLING + "e1")),
        ("ok", Finding("ok", "epoch", "e1")),
        ("ok", Finding("ok", "format", MOVED + "e1")),
    ],
)
def test_a_store_where_bots_are_refused_is_not_fit(level: str, finding: Finding) -> None:
    found = judge_epoch(finding)

    assert level == found.level
    assert (found == finding) == (level == "ok")
    assert level == "ok" or ("--finish" in found.said) == finding.said.startswith(FILLING)


async def test_a_note_takes_the_place_of_the_one_before(driver: MemoryDriver) -> None:
    assert None is await read_note(driver)
    for to in ("a", "b"):
        await write_note(driver, Note(of="e1", to=to), at=100.0)

    assert Note(of="e1", to="b") == await read_note(driver)


async def test_a_note_that_cannot_be_read_is_no_missing_one(driver: MemoryDriver) -> None:
    await driver.write(Write(Row(key=NOTE, revision="r", incarnation="r", body=b"[]"), replaces=None))

    with pytest.raises(Corrupt, match="the note of a move cannot be read"):
        await read_note(driver)


async def test_a_store_is_refused_while_it_is_filled_and_once_it_was_left(driver: MemoryDriver) -> None:
    await refuse_elsewhere(driver)
    await driver.fence(Fence(FILLING + "e1"))
    with pytest.raises(Unavailable, match="being filled by `chatkeep move`"):
        await refuse_elsewhere(driver)
    await driver.fence(Fence(MOVED + "e1"))
    with pytest.raises(Moved, match="moved to another place"):
        await refuse_elsewhere(driver)
    await write_note(driver, Note(of="e1", to="redis://db/0"), at=100.0)
    with pytest.raises(Moved, match="moved to redis://db/0"):
        await refuse_elsewhere(driver)


class Left(MemoryDriver):
    """A store that was left."""

    async def open(self) -> None:
        await super().open()
        await self.fence(Fence(MOVED + "e1"))


async def test_another_epoch_is_explained_where_a_move_is_why() -> None:
    """Whoever looks leaves nothing open; and what was emptied stays what it was."""
    refused, made = Replaced("another store"), list[MemoryDriver]()

    def another(kind: type[MemoryDriver]) -> MemoryDriver:
        made.append(kind())
        return made[-1]

    assert refused is await explain(refused, None)
    assert refused is await explain(refused, lambda: another(MemoryDriver))
    assert isinstance(await explain(refused, lambda: another(Left)), Moved)
    assert [False, False] == [driver.is_open for driver in made]
    assert Key(NOTE.tenant, "move") == NOTE
