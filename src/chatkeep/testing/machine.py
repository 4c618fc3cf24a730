"""Random histories of the six verbs, checked act by act against a model that is written from the docstrings alone.

    def test_random_histories(tmp_path):
        def fresh_store():
            url = f"mine://{tmp_path}/{secrets.token_hex(8)}"

            async def open_driver():
                driver = MyDriver(url)
                await driver.open()
                return driver

            return DriverMachine(open_driver)

        run_state_machine_as_test(fresh_store)  # from hypothesis.stateful

A history has what a network does to a driver: acts that run again on another connection, late ones after an erasure,
writers with an old row, and several acts at once, whose answers must fit some order of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import permutations
from typing import Any, NamedTuple
from unittest.mock import ANY

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from msgspec import structs

from ..drivers.base import Ability, Act, Append, Appended, Driver, Entries, Entry, Erase, Key, Lease, Read, Row, Write
from ..errors import Conflict, Duplicate
from .contract.steps import INDEXES, LOTS, paged, said

KEYS = (Key("", "ab"), Key("a", "b"), Key("", "AB"))
OWNERS = ("", "eve", "bob")
CONNECTIONS = 3


# The model: a store is a value, an act is a function from a store to the next one and an answer.


class Talk(NamedTuple):
    """One conversation: its row and what is in its log."""

    row: Row
    log: tuple[Entry, ...]


class Store(NamedTuple):
    """All that a store holds, and the marks of what was erased."""

    talks: Mapping[Key, Talk]
    marks: Mapping[Key, float]


class Refusal(NamedTuple):
    """A `Conflict` or `Duplicate`, to be compared; ANY where the docstrings promise nothing."""

    kind: type[Exception]
    row: Row | None
    entries: Any
    numbers: Any
    erased_at: Any


EMPTY = Store({}, {})


def append(store: Store, act: Append) -> tuple[Store, Any]:
    """`Driver.append`."""
    row, log = store.talks.get(act.key, (None, ()))
    if act.at <= store.marks.get(act.key, -1.0):
        return store, Refusal(Conflict, row, ANY, ANY, store.marks[act.key])
    there = {entry.id: entry.number for entry in log if entry.id}
    known = {entry.id: there[entry.id] for entry in act.entries if entry.id in there}
    new = [entry for entry in act.entries if entry.id not in known]
    if row is None:
        row = Row(key=act.key, revision="", incarnation=act.revision, owner=act.owner)
    elif row.revision == act.revision:
        return store, Appended(row, tail_of(log, row, act.tail), ANY)
    elif not new:
        return store, Appended(row, tail_of(log, row, act.tail), known)
    log = (*log, *numbered(new, row.head))
    held = Lease(row.lease, row.leased_until) if row.lease is not None else act.lease
    dues = {due for due in (row.due_at, act.due_at) if due is not None}
    row = structs.replace(
        row,
        revision=act.revision,
        head=row.head + len(new),
        updated_at=act.at,
        due_at=min(dues) if dues else None,
        lease=held.token if held else None,
        leased_until=held.until if held else 0.0,
    )
    return put(store, row, log), Appended(row, tail_of(log, row, act.tail), known)


def write(store: Store, act: Write) -> tuple[Store, Any]:
    """`Driver.write`."""
    row = act.row
    stored, log = store.talks.get(row.key, (None, ()))
    news = [entry for entry in log if entry.number > act.since][:200]
    known = {entry.id: entry.number for entry in log if entry.id and entry.id in {entry.id for entry in act.entries}}
    if stored is not None:
        if stored.revision == row.revision:
            return store, stored
        if known:
            return store, Refusal(Duplicate, stored, news, known, ANY)
        if (stored.revision, stored.incarnation) != (act.replaces, row.incarnation):
            return store, Refusal(Conflict, stored, news, ANY, ANY)
    elif act.replaces is not None:
        return store, Refusal(Conflict, None, [], ANY, ANY)
    elif row.updated_at <= store.marks.get(row.key, -1.0):
        return store, Refusal(Conflict, None, [], ANY, store.marks[row.key])
    head = row.head if stored is None else stored.head
    log = tuple(entry for entry in (*log, *numbered(act.entries, head)) if entry.number > act.drop)
    log = tuple(structs.replace(entry, body=b"") if entry.number in act.blank else entry for entry in log)
    row = structs.replace(row, head=head + len(act.entries))
    return put(store, row, log), row


def erase(store: Store, act: Erase) -> tuple[Store, Any]:
    """`Driver.erase`."""
    key = act.key
    if key in store.talks and act.revision not in (None, store.talks[key].row.revision):
        return store, Refusal(Conflict, store.talks[key].row, [], ANY, ANY)
    seen = [
        act.at,
        store.marks.get(key, act.at),
        *(talk.row.updated_at for talk in store.talks.values() if talk.row.key == key),
    ]
    rest = {other: talk for other, talk in store.talks.items() if other != key}
    return Store(rest, {**store.marks, key: max(seen)}), None


def read(store: Store, act: Read) -> tuple[Store, Any]:
    """`Driver.read`."""
    if act.key not in store.talks:
        return store, None
    row, log = store.talks[act.key]
    return store, (row, tail_of(log, row, act.tail))


def entries(store: Store, act: Entries) -> tuple[Store, Any]:
    """`Driver.entries`."""
    _, log = store.talks.get(act.key, (None, ()))
    if act.ids is not None:
        return store, [entry for entry in log if entry.id and entry.id in act.ids][: act.limit]
    before = LOTS if act.before is None else act.before
    found = [entry for entry in log if (act.after or 0) < entry.number < before]
    backwards = act.after is None and act.before is not None
    return store, found[max(len(found) - act.limit, 0) :] if backwards else found[: act.limit]


def shown(store: Store) -> list[Any]:
    """Return what a driver with this in it shows: every conversation, and every index as a whole."""
    found: list[Any] = [(read(store, Read(key, LOTS))[1], list(store.talks.get(key, (None, ()))[1])) for key in KEYS]
    rows = [talk.row for talk in store.talks.values()]
    for tenant in (None, "", "a"):
        near = [row for row in rows if tenant in (None, row.key.tenant)]
        found.append(sorted(near, key=lambda row: row.key))
        found.append(sorted((row for row in near if row.wake is not None), key=lambda row: (row.wake or 0.0, row.key)))
        found.append(sorted((row for row in near if row.owner == "eve"), key=lambda row: row.key))
        found.append(sorted(near, key=lambda row: (-row.updated_at, row.key)))
    return found


def put(store: Store, row: Row, log: tuple[Entry, ...]) -> Store:
    """Return the store with this conversation in it."""
    return Store({**store.talks, row.key: Talk(row, log)}, store.marks)


def numbered(entries: Sequence[Entry], head: int) -> list[Entry]:
    """Return *entries* as they stand in the log behind *head*."""
    return [structs.replace(entry, number=number) for number, entry in enumerate(entries, head + 1)]


def tail_of(log: Sequence[Entry], row: Row, tail: int) -> list[Entry]:
    """Return the last *tail* entries."""
    return [entry for entry in log if entry.number > row.head - tail]


MODEL: dict[type[Act], Callable[..., tuple[Store, Any]]] = {
    Append: append,
    Write: write,
    Erase: erase,
    Read: read,
    Entries: entries,
}


# What the histories are made of. A plan becomes an act when its turn comes: it may build on what was seen until then.


class Say(NamedTuple):
    """An append."""

    key: Key
    ids: list[str]
    at: float
    due_at: float | None
    lease: Lease | None
    tail: int
    owner: str


class Put(NamedTuple):
    """A write on a row that was seen some answers ago, or (*makes*) one that creates."""

    key: Key
    seen: int
    makes: bool
    crossed: int
    ids: list[str]
    since: int
    drop: int
    blank: list[int]
    fields: dict[str, Any]


class Wipe(NamedTuple):
    """An erasure, of any revision or (*seen*) of one that was seen some answers ago."""

    key: Key
    at: float
    seen: int | None


class Look(NamedTuple):
    """A read."""

    key: Key
    tail: int


class Turn(NamedTuple):
    """A page of the log."""

    key: Key
    after: int | None
    before: int | None
    limit: int


class Pick(NamedTuple):
    """Entries by their ids."""

    key: Key
    ids: list[str]
    limit: int


class Again(NamedTuple):
    """The act that was done so many acts ago, once more."""

    back: int


keys = st.sampled_from(KEYS)
times = st.sampled_from([0.0, 1.0, 2.0, 3.0, 50.0, 60.0, 61.5, 119.0, 120.0, 1000.0])
dues = st.none() | times
ids = st.lists(st.sampled_from(["", "m1", "m2", "m3", "m4", "m5"]), max_size=3).filter(
    lambda ids: len(ids) - ids.count("") == len(set(ids) - {""})
)
few = st.integers(0, 12)
leases = st.builds(Lease, st.sampled_from(["c1", "c2"]), times)
fields = st.fixed_dictionaries(
    {"updated_at": times},
    optional={
        "body": st.sampled_from([b"", b"\0", b"\1", b"state" * 20]),
        "owner": st.sampled_from(OWNERS),
        "due_at": dues,
        "lease": st.sampled_from([None, "c1", "c2"]),
        "leased_until": times,
        "head": few,
    },
)
says = st.builds(Say, keys, ids.filter(bool), times, dues, st.none() | leases, few, st.sampled_from(OWNERS))
puts = st.builds(
    Put,
    keys,
    st.integers(0, 4),
    st.sampled_from([False] * 4 + [True]),
    st.sampled_from([0] * 6 + [1, 2]),
    ids,
    few,
    few,
    st.just([]) | st.lists(few, max_size=3),
    fields,
)
plans = st.one_of(
    says,
    puts,
    puts,
    st.builds(Wipe, keys, times, st.none() | st.integers(0, 4)),
    st.builds(Look, keys, few),
    st.builds(Turn, keys, st.none() | few, st.none() | few, few),
    st.builds(Pick, keys, ids, few),
    st.builds(Again, few),
)
connections = st.integers(0, CONNECTIONS - 1)


class DriverMachine(RuleBasedStateMachine):
    """One history on one fresh store, which *open_driver* opens, as often as it is called when the driver is SHARED."""

    def __init__(self, open_driver: Callable[[], Awaitable[Driver]]) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._drivers: list[Driver] = []
        self._store = EMPTY
        self._rows: list[Row] = []
        self._acts: list[Act] = []
        self._runner.run(self._open(open_driver))

    @rule(plan=plans, connection=connections)
    def one(self, plan: Any, connection: int) -> None:
        """Do an act; the driver says what the model says."""
        act = self._act(plan)
        answer = self._runner.run(self._done(act, connection))
        self._store, expected = MODEL[type(act)](self._store, act)

        assert expected == answer, f"{act}\nmodel:  {expected}\ndriver: {answer}"

    @rule(several=st.lists(st.tuples(plans, connections), min_size=2, max_size=4))
    def several(self, several: list[tuple[Any, int]]) -> None:
        """Acts at once; some order of them explains every answer and what the store holds then."""
        acts = [self._act(plan) for plan, _ in several]
        answers, seen = self._runner.run(self._raced(acts, [connection for _, connection in several]))
        for order in permutations(range(len(acts))):
            store = self._store
            for place in order:
                store, expected = MODEL[type(acts[place])](store, acts[place])
                if expected != answers[place]:
                    break
            else:
                if self._expected(store) == seen:
                    self._store = store
                    return
        told = "\n".join(f"{act}\n    -> {answer}" for act, answer in zip(acts, answers, strict=True))
        raise AssertionError(f"no order of these explains it:\n{told}\nleft: {seen}\nbefore: {self._store}")

    @rule(connection=connections, size=st.integers(1, 3))
    def everything(self, connection: int, size: int) -> None:
        """Check that each connection shows the whole store as the model has it, in pages of any size."""
        seen = self._runner.run(self._seen(self._drivers[connection], size))

        assert self._expected(self._store) == seen

    def teardown(self) -> None:
        """Close the drivers."""
        self._runner.run(self._close())
        self._runner.close()

    def _act(self, plan: Any) -> Act:
        act = self._planned(plan)
        self._acts.append(act)
        return act

    def _planned(self, plan: Any) -> Act:
        revision = f"r{len(self._acts)}"
        match plan:
            case Say(key, ids, at, due_at, lease, tail, owner):
                return Append(key, said(*ids), revision, at, due_at, lease, tail, owner)
            case Put(key, seen, makes, crossed, ids, since, drop, blank, fields):
                rows = self._rows[::-1]
                if makes or not rows:
                    incarnation = "moved here" if crossed else revision
                    row = Row(key=key, revision=revision, incarnation=incarnation, **fields)
                    return Write(row, None, said(*ids), since, drop, blank)
                row = rows[seen % len(rows)]
                incarnation = rows[(seen + crossed) % len(rows)].incarnation
                put = structs.replace(row, revision=revision, incarnation=incarnation, **fields)
                return Write(put, row.revision, said(*ids), since, drop, blank)
            case Wipe(key, at, seen):
                of = None if seen is None or not self._rows else self._rows[-1 - seen % len(self._rows)].revision
                return Erase(key, at, of)
            case Look(key, tail):
                return Read(key, tail)
            case Turn(key, after, before, limit):
                return Entries(key, after, before, limit=limit)
            case Pick(key, ids, limit):
                return Entries(key, ids=ids, limit=limit)
            case Again(back) if self._acts:
                return self._acts[-1 - back % len(self._acts)]
        return Read(KEYS[0], tail=1)

    async def _open(self, open_driver: Callable[[], Awaitable[Driver]]) -> None:
        self._drivers.append(await open_driver())
        shared = Ability.SHARED in self._drivers[0].abilities
        while len(self._drivers) < CONNECTIONS:
            self._drivers.append(await open_driver() if shared else self._drivers[0])

    async def _close(self) -> None:
        for driver in self._drivers:
            await driver.close()

    async def _done(self, act: Act, connection: int) -> Any:
        answer: Any
        try:
            answer = await getattr(self._drivers[connection], type(act).__name__.lower())(act)
        except Conflict as conflict:
            answer = Refusal(Conflict, conflict.row, list(conflict.entries), None, conflict.erased_at)
        except Duplicate as known:
            answer = Refusal(Duplicate, known.row, list(known.entries), dict(known.numbers), None)
        row = answer if isinstance(answer, Row) else getattr(answer, "row", None)
        self._rows += [row] if row else []
        return answer

    async def _raced(self, acts: list[Act], connections: list[int]) -> tuple[list[Any], list[Any]]:
        answers = await asyncio.gather(*map(self._done, acts, connections))
        return answers, await self._seen(self._drivers[0], LOTS)

    async def _seen(self, driver: Driver, size: int) -> list[Any]:
        seen: list[Any] = [
            (await driver.read(Read(key, tail=LOTS)), await driver.entries(Entries(key, after=0, limit=LOTS)))
            for key in KEYS
        ]
        if Ability.SCAN not in driver.abilities:
            return seen
        for tenant in (None, "", "a"):
            for index in INDEXES:
                rows = await paged(driver, index, size, tenant=tenant, owner="eve")
                if index == "due":  # where the order of ties is left open
                    assert sorted(row.wake or 0.0 for row in rows) == [row.wake for row in rows]
                    rows.sort(key=lambda row: (row.wake or 0.0, row.key))
                seen.append(rows)
        return seen

    def _expected(self, store: Store) -> list[Any]:
        return shown(store) if Ability.SCAN in self._drivers[0].abilities else shown(store)[: len(KEYS)]
