"""What is personal is hidden from who may not see it, also what nobody has thought of."""

from __future__ import annotations

import time

from chatkeep.server.masking import Masker, mask_text

SAID = {
    "call +49 (151) 1234-5678 or 12.34.56": "call ••• or •••",
    "order 4711, table 12": "order 4711, table 12",
    "a.b+c@mail.example, please": "••• please",
    "<a@b.example>": "<•••>",
    "see https://ada.example/x?y=1 and www.ada.example": "see ••• and •••",
    "٠١٢٣٤٥٦": "•••",
    "+49\u2011171\u2011123\u201145 or (0171) - 123 45": "••• or (•••",
    "4111 \u2013 1111 \u2013 1111, 4\ufe0f\u20e31\ufe0f\u20e31\ufe0f\u20e31\ufe0f\u20e31": "•••, •••",
    "4\u200b7\u200b1\u200b1\u200b9, ada\uff20mail.example": "•••, •••",
    "\uff10\uff19\uff10\uff0d\uff11\uff12\uff13\uff14\uff0d\uff15\uff16\uff17\uff18": "•••",
    "\uff08\uff10\uff13\uff091234\u30fc5678": "\uff08•••",
    "\uff0b\uff18\uff11\u30fb\uff19\uff10\uff0f\uff11\uff12\uff13\uff14\uff0e\uff15\uff16\uff17\uff18": "•••",
    "0171 \u2022 123 \u2022 45, 4\u0336 1\u0336 1\u0336 1\u0336 9\u0336": "•••, •••\u0336",
    "4\u31641\U000e00201\ufe001\u206a9, ada\ufe6bmail.example": "•••, •••",
    "sizes 36, 37 and 38": "sizes 36, 37 and 38",
}


def test_what_is_personal_is_found_in_what_was_said() -> None:
    """Numbers and addresses, however they are written; and no text holds up the server."""
    began = time.perf_counter()
    for hard in (
        "a" * 1_000_000,
        "a@" * 300_000,
        "1 2 3 4 x" * 100_000,
        "@" * 500_000,
        "1-" * 300_000,
        "www." * 200_000,
        ("1" + "\u200b" * 1000) * 300 + "1\u200b1x" * 100_000,
        "1" + "\u0301" * 500_000,
        "1\u0301--\u0301" * 100_000,
    ):
        mask_text(hard)

    assert SAID == {said: mask_text(said) for said in SAID}
    assert time.perf_counter() - began < 5


def test_what_nobody_has_thought_of_is_hidden() -> None:
    """A member of another name, a place, what an application keeps; a handle is of one store and one tenant."""
    masker, other = Masker("an epoch"), Masker("another")
    answer = {
        "id": "49151",
        "status": "ok",
        "brand_new": "49151",
        "content": [{"type": "location", "latitude": 52.5, "name": "home"}, "x"],
        "metadata": {"49151234567": 4915123456, "few": 7, "name": "Ada", "yes": True},
        "number": 12_345_678,
    }
    shown = masker.mask(answer, tenant="salon", conversation="49151")
    handle = shown.pop("id")

    assert {
        "status": "ok",
        "brand_new": "•••",
        "content": [{"type": "location", "latitude": "•••", "name": "•••"}, "•••"],
        "metadata": {"•••": "•••", "few": 7, "name": "•••", "yes": True},
        "number": 12_345_678,
    } == shown
    assert ("49151", None, None, None) == (
        masker.unseal("salon", handle),
        masker.unseal("pizza", handle),
        other.unseal("salon", handle),
        masker.unseal("salon", "~m.AAAA"),
    )
