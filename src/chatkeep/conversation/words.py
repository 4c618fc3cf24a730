"""Words, as the full-text index has them: of what was said, and of what is searched for, brought into the same form.

Upper and lower case, accents, and full and half width are alike. A word is a run of letters and digits. Scripts that put no space
between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese) are cut into pairs of neighbouring characters, so that any part is found
without a dictionary.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache, lru_cache
from unicodedata import category, combining, normalize

from ..drivers.base import EntryWords, Term, Unindexed
from ..errors import Corrupt, Unsupported
from ..model import IDENTITY, WORDS_MOST, Message
from .codec import message_from, record_from
from .keys import RESERVED, SAVED
from .marks import FAILING, marks_of_message, marks_of_record

LONGEST = 40
"""Of a longer word, such as a token, so many characters are compared."""

WORDS_OF_MESSAGE = 1000
TERMS = 16
"""So many words of one message, and of one search, are looked at."""

READ = WORDS_OF_MESSAGE * LONGEST
"""So many characters of one text are looked at for words, and of what they become as well: one letter of Arabic stands for eighteen."""

PIECE = 1000
"""So many characters are compared with what they have become, to find a place."""

MARKS_IN_A_ROW = 30
"""So many accents and the like behind one letter are looked at, as Unicode's annex 15 has it: to put a row of them in order takes the
square of its length."""

_ASCII_WORDS = re.compile(r"[a-z0-9]+").findall
_ACCENTS = "[\u0300-\u036f]"
_SPACELESS = "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+)"

_compiled = cache(re.compile)
"""Compiles an expression at its first use: these take milliseconds, and only texts that are not ASCII need them."""


def words_in(text: str) -> list[str]:
    """Return the words of a text for the index, each once."""
    found: dict[str, None] = {}
    for run, is_spaceless in _runs(text):
        if is_spaceless:  # the last character stands alone, for whoever searches for one
            found |= dict.fromkeys(run[place : place + 2] for place in range(len(run)))
        else:
            found[run[:LONGEST]] = None
        if len(found) >= WORDS_OF_MESSAGE:
            break
    return list(found)[:WORDS_OF_MESSAGE]


def terms_in(text: str) -> list[Term]:
    """Return what is to be found for a text that somebody searches for: each word, and of the last one, which may still be typed, what
    begins like that."""
    found: dict[Term, None] = {}
    runs = _runs(text)
    for place, (run, is_spaceless) in enumerate(runs, 1):
        if is_spaceless and len(run) > 1:
            found |= dict.fromkeys(Term(run[at : at + 2]) for at in range(len(run) - 1))
        elif is_spaceless:
            found[Term(run, begins=True)] = None
        else:
            found[Term(run[:LONGEST], begins=place == len(runs) and 1 < len(run) < LONGEST)] = None
    return list(found)[:TERMS]


def has_words(text: str, terms: Sequence[Term]) -> bool:
    """Tell whether a text has each of *terms*, of which there is one at least."""
    words = words_in(text)
    return bool(terms) and all(
        term.text in words or (term.begins and any(word.startswith(term.text) for word in words)) for term in terms
    )


def fold(text: str) -> str:
    """Return the form of a text that all have in common which differ by case, accents or width."""
    text = text.casefold()
    if text.isascii():
        return text
    return normalize("NFC", _compiled(_ACCENTS).sub("", normalize("NFKD", _with_short_rows(text)))).casefold()


def _with_short_rows(text: str) -> str:
    """Return *text* without the marks in it that are more than MARKS_IN_A_ROW in a row."""
    if not any(map(_is_mark, text)):
        return text
    kept, row = [], 0
    for character in text:
        row = row + 1 if _is_mark(character) else 0
        if row <= MARKS_IN_A_ROW:
            kept.append(character)
    return "".join(kept)


def find_in(text: str, searched: str) -> tuple[int, int]:
    """Return where in *text* stands what is searched for, from and to: as a whole, or else the first word of it that is there; (0, 0) where
    none is."""
    pieces = [text[at : at + PIECE] for at in range(0, len(text), PIECE)]
    forms = [fold(piece) for piece in pieces]
    folded = "".join(forms)
    for wanted in (fold(searched.strip()), *(run for run, _ in _runs(searched))):
        if wanted and (at := folded.find(wanted)) >= 0:
            return _place_of(at, pieces, forms), _place_of(at + len(wanted) - 1, pieces, forms) + 1
    return 0, 0


def _place_of(at: int, pieces: Sequence[str], forms: Sequence[str]) -> int:
    """Return the place in the text, which is *pieces*, of the character that has become the one *at* in their *forms*."""
    place = 0
    for piece, form in zip(pieces, forms, strict=True):
        if at < len(form):
            for character in piece:
                at -= len(fold(character))
                if at < 0:
                    break
                place += 1
            break
        at -= len(form)
        place += len(piece)
    return place


def name_in(message: Message) -> str:
    """Return the customer's name, as a channel or the application has told it; what was saved was said by the customer alone."""
    if message.channel == SAVED:
        return ""
    found = message.metadata.get("name") or message.metadata.get("username") or ""
    return found[:WORDS_MOST] if isinstance(found, str) else ""


