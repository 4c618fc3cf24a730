"""Clauses on the keys, texts, bytes and times that every store has to hold. The drivers that break them stand below."""

from __future__ import annotations

import random
from collections.abc import Sequence

from msgspec import structs

from ...drivers.base import Ability, Append, Appended, Driver, Entry, Erase, Key, Read, Row, Scan, Write
from ...errors import Conflict
from .broken import Intact, caught_by
from .clauses import Clauses, clause
from .steps import ADA, changed, found, paged, refused, said

_PLAIN = (
    "a A a/b a/ /a / // . .. : a:b 1:a { } {} {a} {a}b a{1} % %2F %s _ a% * ? [a-c] ^a $1 :id ~ - # \\ \\0 ' \" ` ''"
)
_WORDS = (
    "null None true 0 00 -1 1e3 NaN é e\u0301 ß SS ı I Ⅸ ﬁ fi ключ 鍵 مفتاح 😀 👩\u200d👩\u200d👧 \uffff \U0010ffff"
)
_BLANKS = (
    " |  | a|a |\t|\n|\r\n|a\nb|\x01|\x1f|\x7f|\u00a0|\u200b|\u202e|\ufeff|a' or '1'='1|'; drop table conversation; --"
)
_LONG = ("x" * 512, "x" * 511 + "y", "é" * 256, "😀" * 128, "/" * 512)
NASTY = (*_PLAIN.split(" "), *_WORDS.split(" "), *_BLANKS.split("|"), *_LONG)
SHIFTED = (("a", "bc"), ("ab", "c"), ("", "abc"), ("a/b", "c"), ("a", "b/c"), ("a:b", "c"), ("a", "b:c"), ("1:a", "b"))
NASTY_KEYS = [Key(*pair) for pair in SHIFTED] + [key for name in NASTY for key in (Key("", name), Key(name, "a b"))]


class Values(Clauses):
    """The keys, texts, bytes and times that every store has to hold."""

    @clause
    async def test_any_key_is_its_own(self, driver: Driver) -> None:
        """However odd its text and however like another's, nothing of one shows up at another."""
        for n, key in enumerate(NASTY_KEYS):
            answer = await driver.append(
                Append(key, said("same", f"{n}"), revision=f"r{n}", at=1.0, due_at=1.0, tail=9)
            )

            assert ({}, 2) == (answer.known, answer.row.head)
            await driver.write(Write(changed(answer.row, f"w{n}", body=b"%d" % n), replaces=f"r{n}"))
        for n, key in enumerate(NASTY_KEYS):
            row, log = await found(driver, key)

            assert (key, b"%d" % n, ["same", f"{n}"]) == (row.key, row.body, [entry.id for entry in log])
        if Ability.SCAN in driver.abilities:
            assert sorted(NASTY_KEYS) == [row.key for row in await paged(driver, "key", 7)]
            assert sorted(NASTY_KEYS) == sorted(row.key for row in await paged(driver, "due", 7))
        for key in NASTY_KEYS[::2]:
            await driver.erase(Erase(key, at=2.0))

        assert [None] * len(NASTY_KEYS[::2]) == [await driver.read(Read(key, tail=1)) for key in NASTY_KEYS[::2]]
        assert [2] * len(NASTY_KEYS[1::2]) == [(await found(driver, key))[0].head for key in NASTY_KEYS[1::2]]

    @clause
    async def test_any_text_survives_where_there_is_text(self, driver: Driver) -> None:
        """In entry ids, roles, owners, revisions and leases, and no two of them are taken for the same."""
        for n, text in enumerate(NASTY):
            key = Key("texts", f"{n}")
            row = (await driver.append(Append(key, [Entry(0, text, text, b"")], revision=text, at=1.0, owner=text))).row
            act = changed(row, f"{text}!", lease=text, leased_until=9.0)
            row = await driver.write(Write(act, replaces=text))

            assert (text, text, text) == (row.incarnation, row.owner, row.lease)
            assert (row, [Entry(1, text, text, b"")]) == await driver.read(Read(key, tail=9))
            if Ability.SCAN in driver.abilities:
                assert [row] == await driver.scan(Scan("owner", tenant="texts", owner=text, limit=9))
        answer = await driver.append(Append(ADA, said(*NASTY), revision="r1", at=1.0))
        again = await driver.append(Append(ADA, said(*NASTY), revision="r2", at=1.0))

        assert len(NASTY) == answer.row.head == again.row.head
        assert {text: n for n, text in enumerate(NASTY, 1)} == again.known

    @clause
    async def test_any_bytes_survive_as_a_body(self, driver: Driver) -> None:
        """Empty ones, zeros, what looks packed, what is no text, and a megabyte."""
        chance = random.Random(5)
        bodies = [b"", b"\0", b"\1", b"\2", b"\0\0", b"\0\1", b"\1\0", b"\0a", b"\1a", b"\xff\xfe", bytes(range(256))]
        bodies += [b"\0" * size for size in (47, 48, 49, 5000)] + [b"\1" * size for size in (47, 48, 49, 5000)]
        bodies += [chance.randbytes(size) for size in (1, 47, 48, 49, 1000, 70_000)]
        bodies += [
            b"\1" + chance.randbytes(60),
            b'{"type":"text","text":"caf\xc3\xa9"}' * 9,
            b"x" * (1 << 20),
            chance.randbytes(1 << 20),
        ]
        row = (
            await driver.append(Append(ADA, [Entry(0, "", "user", body) for body in bodies], revision="r", at=1.0))
        ).row
        for n, body in enumerate(bodies):
            row = await driver.write(Write(changed(row, f"w{n}", body=body), replaces=row.revision))

            assert body == row.body
            assert body == (await found(driver, ADA, tail=0))[0].body

        assert bodies == [entry.body for entry in (await found(driver, ADA))[1]]

    @clause
    async def test_times_come_back_exactly(self, driver: Driver) -> None:
        """To the last bit: a mark or a page that is off by a hair lets the wrong act through."""
        for n, at in enumerate((1763697600.1234567, 0.1 + 0.2, 1e-9, 4102444800.000001, 0.0)):
            key = Key("times", f"{n}")
            row = Row(key=key, revision="r", incarnation="r", updated_at=at, due_at=at, lease="c", leased_until=at)

            assert row == await driver.write(Write(row, replaces=None))
            assert row == (await found(driver, key))[0]
            answer = await driver.append(Append(key, said("a"), revision="r2", at=at, due_at=at))

            assert (at, at, at) == (answer.row.updated_at, answer.row.due_at, answer.row.leased_until)
            await driver.erase(Erase(key, at=at))

            assert at == (await refused(Conflict, driver.append(Append(key, said("a"), revision="r", at=at)))).erased_at


