"""What is known of credentials: one read a second, their last use, and nobody is judged without the store."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import pytest

from chatkeep import Chatkeep
from chatkeep.auth.credentials import (
    create_key,
    forget,
    issue_token,
    issue_user_token,
    list_tokens,
    stored_credentials,
)
from chatkeep.auth.format import name_of
from chatkeep.errors import Overloaded, Replaced, Unavailable
from chatkeep.server import create_app, last_known
from chatkeep.server.known_credentials import KnownCredentials
from chatkeep.testing.servers import RedisServer

from ..support.counting import count
from ..support.salon import ADA, Clock, House, housed
from ..support.serving import Client, serving
from ..support.stores import FAST
from ..support.waiting import nothing_happens_for, time_passes, until


async def test_the_last_use_is_noted_coarsely(house: House, clock: Clock, tmp_path: Path) -> None:
    """Once an hour and behind the answer; the second use writes nothing, on no instance."""
    token = await house.token()

    async def used() -> float | None:
        return (await list_tokens(house.keep, "salon", "ada"))[0].last_used_at

    async def revisions() -> list[str]:
        rows = await house.keep._engine.store.rows("key", tenant="~access")
        return [row.revision for row in rows if row.key.id == name_of(token)]

    assert await used() is None
    await house.may(token)
    await until(used)
    before = await revisions()
    clock.ahead = 3000
    await house.may(token)
    async with housed(f"sqlite:///{tmp_path}/chat.db", clock=clock) as other:
        await other.may(token)
        await nothing_happens_for(0.1)
    assert before == await revisions()


async def test_noting_a_last_use_brings_nothing_back(house: House) -> None:
    """One that was erased while its use was being noted stays erased."""
    name = str(name_of(await house.token()))
    held = await stored_credentials(house.keep).get(name)
    assert held is not None
    await forget(house.keep, "salon", "ada")
    known = KnownCredentials(house.keep)
    known.note_use(name, held)
    await until(lambda: not [task for task in asyncio.all_tasks() if task.get_name() == "chatkeep access"])

    assert await stored_credentials(house.keep).get(name) is None


async def test_what_the_application_erases_opens_nothing_anew(house: House) -> None:
    """A conversation's token ends in the same moment where the server's own process erases, and by no request: what is said with it
    a moment later would begin a conversation of that name that nobody has asked for."""
    token = await house.token("send")
    path, salon = f"{ADA}/messages", house.keep.tenant("salon")
    first = await house.ask("POST", path, {"content": "hello"}, token=token)
    await salon.erase("ada")
    then = await house.ask("POST", path, {"content": "again"}, token=token)

    assert [200, 401] == [first.status, then.status]
    assert await salon.conversation("ada") is None


async def test_what_is_erased_is_not_let_in_by_a_look_from_before(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look that is under way while the token is erased counts for who waits for it, and for nobody after, also in an outage."""
    token = await house.token()
    name, known = str(name_of(token)), KnownCredentials(house.keep)
    known._last._lasts = True
    driver, read = house.keep._engine.store.driver, house.keep._engine.store.driver.read
    goes_on, is_read = asyncio.Event(), asyncio.Event()

    async def slow(act: Any) -> Any:
        found = await read(act)
        is_read.set()
        await goes_on.wait()
        return found

    with monkeypatch.context() as patched:
        patched.setattr(driver, "read", slow)
        asking = asyncio.create_task(known.find(name))
        await is_read.wait()
        patched.undo()
        await forget(house.keep, "salon", "ada")
        goes_on.set()
        await asking
    assert await known.find(name) is None
    with pytest.raises(Unavailable, match="away"):
        known._last.find(name, Unavailable("away"))
    await known.close()


