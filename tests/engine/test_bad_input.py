"""Bad input is refused by name before anything is touched, and the next message is fine; damage stays in its conversation."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import pytest

from chatkeep import Corrupt, HandlerFailed, Turn, UsageError
from chatkeep.drivers import Key

from ..support.counting import count, texts
from ..support.waiting import until


def very_deep() -> list[Any]:
    """Lists in lists. (Made where it is wanted: the garbage collector walks through whatever a module holds.)"""
    found: Any = "bottom"
    for _ in range(200_000):
        found = [found]
    return [{"x": found}]


BAD: dict[str, tuple[str, Any, str | None]] = {
    "2 MB": ("ada", "x" * 2_000_000, "m"),
    "NaN": ("ada", [{"x": float("nan")}], "m"),
    "lone surrogate": ("ada", "\ud800", "m"),
    "NUL": ("ada", "a\0b", "m"),
    "200,000 deep": ("ada", very_deep, "m"),
    "300 digits": ("ada", [{"x": 10**300}], "m"),
    "no text": ("ada", 42, "m"),
    "empty message id": ("ada", "hi", ""),
    "NUL in message id": ("ada", "hi", "m\0"),
    "empty conversation id": ("", "hi", "m"),
    "surrogate in conversation id": ("a\ud800", "hi", "m"),
    "conversation id of 513 bytes": ("x" * 513, "hi", "m"),
}


@pytest.mark.parametrize("url", ["memory"], indirect=True)  # (it is refused before a store is asked)
@pytest.mark.parametrize("way", ["receive", "accept"])
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("what", BAD)
async def test_bad_input_is_refused_and_nothing_is_touched(opened: Any, way: str, warm: bool, what: str) -> None:
    """By both ways in, on a new conversation and on one that is in the cache."""
    name, content, id = BAD[what]
    content = content() if callable(content) else content
    keep = await opened(count)
    for _ in range(4 * warm):
        await keep.receive("ada", "hi")
    before = await texts(keep, "ada")
    with pytest.raises(UsageError, match="othing was touched") as refused:
        await getattr(keep, way)(name, content, id=id)

    assert (name or "empty")[:5].encode("ascii", "backslashreplace").decode()[:1] in str(refused.value)
    assert before == await texts(keep, "ada")
    assert f"{len(before) // 2 + 1}: fine" == (await keep.receive("ada", "fine", id="m")).replies[0].text


@pytest.mark.parametrize(
    "name", ["a/b", "a:b", "{a}", "100%", "😀", "a b\tc", "../../etc/passwd", "%2F", "'; drop table entry; --"]
)
async def test_any_text_names_a_conversation_through_and_through(opened: Any, name: str) -> None:
    """Written, listed, read, erased, and never mixed up with its neighbours."""
    keep = await opened(count)
    for one in (name, name + "x", "x" + name):
        await keep.receive(one, one, id=one)

    assert {name, name + "x", "x" + name} == {c.id async for c in keep.conversations()}
    assert [name, f"1: {name}"] == await texts(keep, name)
    await keep.erase(name)
    assert [] == await texts(keep, name)
    assert 2 == len(await texts(keep, name + "x"))


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "damage",
    [
        "update conversation set body = substr(body, 1, length(body) / 2) where id = 'ada'",
        "update conversation set body = x'01' where id = 'ada'",
        "update conversation set body = x'' where id = 'ada'",
        "update conversation set body = cast('{}' as blob) where id = 'ada'",
        "update entry set body = substr(body, 1, length(body) - 3) where number = 4 and conversation = 1",
        "update entry set body = x'' where number = 4 and conversation = 1",
        "update conversation set body = (select body from conversation where id = 'bob') where id = 'ada'",
    ],
)
async def test_damage_in_the_file_is_corrupt_and_stays_in_its_conversation(
    tmp_path: Path, opened: Any, damage: str
) -> None:
    """A record or an entry cut, emptied or swapped: Corrupt for ada by every way in, and bob notices nothing."""
    keep = await opened(count)
    for name in ("ada", "bob"):
        for n in range(3):
            await keep.receive(name, f"{n}")
    await keep.close()
    db = apsw.Connection(str(tmp_path / "chat.db"))
    db.execute(damage)
    assert db.changes() == 1
    db.close()
    keep = await opened(count)
    with pytest.raises(Corrupt, match=r"ada.*(damaged|cannot be read|empty)"):
        await keep.receive("ada", "hello?", id="m")
    with pytest.raises(Corrupt, match="ada"):
        await keep.conversation("ada")
    with pytest.raises(Corrupt, match="ada"):
        await keep.change("ada", lambda state: state.update(x=1))

    assert "4: hi" == (await keep.receive("bob", "hi")).replies[0].text
    await keep.erase("ada")
    assert "1: again" == (await keep.receive("ada", "again")).replies[0].text


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_who_comes_while_the_damage_is_read_is_told_of_what_is_there_then(
    tmp_path: Path, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker has read the damage when the conversation is erased; a message that comes before it says so is answered."""
    keep = await opened(count)
    await keep.receive("ada", "hi")
    await keep.close()
    db = apsw.Connection(str(tmp_path / "chat.db"))
    db.execute("update conversation set body = x'01'")
    db.close()
    keep = await opened(count)
    sound, seen, go = keep._engine.store.reload, asyncio.Event(), asyncio.Event()

    async def slow(*given: Any, **options: Any) -> Any:
        try:
            return await sound(*given, **options)
        except Corrupt:
            seen.set()
            await go.wait()
            raise

    monkeypatch.setattr(keep._engine.store, "reload", slow)
    keep._engine.workers.begin(Key("", "ada"))
    await seen.wait()
    await keep.erase("ada")
    asked = asyncio.create_task(keep.receive("ada", "again"))
    await until(lambda: bool(keep._engine.workers.by_key[Key("", "ada")].waiters))
    go.set()

    assert "1: again" == (await asked).replies[0].text


