"""`search` and `index_text`: entries that are found by their words. Needs SEARCH."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from msgspec import structs

from ...drivers.base import (
    ENTRIES_MOST,
    Ability,
    Append,
    Driver,
    Entry,
    EntryWords,
    Erase,
    Hit,
    Hits,
    Indexed,
    IndexText,
    Key,
    Search,
    Searching,
    Term,
    Unindexed,
    Write,
    searching,
)
from ...drivers.memory import MemoryTextIndex
from ...errors import Unavailable
from .broken import Intact, caught_by
from .clauses import Clauses, clause
from .steps import ADA, BOB, changed, found, need, refused, said
from .values import NASTY

CY = Key("other", "cy")
HOUR_S = 3600.0


def able(driver: Driver) -> Searching:
    """Return *driver* as one with SEARCH, or skip the test."""
    need(driver, Ability.SEARCH)
    there = searching(driver)
    assert there is not None, "it declares SEARCH and lacks search or index_text"
    return there


async def told(driver: Driver, key: Key, *texts: str) -> None:
    """Add entries that say *texts*, whose ids they are too."""
    entries = [Entry(0, text, "user", text.encode()) for text in texts]
    await driver.append(Append(key, entries, revision=f"says {texts}", at=1.0))


def words_of(one: Unindexed) -> EntryWords:
    """Return the words of an entry that `told` has made: an hour apart, and as they are."""
    words, revision = {*one.entry.body.decode().split()}, "" if one.entry.number else one.entry.id
    return EntryWords(one.of, one.entry.number, HOUR_S * one.entry.number, words, revision)


async def index(driver: Driver, *, keep: bool | None = None) -> list[str]:
    """Put in all that is lacking, a few at a time; answers what was handed out, but rows that say nothing."""
    able_one = able(driver)
    handed: list[Unindexed] = []
    answer = await able_one.index_text(IndexText(3, keep=keep))
    while answer.entries:
        handed += answer.entries
        answer = await able_one.index_text(IndexText(3, [words_of(one) for one in answer.entries]))
        assert len(handed) < ENTRIES_MOST, "it hands out for ever"
    assert (answer.left, answer.waiting) == (0, 0), "it hands out nothing, and says that something is lacking"
    return [f"{one.key} {one.entry.body.decode()}" for one in handed if one.entry.body]


async def hits(
    driver: Driver, *words: str, tenant: str | None = "", limit: int = 100, rows: bool = False
) -> list[tuple[str, int]]:
    """Return what is found, page by page; a word that ends with * is the beginning of one."""
    terms = [Term(word.removesuffix("*"), word.endswith("*")) for word in words]
    answers: list[tuple[str, int]] = []
    act = Search(terms, limit, tenant, rows=rows)
    while True:
        page = await able(driver).search(act)
        assert len(page.hits) <= limit, "a page is longer than its limit"
        answers += [(hit.key.id, hit.number) for hit in page.hits]
        if page.place is None:
            return answers
        assert act.before is None or page.place < act.before, "the place to go on from does not move"
        act = structs.replace(act, before=page.place)


class FindingWords(Clauses):
    """What `Search` and `IndexText` promise."""

    @clause
    async def test_nothing_is_indexed_unasked(self, driver: Driver) -> None:
        """Without an index nothing is handed out and nothing found; who asks for it again gets no other one."""
        able_one = able(driver)
        await told(driver, ADA, "blue parcel")

        assert Indexed(False, []) == await able_one.index_text(IndexText(3))
        assert Hits([], None) == await able_one.search(Search([Term("blue")], 5))
        assert ["ada blue parcel"] == await index(driver, keep=True)
        assert [] == await index(driver, keep=True)
        assert [("ada", 1)] == await hits(driver, "blue")

    @clause
    async def test_words_are_found(self, driver: Driver) -> None:
        """All of them in one entry, in any order; the beginning of a word where that is asked for. A conversation comes once, by the last
        entry that has them; the newest come first, a page at a time."""
        await told(driver, ADA, "blue parcel", "red parcel", "blue parcels and bows", "a parcel that is blue")
        await told(driver, BOB, "blue", "nothing", "bluebell")
        await index(driver, keep=True)

        assert [("ada", 4)] == await hits(driver, "parcel", "blue")
        assert [("ada", 3)] == await hits(driver, "blue", "parcels*")
        assert [("ada", 4), ("bob", 3)] == await hits(driver, "blu*") == await hits(driver, "blu*", limit=1)
        assert [("ada", 4), ("bob", 1)] == await hits(driver, "blue", limit=1)
        assert [] == await hits(driver, "parcel", "bell")
        assert [] == await hits(driver, "ell")

    @clause
    async def test_tenants_are_apart(self, driver: Driver) -> None:
        """Nobody finds what is said in another tenant; without one, all is found."""
        await told(driver, ADA, "blue parcel")
        await told(driver, CY, "blue", "blue parcel")
        await index(driver, keep=True)

        assert [("ada", 1)] == await hits(driver, "blue", "par*")
        assert [("cy", 2)] == await hits(driver, "blue", tenant="other")
        assert [] == await hits(driver, "blue", tenant="third")
        assert [("ada", 1), ("cy", 2)] == sorted(await hits(driver, "parc*", tenant=None, limit=1))

    @clause
    async def test_words_are_kept_as_they_are(self, driver: Driver) -> None:
        """Of any script, and with any character: none is folded into another one."""
        able_one = able(driver)
        asked = [
            *dict.fromkeys([*NASTY, "Straße", "STRASSE", "strasse", "cafe", "café", "寿司", "%", "_", "a*", "'", '"'])
        ]
        for place in range(len(asked)):
            await told(driver, Key("", f"{place}"), "something")
        answer = await able_one.index_text(IndexText(ENTRIES_MOST, keep=True))
        words = [
            EntryWords(one.of, 1, 1.0, [asked[int(one.key.id)]]) for one in answer.entries if one.entry.number == 1
        ]
        await able_one.index_text(IndexText(0, words))

        for place, word in enumerate(asked):
            exact = await able_one.search(Search([Term(word)], 5))
            begins = await able_one.search(Search([Term(word, begins=True)], ENTRIES_MOST))
            assert [place] == [int(hit.key.id) for hit in exact.hits], word
            assert [n for n, other in enumerate(asked) if other.startswith(word)] == sorted(
                int(hit.key.id) for hit in begins.hits
            ), word

    @clause
    async def test_what_is_new_is_lacking(self, one: Driver, two: Driver) -> None:
        """Whoever writes it, to whichever conversation, and however; until its words are handed in, which may be none."""
        await told(one, ADA, "first")
        assert ["ada first"] == await index(one, keep=True)
        await told(two, ADA, "second")
        await told(two, BOB, "third")
        row, _ = await found(two, BOB)
        await two.write(Write(changed(row, "written"), row.revision, [Entry(2, "", "user", b"fourth")]))

        assert {"ada second", "bob third", "bob fourth"} == {*await index(two)}
        assert [("bob", 2)] == await hits(one, "fourth")
        await told(one, BOB, "fifth")
        lacking = (await able(one).index_text(IndexText(3))).entries
        silent = [structs.replace(words_of(one), words=()) for one in lacking]
        assert [] == (await able(two).index_text(IndexText(3, silent))).entries

    @clause
    async def test_what_is_new_hides_nothing_old(self, driver: Driver) -> None:
        """What is said while old entries are gone through, in whichever conversation, ends that for none of them."""
        able_one = able(driver)
        for name in range(9):
            await told(driver, Key("", f"{name}"), f"old {name}")
        answer = await able_one.index_text(IndexText(3, keep=True))
        await told(driver, Key("", "0"), "new a", "new b", "new c")
        await able_one.index_text(IndexText(3, [words_of(one) for one in answer.entries]))
        await index(driver)

        assert [("0", 4)] == await hits(driver, "new")
        assert [f"{name}" for name in range(9)] == sorted(name for name, _ in await hits(driver, "old"))

    @clause
    async def test_the_act_that_removes_takes_the_words(self, driver: Driver) -> None:
        """Erased, cut and blanked entries are not found from then on; the others are."""
        await told(driver, ADA, "gel one", "gel two", "gel three", "gel four")
        await told(driver, BOB, "gel bob")
        await index(driver, keep=True)
        row, _ = await found(driver, ADA)
        row = await driver.write(Write(changed(row, "blanked"), row.revision, blank=[3]))
        assert [("ada", 4), ("bob", 1)] == await hits(driver, "gel")
        assert [] == await hits(driver, "three")
        row = await driver.write(Write(changed(row, "cut"), row.revision, drop=1))
        assert [] == await hits(driver, "one")
        await driver.write(Write(changed(row, "blanked too"), row.revision, blank=[4]))
        assert [("ada", 2), ("bob", 1)] == await hits(driver, "gel")
        await driver.erase(Erase(ADA, at=2.0))
        assert [("bob", 1)] == await hits(driver, "gel")
        assert [] == await hits(driver, "t*")
        assert [] == await index(driver)

    @clause
    async def test_rows_are_found(self, driver: Driver) -> None:
        """By the words of their bodies, as entries of number 0: before all that was said, or alone. Once more handed out when the body has
        changed, and only then; found by the words of before until new ones are handed in; and erased with the conversation."""
        await told(driver, ADA, "blue parcel")
        await told(driver, BOB, "red")
        await index(driver, keep=True)
        for key, title in ((ADA, b"blue holiday"), (BOB, b"blue")):
            row, _ = await found(driver, key)
            await driver.write(Write(changed(row, f"titled {key}", body=title), row.revision))
        await told(driver, ADA, "more")
        assert {"ada blue holiday", "bob blue", "ada more"} == {*await index(driver)}
        assert [("ada", 0)] == await hits(driver, "holiday") == await hits(driver, "holi*", rows=True, limit=1)
        assert {("ada", 1), ("bob", 0)} == {*await hits(driver, "blue")}
        assert {("ada", 0), ("bob", 0)} == {*await hits(driver, "blue", rows=True)}
        row, _ = await found(driver, ADA)
        await driver.write(Write(changed(row, "renamed", body=b"weekend"), row.revision))
        assert [("ada", 0)] == await hits(driver, "holiday")
        assert ["ada weekend"] == await index(driver)
        assert [[], [("ada", 0)]] == [await hits(driver, word) for word in ("holiday", "weekend")]
        await driver.erase(Erase(ADA, at=2.0))
        assert [] == await hits(driver, "weekend")

    @clause
    async def test_words_of_a_row_of_before_are_passed_over(self, driver: Driver) -> None:
        """A row that was changed since it was handed out is handed out again."""
        await told(driver, ADA, "blue")
        row, _ = await found(driver, ADA)
        row = await driver.write(Write(changed(row, "first", body=b"holiday"), row.revision))
        able_one = able(driver)
        answer = await able_one.index_text(IndexText(9, keep=True))
        await driver.write(Write(changed(row, "second", body=b"weekend"), row.revision))
        await able_one.index_text(IndexText(0, [words_of(one) for one in answer.entries]))

        assert ["ada weekend"] == await index(driver)
        assert [[], [("ada", 0)]] == [await hits(driver, word) for word in ("holiday", "weekend")]

    @clause
    async def test_words_of_what_is_gone_are_passed_over(self, driver: Driver) -> None:
        """What was handed out may be erased, cut or blanked before its words come, or another conversation may have its name by then."""
        able_one = able(driver)
        await told(driver, ADA, "gel blanked", "gel stays")
        await told(driver, BOB, "gel erased")
        answer = await able_one.index_text(IndexText(9, keep=True))
        row, _ = await found(driver, ADA)
        await driver.write(Write(changed(row, "blanked"), row.revision, blank=[1]))
        await driver.erase(Erase(BOB, at=2.0))
        await driver.append(Append(BOB, said("new"), revision="anew", at=3.0))
        after = await able_one.index_text(IndexText(9, [words_of(one) for one in answer.entries]))

        assert [("ada", 2)] == await hits(driver, "gel")
        assert [b"new"] == [one.entry.body for one in after.entries if one.entry.number]

    @clause
    async def test_an_index_act_may_be_run_again(self, driver: Driver) -> None:
        """With the same answer, and nothing is found twice."""
        able_one = able(driver)
        await told(driver, ADA, "blue parcel", "red parcel")
        answer = await able_one.index_text(IndexText(9, keep=True))
        act = IndexText(9, [words_of(one) for one in answer.entries], keep=True)
        first, again = await able_one.index_text(act), await able_one.index_text(act)

        assert first == again
        assert [("ada", 2)] == await hits(driver, "parcel")
        assert [("ada", 1)] == await hits(driver, "blue")

    @clause
    async def test_a_removed_index_leaves_nothing(self, one: Driver, two: Driver) -> None:
        """It is gone for all; one that is made later begins anew."""
        await told(one, ADA, "blue parcel")
        await index(one, keep=True)
        assert Indexed(False, []) == await able(two).index_text(IndexText(9, keep=False))

        assert [] == await hits(one, "blue")
        await told(one, ADA, "red parcel")
        await index(two, keep=True)
        assert [("ada", 2)] == await hits(one, "parcel")
        assert [("ada", 1)] == await hits(one, "blue")

    @clause
    async def test_a_closed_driver_searches_nothing(self, driver: Driver) -> None:
        """As with every verb."""
        able_one = able(driver)
        await driver.close()

        await refused(Unavailable, able_one.search(Search([Term("a")], 1)))
        await refused(Unavailable, able_one.index_text(IndexText(1, keep=True)))


# Drivers that break these clauses


@caught_by("nothing_is_indexed_unasked")
class IndexesAtOnce(Intact):
    """The index is there from the start, and paid for by who does not want it."""

    async def index_text(self, act: IndexText) -> Indexed:
        return await super().index_text(structs.replace(act, keep=act.keep is not False))


@caught_by("nothing_is_indexed_unasked")
class MakesItAnew(Intact):
    """Whoever asks for an index that is there gets a new one."""

    async def index_text(self, act: IndexText) -> Indexed:
        if act.keep and self._shelf.text is not None:
            self._shelf.text = MemoryTextIndex([(key, row.incarnation) for key, row in self._shelf.rows.items()])
        return await super().index_text(act)


@caught_by("words_are_found")
class AnyOfTheWords(Intact):
    """It finds what has one of the words."""

    async def search(self, act: Search) -> Hits:
        pages = [await super(AnyOfTheWords, self).search(structs.replace(act, terms=[term])) for term in act.terms]
        found_by_any = {hit.place: hit for page in pages for hit in page.hits}
        return Hits(sorted(found_by_any.values(), key=lambda hit: -hit.place), None)


@caught_by("words_are_found")
class OldestFirst(Intact):
    """The order of the answer is the other one."""

    async def search(self, act: Search) -> Hits:
        answer = await super().search(act)
        return Hits(answer.hits[::-1], answer.place)


@caught_by("words_are_found")
class EveryEntryOfAConversation(Intact):
    """A conversation comes as often as it has the words."""

    async def search(self, act: Search) -> Hits:
        text = self._shelf.text
        if text is None or not act.terms:
            return await super().search(act)
        fitting = [
            Hit(key, number, place)
            for place, (key, number, words) in text.words.items()
            if act.tenant in (None, key.tenant)
            and (act.before is None or place < act.before)
            and all(
                any(word.startswith(term.text) if term.begins else word == term.text for word in words)
                for term in act.terms
            )
        ]
        fitting.sort(key=lambda hit: -hit.place)
        return Hits(fitting[: act.limit], fitting[act.limit - 1].place if len(fitting) >= act.limit else None)


@caught_by("tenants_are_apart")
class TenantsTogether(Intact):
    """The words of all tenants are in one list."""

    async def search(self, act: Search) -> Hits:
        return await super().search(structs.replace(act, tenant=None))


@caught_by("words_are_kept_as_they_are")
class FoldsCase(Intact):
    """Words are compared as a collation does."""

    async def index_text(self, act: IndexText) -> Indexed:
        words = [structs.replace(one, words={word.casefold() for word in one.words}) for one in act.words]
        return await super().index_text(structs.replace(act, words=words))

    async def search(self, act: Search) -> Hits:
        return await super().search(
            structs.replace(act, terms=[structs.replace(term, text=term.text.casefold()) for term in act.terms])
        )


@caught_by("what_is_new_is_lacking")
class ForgetsWhatIsNew(Intact):
    """Only what was there when the index was made is handed out."""

    async def index_text(self, act: IndexText) -> Indexed:
        answer = await super().index_text(act)
        text = self._shelf.text
        of = -1 if text is None else text.total
        return structs.replace(answer, entries=[one for one in answer.entries if one.of < of], waiting=0)


@caught_by("what_is_new_is_lacking")
class WithoutWordsNeverDone(Intact):
    """An entry that has no words is lacking for ever."""

    async def index_text(self, act: IndexText) -> Indexed:
        return await super().index_text(structs.replace(act, words=[one for one in act.words if one.words]))


@caught_by("what_is_new_hides_nothing_old")
class DoneFromTheLowestOn(Intact):
    """Whatever lies above the lowest entry that is handed in counts as gone through."""

    async def index_text(self, act: IndexText) -> Indexed:
        answer = await super().index_text(act)
        text = self._shelf.text
        if text is None or not act.words:
            return answer
        for key, _ in text.conversations[min(one.of for one in act.words) : text.total]:
            for number in self._shelf.logs.get(key, {}):
                text.places.setdefault((key, number), None)
        return await super().index_text(structs.replace(act, words=()))


def removing(numbers: bool) -> Any:
    """Return a `remove` that leaves words: of single entries, or of whole conversations."""

    def remove(index: MemoryTextIndex, key: Key, some: Collection[int] | None = None) -> None:
        if (some is None) == numbers:
            MemoryTextIndex.remove(index, key, some)

    return remove


@caught_by("the_act_that_removes_takes_the_words")
class BlankedWordsStay(Intact):
    """What was cut or blanked is found, until somebody goes through the index."""

    async def index_text(self, act: IndexText) -> Indexed:
        answer = await super().index_text(act)
        if (text := self._shelf.text) is not None:
            text.remove = removing(True).__get__(text)  # type: ignore[method-assign]
        return answer


@caught_by("the_act_that_removes_takes_the_words")
class ErasedWordsStay(Intact):
    """What was erased is found."""

    async def index_text(self, act: IndexText) -> Indexed:
        answer = await super().index_text(act)
        if (text := self._shelf.text) is not None:
            text.remove = removing(False).__get__(text)  # type: ignore[method-assign]
        return answer


@caught_by("rows_are_found")
class RowsOnce(Intact):
    """A row that has been changed is not handed out again."""

    async def index_text(self, act: IndexText) -> Indexed:
        answer = await super().index_text(act)
        text = self._shelf.text
        done = [one for one in answer.entries if text is not None and not one.entry.number and one.key in text.rows]
        return structs.replace(answer, entries=[one for one in answer.entries if one not in done], waiting=0)


@caught_by("words_of_a_row_of_before_are_passed_over")
class TakesWhatIsLate(Intact):
    """The words of a row are put in for whatever it has become."""

    async def index_text(self, act: IndexText) -> Indexed:
        text, words = self._shelf.text, list(act.words)
        for place, one in enumerate(words):
            row = None if text is None else self._shelf.rows.get(text.conversations[one.of][0])
            if one.number == 0 and row is not None:
                words[place] = structs.replace(one, revision=row.revision)
        return await super().index_text(structs.replace(act, words=words))


@caught_by("words_of_what_is_gone_are_passed_over")
class PutsInBlindly(Intact):
    """Words are put in for whatever has the name."""

    async def index_text(self, act: IndexText) -> Indexed:
        answer = await super().index_text(structs.replace(act, words=()))
        if (text := self._shelf.text) is None:
            return answer
        for one in act.words:
            text.put(text.conversations[one.of][0], one)
        return await super().index_text(structs.replace(act, words=()))


@caught_by("an_index_act_may_be_run_again")
class FoundTwice(Intact):
    """The same words again are other ones."""

    async def index_text(self, act: IndexText) -> Indexed:
        if (text := self._shelf.text) is not None:
            for one in act.words:
                text.places.pop((text.conversations[one.of][0], one.number), None)
        return await super().index_text(act)


@caught_by("a_removed_index_leaves_nothing")
class NeverRemoved(Intact):
    """Whoever removes the index is told so, and the words stay."""

    async def index_text(self, act: IndexText) -> Indexed:
        return Indexed(False, []) if act.keep is False else await super().index_text(act)


@caught_by("a_closed_driver_searches_nothing")
class SearchesWhenClosed(Intact):
    """What is in the index needs no store that is open."""

    async def search(self, act: Search) -> Hits:
        return Hits([], None) if not self.is_open else await super().search(act)
