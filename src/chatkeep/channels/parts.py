"""What a message is made of: one vocabulary for all channels, read from what customers send and turned into what they
see. At rest each is plain JSON, {"type": "location", ...}."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import msgspec
from msgspec import Struct

from ..errors import Unsupported
from ..model import Content
from .graphemes import is_boundary, last_boundary

LABEL = "Choose"
"""What the button says behind which choices are, when nothing else is said."""

MediaType = Literal["image", "video", "audio", "voice", "document", "sticker", "animation"]


class Text(Struct, tag_field="type", tag="text"):
    """Words."""

    text: str


class Media(Struct, kw_only=True, omit_defaults=True):
    """A file by reference: *url*, or *media*, the platform's id of it. text: what is written under it."""

    type: MediaType
    media: str = ""
    url: str = ""
    text: str = ""
    name: str = ""
    mime: str = ""
    sha256: str = ""
    size: int = 0


class Location(Struct, tag_field="type", tag="location", kw_only=True, omit_defaults=True):
    """A place."""

    latitude: float
    longitude: float
    name: str = ""
    address: str = ""


class Choice(Struct, omit_defaults=True):
    """Something to tap; *id* comes back."""

    id: str
    text: str
    description: str = ""


class Buttons(Struct, tag_field="type", tag="buttons"):
    """A few choices under a text."""

    text: str
    buttons: list[Choice]

    @property
    def rows(self) -> list[Choice]:
        """The buttons, as those of a list."""
        return self.buttons


class Section(Struct, omit_defaults=True):
    """Choices under a heading."""

    rows: list[Choice]
    title: str = ""


class Choices(Struct, tag_field="type", tag="list"):
    """Many choices, behind a button."""

    text: str
    sections: list[Section]
    button: str = LABEL

    @property
    def rows(self) -> list[Choice]:
        """The choices of all sections."""
        return [row for section in self.sections for row in section.rows]


class Template(Struct, tag_field="type", tag="template", kw_only=True, omit_defaults=True):
    """A message that the platform has approved. parameters: what its body leaves open; *components*, in the platform's
    own shape, for more. text: what to show where there are no templates."""

    name: str
    language: str = "en"
    parameters: list[str] = []
    components: list[dict[str, Any]] = []
    text: str = ""

    @property
    def fallback(self) -> Text:
        """Its text, for a channel without such templates. Raises `Unsupported` when there is none."""
        if not self.text.strip():
            raise Unsupported(
                f'This channel has no template {self.name!r}, and the part has no "text". Nothing was sent.'
            )
        return Text(self.text)


class Pressed(Struct, tag_field="type", tag="button", omit_defaults=True):
    """A choice that the customer has tapped."""

    id: str
    text: str = ""


Part = Text | Media | Location | Buttons | Choices | Template

SENDABLE: dict[Any, type[Any]] = {
    **dict.fromkeys(MediaType.__args__, Media),  # type: ignore[attr-defined]
    "text": Text,
    "location": Location,
    "buttons": Buttons,
    "list": Choices,
    "template": Template,
}


WORKING = frozenset({"reasoning", "tool_call", "tool_result"})
"""Types of parts that say how a reply came about: customers are not sent them."""


def parts_of(content: Content) -> list[Part]:
    """Return the parts to send. One of a type that is not known here is sent as its text. Raises `Unsupported`."""
    found: list[Part] = []
    for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
        kind = part.get("type", "text")
        if isinstance(kind, str) and kind in WORKING:
            continue
        if kind == "source" and "text" not in part:
            part = {"type": "text", "text": "\n".join(str(part[name]) for name in ("title", "url") if part.get(name))}
        elif kind == "file" and "text" not in part:
            name = part.get("name") or part.get("filename", "")  # (as protocols of front ends have it)
            part = {"type": "document", "url": part.get("url", ""), "name": name}
        kind = part.get("type", "text")
        try:
            if kind in SENDABLE:
                made = msgspec.convert({"type": kind, **part}, SENDABLE[kind])
            else:
                made = msgspec.convert({"text": part["text"]} if "text" in part else {}, Text)
            if isinstance(made, Media) and not (made.media or made.url):
                raise ValueError("it names no file; give it a `url`, or the platform's id of one as `media`")
            found.append(made)
        except (ValueError, TypeError) as fault:
            raise Unsupported(
                f"A part of type {kind!r} cannot be sent: {fault}. Nothing was sent; there are {', '.join(SENDABLE)}, and others "
                'are sent as their "text".'
            ) from fault
    return [part for part in found if not (isinstance(part, Text) and not part.text.strip())]


