"""Where one visible symbol ends and the next begins, so that a long text is never cut within a flag, a family or an accent.

These are the rules of Unicode's annex 29 (extended grapheme clusters), made stricter where its property tables would be needed:
nothing is cut behind any joiner or virama. A place that is kept whole without need costs nothing, as a text is cut at the one before.
"""

from __future__ import annotations

from unicodedata import category, combining

ZWNJ, ZWJ = "\u200c", "\u200d"
VIRAMA = 9
"""The combining class of what joins two consonants of an Indic script into one symbol."""


def last_boundary(text: str, at: int) -> int:
    """Return the last place up to *at* where *text* can be cut; 0 when there is none."""
    while 0 < at < len(text) and not is_boundary(text, at):
        at -= 1
    return at


def is_boundary(text: str, at: int) -> bool:
    """Tell whether *text* can be cut before its character *at* without cutting a symbol."""
    if at <= 0 or at >= len(text):
        return True
    before, after = text[at - 1], text[at]
    if before < "\u0300" and after < "\u0300":
        return before != "\r" or after != "\n"
    if _extends(after) or before == ZWJ or combining(before) == VIRAMA or _precedes(before):
        return False
    if _is_flag_letter(before) and _is_flag_letter(after):
        begin = at
        while begin > 0 and _is_flag_letter(text[begin - 1]):
            begin -= 1
        return (at - begin) % 2 == 0  # two letters are one flag
    return not _in_one_syllable(before, after)


def _extends(one: str) -> bool:
    """Tell whether it belongs to what is before it: marks, joiners, selectors, skin tones, tags, half-width sound marks."""
    return (
        one in (ZWNJ, ZWJ)
        or category(one) in ("Mn", "Me", "Mc")
        or "\U0001f3fb" <= one <= "\U0001f3ff"
        or "\U000e0020" <= one <= "\U000e007f"
        or one in "\uff9e\uff9f\u0e33\u0eb3"
    )


def _precedes(one: str) -> bool:
    """Tell whether it belongs to what is behind it: the signs that Arabic and its neighbours write around a number."""
    return "\u0600" <= one <= "\u0605" or one in "\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"


def _is_flag_letter(one: str) -> bool:
    return "\U0001f1e6" <= one <= "\U0001f1ff"


_HANGUL = {
    "lead": (("\u1100", "\u115f"), ("\ua960", "\ua97c")),
    "vowel": (("\u1160", "\u11a7"), ("\ud7b0", "\ud7c6")),
    "tail": (("\u11a8", "\u11ff"), ("\ud7cb", "\ud7fb")),
    "syllable": (("\uac00", "\ud7a3"),),
}
_TOGETHER = {
    "lead": ("lead", "vowel", "syllable"),
    "vowel": ("vowel", "tail"),
    "tail": ("tail",),
    "syllable": ("vowel", "tail"),
}
"""Which letters of Hangul go on a syllable that another one has begun."""


def _hangul(one: str) -> str:
    return next((kind for kind, ranges in _HANGUL.items() if any(low <= one <= high for low, high in ranges)), "")


def _in_one_syllable(before: str, after: str) -> bool:
    return _hangul(after) in _TOGETHER.get(_hangul(before), ())