# Drivers that break these clauses


class Folded(Intact):
    """Takes two keys for one where `_fold` makes the same of them."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._first: dict[str, Key] = {}

    def _fold(self, key: Key) -> str:
        """Return what is left of the key."""
        raise NotImplementedError

    def _known_as(self, key: Key) -> Key:
        return self._first.setdefault(self._fold(key), key)

    async def read(self, act: Read) -> tuple[Row, list[Entry]] | None:
        return await super().read(structs.replace(act, key=self._known_as(act.key)))

    async def append(self, act: Append) -> Appended:
        return await super().append(structs.replace(act, key=self._known_as(act.key)))


@caught_by("any_key_is_its_own")
class KeysJoined(Folded):
    """Tenant and id are put one behind the other."""

    def _fold(self, key: Key) -> str:
        return key.tenant + key.id


@caught_by("any_key_is_its_own")
@caught_by("the_mark_stands_as_long_as_promised", raises=Conflict)
class KeysWithoutCase(Folded):
    """Ada and ada are one."""

    def _fold(self, key: Key) -> str:
        return f"{len(key.tenant)}:{key.tenant}{key.id}".lower()


@caught_by("any_key_is_its_own")
class KeysCutShort(Folded):
    """A column holds 255 characters."""

    def _fold(self, key: Key) -> str:
        return f"{key.tenant[:255]}\0{key.id[:255]}"


@caught_by("any_text_survives_where_there_is_text")
class IdsTrimmed(Intact):
    """Blanks around an entry id do not count."""

    def _known(self, key: Key, entries: Sequence[Entry]) -> dict[str, int]:
        ids = {id.strip(): number for id, number in self._shelf.ids.get(key, {}).items()}
        return {entry.id: ids[entry.id.strip()] for entry in entries if entry.id.strip() in ids}

    def _add(self, key: Key, head: int, entries: Sequence[Entry]) -> int:
        return super()._add(key, head, [structs.replace(entry, id=entry.id.strip()) for entry in entries])


@caught_by("any_bytes_survive_as_a_body")
class BodiesAsText(Intact):
    """A body is thought to be text."""

    async def write(self, act: Write) -> Row:
        return await super().write(
            structs.replace(act, row=structs.replace(act.row, body=act.row.body.decode(errors="replace").encode()))
        )


@caught_by("any_bytes_survive_as_a_body")
class BodiesTrimmed(Intact):
    """Trailing zeros are lost."""

    def _add(self, key: Key, head: int, entries: Sequence[Entry]) -> int:
        return super()._add(key, head, [structs.replace(entry, body=entry.body.rstrip(b"\0")) for entry in entries])


@caught_by("times_come_back_exactly")
class TimesInMilliseconds(Intact):
    """Times are kept as whole milliseconds."""

    async def write(self, act: Write) -> Row:
        return await super().write(
            structs.replace(act, row=structs.replace(act.row, updated_at=round(act.row.updated_at, 3)))
        )