@pytest.mark.parametrize("url", ["memory"], indirect=True)  # (it is refused before a store is asked)
@pytest.mark.parametrize("number", ["1", 1.0, True])
async def test_what_is_no_number_of_the_log_is_never_told_as_one(opened: Any, number: Any) -> None:
    """Message 1 is there and was set aside: an error about "1" does not deny it, and nothing is done to it."""

    async def failing(turn: Turn) -> str:
        raise ValueError(turn.text)

    keep = await opened(failing, attempts=1)
    with pytest.raises(HandlerFailed):
        await keep.receive("ada", "hi")
    before = await texts(keep, "ada")
    verbs = [keep.redact, keep.replay, keep.dismiss, keep.resend, keep.withdraw, keep.restore, keep.as_of]
    asked = [partial(verb, "ada", number) for verb in verbs]
    asked += [partial(keep.undo, "ada", number, by="kim"), partial(keep.amend, "ada", number, "x")]
    asked += [partial(anext, keep.history("ada", **{name: number})) for name in ("after", "before")]
    for ask in asked:
        with pytest.raises(UsageError, match=r"^ada: .*whole numbers.*nothing was done"):
            await ask()

    assert before == await texts(keep, "ada")
    assert [1] == [letter.number for letter in await keep.dead_letters("ada")]


@pytest.mark.parametrize("url", ["memory"], indirect=True)  # (it is refused before a store is asked)
@pytest.mark.parametrize("most", ["3", 1.5, True, -1])
async def test_a_limit_that_is_none_is_no_empty_answer(opened: Any, most: Any) -> None:
    """A negative one too, which looks like "all" to some: nobody takes a conversation for empty because of it."""
    keep = await opened(count)
    await keep.receive("ada", "hi")
    asked = [partial(anext, keep.history("ada", limit=most)), partial(anext, keep.history("ada", before=9, limit=most))]
    asked += [partial(keep.conversation, "ada", messages=most), partial(keep.losses, "ada", limit=most)]
    asked += [partial(keep.deliveries, "ada", limit=most)]
    for ask in asked:
        with pytest.raises(UsageError, match=r"^ada: \w+ is how many there are at most.*nothing was read"):
            await ask()
    for ask in (partial(anext, keep.conversations(limit=most)), partial(keep.dead_letters, limit=most)):
        with pytest.raises(UsageError, match=r"^limit is how many there are at most"):
            await ask()


@pytest.mark.parametrize("url", ["memory"], indirect=True)
async def test_a_reply_that_is_too_long_is_not_called_the_message(opened: Any) -> None:
    """It is the bot that has said too much, and a role that there is none of is not one that nobody answers."""

    async def wordy(turn: Turn) -> str:
        return "x" * 100

    keep = await opened(wordy, attempts=1, message_limit=60)
    with pytest.raises(HandlerFailed, match="ada: a reply takes"):
        await keep.receive("ada", "hi")
    with pytest.raises(UsageError, match="a role is one of user, assistant, operator, system, event, not 'bot'"):
        await keep.receive("ada", "hi", role="bot")
