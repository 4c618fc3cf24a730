"""Clauses on opening and closing, and what becomes of the acts meanwhile. The drivers that break them stand below."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from functools import partial

from ...drivers.base import Ability, Append, Appended, Driver, Entries, Erase, Key, Read, Row, Scan, Write
from ...errors import Replaced, Unavailable, UsageError
from .broken import Intact, caught_by
from .clauses import Clauses, clause
from .steps import ADA, BOB, LOTS, changed, found, grown, refused, said, together, written

MOMENTS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 256, 1024, 4096)
"""After so many turns of the loop something happens to an open: near its beginning each one counts."""


class Opening(Clauses):
    """Opening and closing, and what becomes of the acts meanwhile."""

    async def test_closing_twice_is_fine_and_a_closed_driver_says_so(self) -> None:
        """It raises `Unavailable`, for nothing was written, and answers nothing."""
        driver = await self.open_driver()
        try:
            row = (await driver.append(Append(ADA, said("a"), revision="r1", at=1.0))).row
        finally:
            await driver.close()
        await driver.close()
        await refused(Unavailable, driver.read(Read(ADA, tail=1)))
        await refused(Unavailable, driver.append(Append(ADA, said("b"), revision="r2", at=1.0)))
        await refused(Unavailable, driver.write(Write(changed(row, "r2"), replaces="r1")))
        await refused(Unavailable, driver.entries(Entries(ADA, after=0, limit=1)))
        await refused(Unavailable, driver.scan(Scan("key", limit=1)))
        await refused(Unavailable, driver.erase(Erase(ADA, at=2.0)))

    @clause
    async def test_a_driver_is_usable_only_when_its_epoch_is_known(self, driver: Driver) -> None:
        """While it is being opened each verb is `Unavailable` and the epoch is ""; from then on both are there."""
        epoch, row = driver.epoch, await written(driver, ADA, body=b"state")
        await driver.close()
        assert "" == driver.epoch
        opening = asyncio.ensure_future(driver.open())

        async def too_early(make: Callable[[], Awaitable[object]]) -> None:
            if not driver.epoch:  # as it is when the act begins, whenever that is answered
                await refused_closed(make())

        acts = [*verbs(row), lambda driver: driver.erase(Erase(BOB, at=1.0))]
        while not driver.epoch and not opening.done():
            await asyncio.gather(*(too_early(partial(act, driver)) for act in acts))
            await asyncio.sleep(0)
        assert row == (await found(driver, ADA))[0]
        await opening
        assert epoch == driver.epoch

    @clause
    async def test_an_open_that_was_cancelled_leaves_it_closed(self, driver: Driver) -> None:
        """At whatever moment: no verb works, no task or thread is left, and it can be opened again."""
        epoch, row = driver.epoch, await written(driver, ADA, body=b"state")
        await driver.close()
        for ticks in MOMENTS:
            before = at_work()
            opening = asyncio.ensure_future(driver.open())
            await ticked(ticks)
            ended = opening.done()
            opening.cancel()
            await asyncio.wait([opening])
            if not ended:
                assert "" == driver.epoch
                for act in verbs(row):
                    await refused_closed(act(driver))
                assert before == at_work()
                await driver.open()
            assert (epoch, row) == (driver.epoch, (await found(driver, ADA))[0])
            await driver.close()

    @clause
    async def test_closing_breaks_off_an_open_under_way(self, driver: Driver) -> None:
        """Whoever opens is told so, nothing is left, and the driver can be opened again."""
        row = await written(driver, ADA, body=b"state")
        await driver.close()
        for ticks in MOMENTS[1:]:  # (before its first turn it has not begun)
            before = at_work()
            opening = asyncio.ensure_future(driver.open())
            await ticked(ticks)
            await driver.close()
            (answer,) = await together([opening])
            assert answer is None or isinstance(answer, Unavailable)
            assert "" == driver.epoch
            for act in verbs(row):
                await refused_closed(act(driver))
            assert before == at_work()
        await driver.open()
        assert row == (await found(driver, ADA))[0]

    @clause
    async def test_it_is_opened_once_at_a_time(self, driver: Driver) -> None:
        """A second `open` is refused, beside the first and after it, and does the first no harm."""
        row = await written(driver, ADA, body=b"state")
        await refused(UsageError, driver.open())
        assert row == (await found(driver, ADA))[0]
        await driver.close()
        before = at_work()
        answers = await together([driver.open(), driver.open()])
        assert [False, True] == sorted(isinstance(answer, UsageError) for answer in answers)
        assert row == (await found(driver, ADA))[0]
        await driver.close()
        for act in verbs(row):
            await refused_closed(act(driver))
        assert before == at_work()

    @clause
    async def test_an_act_is_settled_in_the_opening_it_began_in(self, driver: Driver) -> None:
        """When `close` has ended, each act that began before is answered; none is done in the opening after it."""
        await written(driver, ADA, body=b"state")
        for ticks in range(4):
            acts = [asyncio.ensure_future(grown(driver, ADA, f"{ticks}.{n}")) for n in range(9)]
            await ticked(ticks)
            await driver.close()
            await asyncio.sleep(0)
            assert all(act.done() for act in acts)
            await driver.open()
            await asyncio.sleep(0.02)
            done = {answer.tail[0].id for answer in await together(acts) if isinstance(answer, Appended)}
            there = {entry.id for entry in (await found(driver, ADA))[1]}
            assert done == {id for id in there if id.startswith(f"{ticks}.")}

    async def test_acts_under_way_are_answered_before_it_closes(self) -> None:
        """What was accepted is done and stays; what came too late was certainly not."""
        done: list[str] = []
        for ticks in range(4):
            driver = await self.open_driver()
            ids = [f"{ticks}.{n}" for n in range(20)]
            acts = [asyncio.ensure_future(driver.append(Append(ADA, said(id), revision=id, at=1.0))) for id in ids]
            for _ in range(ticks):
                await asyncio.sleep(0)
            await driver.close()
            answers = await together(acts)
            done += [id for id, answer in zip(ids, answers, strict=True) if isinstance(answer, Appended)]

            assert {Appended, Unavailable} >= {type(answer) for answer in answers}
        if Ability.DURABLE in driver.abilities:
            driver = await self.open_driver()
            there = await driver.read(Read(ADA, tail=LOTS))
            await driver.close()

            assert sorted(done) == sorted(entry.id for entry in (there[1] if there else []))


async def refused_closed(act: Awaitable[object]) -> None:
    """Check that *act* says that the driver is not open, and nothing of the store."""
    refusal = await refused(Unavailable, act)
    assert not isinstance(refusal, Replaced), "a store that has not been opened was called another one"


async def ticked(ticks: int) -> None:
    """Lets the loop turn."""
    for _ in range(ticks):
        await asyncio.sleep(0)


def verbs(row: Row) -> list[Callable[[Driver], Awaitable[object]]]:
    """Give each verb but `erase` once, on a conversation that has *row*."""
    return [
        lambda driver: driver.read(Read(row.key, tail=1)),
        lambda driver: driver.append(Append(row.key, said("too early"), revision="too early", at=1.0)),
        lambda driver: driver.write(Write(changed(row, "too early"), replaces=row.revision)),
        lambda driver: driver.entries(Entries(row.key, after=0, limit=1)),
        lambda driver: driver.scan(Scan("key", limit=1)),
    ]


def at_work() -> set[str]:
    """Return the tasks and threads that are there now, but for those that end by themselves, or are the interpreter's own."""
    tasks = {f"{id(task)} {task.get_name()}" for task in asyncio.all_tasks() if not task.done()}
    threads = {f"{thread.ident} {thread.name}" for thread in threading.enumerate()}
    return tasks | {name for name in threads if "asyncio_" not in name and not name.endswith(" chatkeep call")}