async def test_a_look_that_nobody_waits_for_may_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked anew after a change, for an outage to come, tells nobody that the store was away by then: the log has no traceback."""
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, said: told.append(said))
    async with Chatkeep[Any]("memory://", on_outage="read") as keep:
        known, name = KnownCredentials(keep), str(name_of((await create_key(keep, "")).token))
        await known.find(name)

        async def away(act: Any) -> Any:
            raise Unavailable("away")

        with monkeypatch.context() as patched:
            patched.setattr(keep._engine.store.driver, "read", away)
            known._look_again_at(name)
            await until(lambda: not known._tasks)
        await known.close()
        gc.collect()

    assert [] == told


async def test_a_busy_token_costs_one_read_a_second(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who come at once wait for the same look."""
    token, reads = await house.token(), []
    driver = house.keep._engine.store.driver
    read = driver.read

    async def counting(act: Any) -> Any:
        reads.append(act.key)
        return await read(act)

    await house.may(token)
    await until(lambda: not [task for task in asyncio.all_tasks() if task.get_name() == "chatkeep access"])
    await time_passes(1.1)
    monkeypatch.setattr(driver, "read", counting)
    answers = await asyncio.gather(*[house.may(token) for _ in range(40)])

    assert [200] * 40 == answers
    assert 1 == len([key for key in reads if key.tenant == "~access"])


async def test_without_a_store_nobody_is_let_in_or_turned_away(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """503: a token that cannot be looked at is neither good nor bad, and is looked at again when the store is back."""
    token = await house.token()
    driver = house.keep._engine.store.driver

    async def away(act: Any) -> Any:
        raise Unavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(driver, "read", away)
        answers = [await house.ask("GET", f"{ADA}/messages", token=token) for _ in range(2)]
    assert [503, 503] == [answer.status for answer in answers]

    async def is_let_in() -> bool:
        return await house.may(token) == 200

    await until(is_let_in)  # the store is left alone for a moment where a sweep has met its absence too


@pytest.mark.server
@pytest.mark.parametrize("outage_s", [600.0, 0.0])
async def test_who_is_known_writes_into_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outage_s: float
) -> None:
    """While the store cannot be reached whoever was let in a while ago is, by each kind of credential. Of others nobody knows, and they are
    answered 503; so is whoever has not come for as long as it is remembered, and whoever was there before something was ended here."""
    monkeypatch.setattr(last_known, "OUTAGE_S", outage_s)
    journal = {"on_outage": "journal", "journal": str(tmp_path / "journal.db"), "store_timeout": "1s"}
    with RedisServer("valkey-9", tmp_path) as server:
        keep = Chatkeep[Any](f"{server.url}?timeout=1", **FAST | journal)
        keep.on_message(count)
        app = create_app(keep, title="A bot")
        async with serving(app) as port:
            client = Client(port, (await create_key(keep, "")).token)

            async def tried(credential: str, conversation: str = "ada") -> int:
                headers = {"Authorization": f"Bearer {credential}", "Prefer": "respond-async"}
                path = f"/v1/conversations/{conversation}/messages"
                return (await client.ask("POST", path, b'{"content": "hi"}', headers)).status

            token = (await issue_token(keep, "", "ada", scopes=["send"])).token
            user = (await issue_user_token(keep, "", "bob")).token
            known = [(client.key, "ada"), (token, "ada"), (user, "bob")]
            before = [await tried(*one) for one in known]
            stranger = (await create_key(keep, "")).token
            server.kill()
            await time_passes(1.1)  # by then what was looked at is looked at again
            during = [await tried(*one) for one in known]
            others = [await tried(stranger), await tried(user, "eve")]
            app.state.access.look_again()
            ended = [await tried(*one) for one in known]
            server.start()
            await until(lambda: not keep.trouble)
            after = [await tried(*one) for one in (*known, (stranger, "ada"))]

    assert [202] * 7 == before + after
    assert [202 if outage_s else 503] * 3 == during
    assert [503] * 5 == others + ended


def test_what_is_known_is_what_was_said_last() -> None:
    """Also that there is nothing; not what a look from before something was ended here brings. Another store is no outage, and neither is
    one that has too much to do."""
    keep = Chatkeep[Any]("memory://", on_outage="read")
    known = last_known.LastKnown[str, int](keep)
    known.note("a", 1, round=known.round)
    assert 1 == known.find("a", Unavailable("away"))
    for no_outage in (Replaced("other"), Overloaded("busy")):
        with pytest.raises(type(no_outage)):
            known.find("a", no_outage)
    known.note("a", None, round=known.round)
    before = known.round
    known.clear()
    known.note("b", 2, round=before)
    refusing = last_known.LastKnown[str, int](Chatkeep[Any]("memory://"))
    refusing.note("a", 1, round=0)
    for held, name in ((known, "a"), (known, "b"), (refusing, "a")):
        with pytest.raises(Unavailable, match="away"):
            held.find(name, Unavailable("away"))
