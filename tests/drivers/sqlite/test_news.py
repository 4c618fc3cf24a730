"""The file beside an SQLite database by which processes tell each other what has changed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatkeep.drivers.sqlite import news as sqlite_news
from chatkeep.drivers.sqlite.news import News
from tests.support.waiting import nothing_happens_for, until


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A database of somebody who shares it with a group."""
    made = tmp_path / "chat.db"
    made.touch()
    made.chmod(0o660)
    return str(made)


@pytest.fixture
def both(path: str) -> Iterator[tuple[News, News]]:
    """Two who share it."""
    one, two = News(path), News(path)
    yield one, two
    one.close()
    two.close()


async def test_what_is_told_is_heard_whatever_becomes_of_the_file(both: tuple[News, News], path: str) -> None:
    """Grown too long, removed, or replaced: what was told before is read to its end, and what is told later is heard."""
    one, two = both
    heard: list[str] = []
    two.listen(heard.extend)
    one.listen(lambda marks: None)
    one.tell(["a", "b"])
    await until(lambda: heard == ["a", "b"])
    one.tell(["c"])
    os.unlink(f"{path}-news")
    await until(lambda: heard[2:] == ["c"])
    await until(lambda: os.path.exists(f"{path}-news"))
    one.tell(["d"])
    await until(lambda: heard[3:] == ["d"])
    one.tell(["e"])
    with open(f"{path}-other", "w") as other:
        other.write("f\n")
    os.replace(f"{path}-other", f"{path}-news")
    await until(lambda: heard[4:] == ["e", "f"])
    await until(lambda: one._in_place() is not None)  # who begins to listen writes a line of its own
    for part in ("g\nh", "i\n"):  # (the second line is not whole at first)
        with open(f"{path}-news", "a") as other:
            other.write(part)
        await until(lambda: heard[6:7] == ["g"])
    await until(lambda: heard[7:] == ["hi"])


async def test_who_is_alone_writes_nothing_until_another_one_listens(both: tuple[News, News], path: str) -> None:
    """What was held back since the last look is told then, so that nothing is lost to who has only begun to listen."""
    one, two = both
    one.listen(lambda marks: None)

    assert one.hold(["before"])

    await until(lambda: not one._held)
    heard: list[str] = []
    two.listen(heard.extend)

    assert one.hold(["meanwhile"])
    assert not two.hold(["two is not alone"])

    await until(lambda: heard == ["meanwhile"])

    assert not one.hold(["later"])


async def test_the_file_does_not_grow_without_end(
    both: tuple[News, News], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one is begun, and what was told in both is heard."""
    monkeypatch.setattr(sqlite_news, "MOST", 100)
    one, two = both
    heard: list[str] = []
    two.listen(heard.extend)
    told, sizes = [f"mark {n}" for n in range(50)], []
    for mark in told:
        one.tell([mark])
        sizes.append(os.path.getsize(f"{path}-news"))
        await nothing_happens_for(0.02)
    await until(lambda: heard == told)

    assert max(sizes) < 110


async def test_the_file_is_for_whom_the_database_is_and_goes_with_the_last(both: tuple[News, News], path: str) -> None:
    """Nobody else may read it; nothing old is heard; without anybody who listens nothing is written."""
    one, two = both
    one.tell(["nobody"])

    assert not os.path.exists(f"{path}-news")

    heard: list[str] = []
    one.listen(lambda marks: None)
    one.tell(["old"])
    two.listen(heard.extend)

    assert 0o660 == os.stat(f"{path}-news").st_mode & 0o777

    one.close()
    assert os.path.exists(f"{path}-news")
    two.tell(["new"])
    await until(lambda: heard == ["new"])
    two.close()
    await nothing_happens_for(0.2)

    assert not os.path.exists(f"{path}-news")