# Drivers that break these clauses


@caught_by("closing_twice_is_fine_and_a_closed_driver_says_so", raises=RuntimeError)
class ClosingTwiceFails(Intact):
    """What is closed cannot be closed."""

    _closed_before = False

    async def close(self) -> None:
        await super().close()
        if self._closed_before:
            raise RuntimeError("already closed")
        self._closed_before = True


@caught_by("closing_twice_is_fine_and_a_closed_driver_says_so")
class AnswersWhenClosed(Intact):
    """Closing changes nothing."""

    async def close(self) -> None:
        pass


@caught_by("a_driver_is_usable_only_when_its_epoch_is_known")
class AnswersWhileItIsOpened(Intact):
    """Its connections are there before it knows the epoch, and a healthy store looks like another one."""

    async def _come_in(self) -> None:
        await asyncio.sleep(0)
        if self._starting is None:
            self.refuse_closed("done")


@caught_by("a_driver_is_usable_only_when_its_epoch_is_known", raises=Unavailable)
class EpochKnownTooEarly(Intact):
    """It says its epoch first, and is usable later."""

    async def _start(self) -> str:
        self.epoch = self._shelf.epoch
        await asyncio.sleep(0.02)
        return await super()._start()


@caught_by("an_open_that_was_cancelled_leaves_it_closed")
class UsableAfterAFailedOpen(Intact):
    """What was there of it when the open was broken off stays."""

    async def open(self) -> None:
        try:
            await super().open()
        except asyncio.CancelledError:
            self.epoch, self.is_open = self._shelf.epoch, True
            raise


@caught_by("an_open_that_was_cancelled_leaves_it_closed")
class OpenGoesOnWhenCancelled(Intact):
    """Whoever opened it is gone, and nobody closes it."""

    async def open(self) -> None:
        await asyncio.shield(asyncio.ensure_future(super().open()))


@caught_by("closing_breaks_off_an_open_under_way")
class OpensAfterItWasClosed(Intact):
    """What has not been opened yet has nothing to close."""

    async def close(self) -> None:
        if self.is_open:
            await super().close()


@caught_by("it_is_opened_once_at_a_time")
class OpenedTwice(Intact):
    """The second open takes the place of the first, which nobody closes any more."""

    async def open(self) -> None:
        self._starting = None
        await super().open()


@caught_by("an_act_is_settled_in_the_opening_it_began_in")
class ActsWaitForTheNextOpening(Intact):
    """What was not done when it was closed is done when it is open again."""

    async def append(self, act: Append) -> Appended:
        while True:
            try:
                return await super().append(act)
            except Unavailable:
                await asyncio.sleep(0.001)


@caught_by("acts_under_way_are_answered_before_it_closes", "a_reopened_store_holds_everything")
class LastActLost(Intact):
    """What was answered last was not on disk yet."""

    _undo: tuple[Key, Row | None] | None = None

    async def append(self, act: Append) -> Appended:
        before = self._shelf.rows.get(act.key)
        answer = await super().append(act)
        self._undo = (act.key, before)
        return answer

    async def close(self) -> None:
        await super().close()
        if self._undo:
            key, row = self._undo
            self._shelf.rows.pop(key)
            if row:
                self._shelf.rows[key] = row
