"""What is of another kind than a verb asks for is refused in words, and leaves every conversation readable."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest

from chatkeep import Chatkeep, ChatkeepError, Corrupt, Turn, Uncertain, User

WRONG = [
    3,
    -1,
    "x",
    None,
    [],
    {},
    b"x",
    True,
    1.5,
    float("nan"),
    object(),
    "\0",
    "\ud800",
    {"a": object()},
    10**30,
    ("t",),
]

RIGHT: dict[str, Any] = {
    "conversation": "trip",
    "id": "trip",
    "content": "hello",
    "number": 1,
    "title": "To Rome",
    "slot": "cart",
    "edit": lambda state: state.update(seats=2),
    "call": "c.0",
    "done": True,
    "share": 0.1,
    "version": "1",
    "guest": "guest:1",
    "by": "kim",
}

LEFT_OUT = {
    "events",
    "backup",
    "query",
    "once",
    "on_message",
    "on_missing",
    "on_failure",
    "deliver",
    "open",
    "close",
    "user",
}
LEFT_OUT |= {"tenant", "tend", "pause_all", "resume_all"}
"""These wait, name files, or are not about a conversation."""


def verbs(of: type) -> Iterator[tuple[str, str]]:
    """Each verb with each of its parameters."""
    for name, verb in inspect.getmembers(of, inspect.isfunction):
        if not name.startswith("_") and name not in LEFT_OUT:
            yield from ((name, parameter) for parameter in list(inspect.signature(verb).parameters)[1:])


async def made(at: object, of: type, verb: str, parameter: str, wrong: object, place: int) -> None:
    """Call the verb with that one argument wrong."""
    asked = inspect.signature(getattr(of, verb)).parameters.values()
    given = {one.name: RIGHT.get(one.name, "x") for one in asked if one.default is one.empty and one.name != "self"}
    if verb in ("save", "rename"):
        given["title"] = f"title {place}"  # one that is not there, so that it is written
    if verb == "merge":
        given["value"] = [place]
    answer = getattr(at, verb)(**given | {parameter: wrong})
    if hasattr(answer, "__anext__"):
        async for _ in answer:
            break
    elif inspect.isawaitable(answer):
        await answer


def made_keep(url: str) -> Chatkeep:
    keep = Chatkeep(url, attempts=1)

    @keep.on_message
    async def bot(turn: Turn) -> str:
        return "ok"

    return keep


@pytest.mark.parametrize(
    ("of", "verb", "parameter"),
    [pytest.param(of, *asked, id=".".join(asked)) for of in (Chatkeep, User) for asked in verbs(of)],
)
async def test_a_wrong_kind_is_refused_in_words_and_spoils_nothing(of: type, verb: str, parameter: str) -> None:
    """Type checkers find these; a caller without one, such as a web page's backend, hands over what it was given."""
    url = f"memory://wrong-{of.__name__}-{verb}-{parameter}"
    for place, wrong in enumerate(WRONG):
        async with made_keep(f"{url}-{place}") as keep:
            await keep.save("trip", owner="ada", title="To Rome", messages=[{"id": "1", "content": "Where to?"}])
            try:
                await made(keep.user("ada") if of is User else keep, of, verb, parameter, wrong, place)
            except (Corrupt, Uncertain):
                raise
            except ChatkeepError:
                pass
            async with Chatkeep(f"{url}-{place}") as other:
                await other.change("trip", lambda state: state.update(seen=True))
                await other.losses("trip")

                assert [] == [one.fault for one in [one async for one in other.conversations()] if one.fault]
                assert [] == [
                    one.fault for one in [one async for one in other.user("ada").conversations()] if one.fault
                ]
                assert all([message.number async for message in other.history("trip")])


@pytest.mark.parametrize("by", ["人" * 200, None])
async def test_whoever_may_have_a_label_may_make_a_change(by: Any) -> None:
    """Labels of credentials have up to 200 characters, which are more bytes; a backend may say None of nobody."""
    async with made_keep(f"memory://by-{by is None}") as keep:
        await keep.save("trip", owner="ada", title="To Rome")
        changed = await keep.change("trip", lambda state: state.update(seats=2), by=by)
        if by:
            await keep.undo("trip", (await keep.conversation("trip")).messages[-1].number, by=by)
        merged = await keep.merge("trip", "cart", value=["tea"], by=by)

    assert 2 == changed.state["seats"]
    assert ["tea"] == merged.value