def plain(part: Struct) -> dict[str, Any]:
    """Return a part as it is kept."""
    found: dict[str, Any] = msgspec.to_builtins(part)
    return found


def in_units(text: str) -> int:
    """Return the length in UTF-16 units, as most platforms count characters."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def in_bytes(text: str) -> int:
    """Return the length in bytes of UTF-8."""
    return len(text.encode("utf-8", "surrogatepass"))


class TextLimit(Struct, frozen=True):
    """How much text goes into a place of the platform, and how it counts."""

    most: int
    measure: Callable[[str], int] = in_units

    def holds(self, text: str) -> bool:
        """Tell whether *text* goes in as it is."""
        return self.measure(text) <= self.most

    def pieces(self, text: str) -> Iterator[str]:
        """Return *text* in pieces that go in, cut where a paragraph, a line or a word ends if there is such a place, else between two
        visible symbols; a symbol is cut only where it alone is too long."""
        while not self.holds(text):
            piece = text[: self.most]
            while not self.holds(piece):
                piece = piece[: min(len(piece) - 1, len(piece) * self.most // self.measure(piece))]
            ends = (_last(mark, piece, text) for mark in ("\n\n", "\n", " "))
            cut = (
                next((end for end in ends if end > len(piece) // 4), 0) or last_boundary(text, len(piece)) or len(piece)
            )
            if text[:cut].strip():
                yield text[:cut].rstrip()
            text = text[cut:].lstrip()
        if text.strip():
            yield text

    def short(self, text: str) -> str:
        """Return *text*, cut with an ellipsis if it does not go in."""
        return text if self.holds(text) else next(TextLimit(self.most - 3, self.measure).pieces(text), "") + "…"


class Tappable(Struct, frozen=True):
    """Which choices a platform takes as something to tap. strict: ids have to differ, with no spaces around them."""

    most: int
    title: TextLimit
    id: TextLimit
    strict: bool

    def takes(self, choices: list[Choice]) -> bool:
        """Tell whether all of them can be tapped, and told from each other as they are shown."""
        titles = {self.title.short(one.text) for one in choices}
        ids = {one.id for one in choices}
        whole = all(one.text.strip() and one.id and self.id.holds(one.id) for one in choices)
        exact = len(ids) == len(choices) and all(id == id.strip() for id in ids)
        return whole and 0 < len(choices) <= self.most and len(titles) == len(choices) and (exact or not self.strict)


def _last(mark: str, piece: str, text: str) -> int:
    """Return the last place of *mark* in *piece*, with which *text* begins, where no symbol goes on behind it; -1 for none."""
    end = piece.rfind(mark)
    while end > 0 and not is_boundary(text, end + len(mark)):
        end = piece.rfind(mark, 0, end)
    return end


def numbered(text: str, choices: list[Choice]) -> str:
    """Return the choices as text, for where there is nothing to tap."""
    lines = [f"{number}. {choice.text.strip() or choice.id}" for number, choice in enumerate(choices, 1)]
    return "\n".join([text, *lines]).strip()


def where(place: Location) -> str:
    """Return a place as text, with a link to a map."""
    link = f"https://www.openstreetmap.org/?mlat={place.latitude}&mlon={place.longitude}"
    return "\n".join(line for line in (place.name, place.address, link) if line)