def customer_in(message: Message) -> str:
    """Return all that a channel or the application has told of the customer: the name, and what else somebody may look for, such as the
    phone number of a conversation that is named by a user id."""
    if message.channel == SAVED:
        return ""
    told = [message.metadata.get(name) for name in IDENTITY]
    return " ".join(one[:WORDS_MOST] for one in told if isinstance(one, str))


def shown_of(message: Message, searched: str) -> str:
    """Return the text in which what is searched for is shown: what was said, or what is known of the customer where only that has it."""
    customer = customer_in(message)
    return customer if find_in(message.text, searched) == (0, 0) != find_in(customer, searched) else message.text


def entry_words(one: Unindexed) -> EntryWords:
    """Return the words of an entry that a driver has handed out: what was said, and who said it; of a row, its id and
    title; and the marks of either. Chatkeep's own notes have no words, nor has what cannot be read."""
    if one.key.tenant.startswith(RESERVED):
        return EntryWords(one.of, one.entry.number, 0.0, (), one.entry.id)
    if one.entry.number == 0:
        return row_words(one)
    try:
        message = message_from(one.key, "", one.entry)
    except Corrupt:
        return EntryWords(one.of, one.entry.number, 0.0, ())
    said = "" if message.role == "system" else f"{message.text}\n{customer_in(message)}"
    return EntryWords(one.of, one.entry.number, message.created_at, words_in(said) + marks_of_message(message))


def row_words(one: Unindexed) -> EntryWords:
    """Return the words of a row that a driver has handed out."""
    try:
        record = record_from(one.key, one.entry.body)
    except (Corrupt, Unsupported):
        return EntryWords(one.of, 0, 0.0, [*words_in(one.key.id), FAILING], one.entry.id)
    words = words_in(called(one.key.id, record.title))
    return EntryWords(one.of, 0, 0.0, words + marks_of_record(record), one.entry.id)


def called(id: str, title: str) -> str:
    """Return how a conversation is called, for its words."""
    return f"{title}\n{id}"


def _runs(text: str) -> list[tuple[str, bool]]:
    """Return the words of a text, and whether each is of a script without spaces."""
    text = fold(text[:READ])[:READ]
    if text.isascii():
        return [(word, False) for word in _ASCII_WORDS(text)]
    words = "".join([one if _is_in_word(one) else " " for one in text]).split()
    return [
        (run, place % 2 == 1) for word in words for place, run in enumerate(_compiled(_SPACELESS).split(word)) if run
    ]


@lru_cache(maxsize=8192)
def _is_mark(character: str) -> bool:
    """Tell whether a character becomes marks alone. Some are no marks themselves, such as a vowel of Tibetan that is written as two."""
    return combining(normalize("NFKD", character)[0]) > 0


@lru_cache(maxsize=8192)
def _is_in_word(character: str) -> bool:
    return character.isalnum() or category(character)[0] == "M"
