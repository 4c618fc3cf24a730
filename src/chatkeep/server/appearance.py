"""How the chat page looks, and what of other sites it lets in: readable colors, a logo, pictures, and who may show it in a frame."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

from msgspec import Struct

from ..errors import Misconfigured

NAMES = ("accent", "paper", "bar", "card", "ink", "line")
"""The colors that may be given, and each again for dark mode as "dark-accent" and so on; all others are made of them."""

READABLE = 4.5
"""Contrast of text, as WCAG 2 asks for at level AA."""

LOGOS = {
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webp": "image/webp",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
}
LOGO_LIMIT = 262_144

COLOR = re.compile(r"#[0-9a-fA-F]{6}")

Palette = dict[str, str]


class Appearance(Struct, frozen=True, kw_only=True):
    """What a site has chosen for its chat page; checked by `appearance_of`."""

    title: str = ""
    starters: tuple[str, ...] = ()
    light: Mapping[str, str] = {}
    dark: Mapping[str, str] = {}
    logo: tuple[bytes, str] | None = None
    pictures: tuple[str, ...] = ()
    frame_ancestors: tuple[str, ...] = ()

    @property
    def css(self) -> str:
        """The rules that put the colors in; "" where the page's own are kept."""
        light, dark = (
            "".join(f"--{name}:{value};" for name, value in colors.items()) for colors in (self.light, self.dark)
        )
        return f":root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}" if light else ""

    @property
    def words(self) -> dict[str, str]:
        """What is put into the files of the page."""
        light, dark = ({**default, **given} for default, given in zip(palettes(), (self.light, self.dark), strict=True))
        return {
            "title": self.title,
            "starters": json.dumps(self.starters) if self.starters else "",
            "pictures": " ".join(self.pictures),
            "logo": "logo" if self.logo else "chat.svg",
            "theme": self.css,
            "frame": "",
            "autofocus": "autofocus",
            **{name: light[name] for name in ("bar", "accent", "on-accent", "accent-hover")},
            **{f"dark-{name}": dark[name] for name in ("bar", "accent", "on-accent", "accent-hover")},
        }

    def policy(self, ancestors: Sequence[str] = ()) -> str:
        """Return the Content-Security-Policy of a page: its own scripts alone, pictures from where they may come, and who may frame it."""
        pictures = " ".join(("'self'", *self.pictures))
        return (
            f"default-src 'none'; script-src 'self'; style-src 'self'; img-src {pictures}; connect-src 'self'; base-uri 'none'; "
            f"form-action 'none'; frame-ancestors {' '.join(ancestors) or chr(39) + 'none' + chr(39)}"
        )


def appearance_of(
    *,
    title: str | None,
    starters: Sequence[str] = (),
    colors: Mapping[str, str] | None = None,
    logo: str | Path | None = None,
    pictures: Sequence[str] = (),
    frame_ancestors: Sequence[str] = (),
) -> Appearance:
    """Return the appearance of the chat page. Raises `Misconfigured` for what cannot be read, could not be shown, or lets in anybody."""
    faults = [
        *(
            f'pictures has "{origin}"; an origin is like "https://cdn.example"'
            for origin in pictures
            if not is_origin(origin)
        ),
        *(
            f'frame_ancestors has "{site}"; a site is like "https://shop.example" or "https://*.shop.example", and "*" is not taken'
            for site in frame_ancestors
            if not is_origin(site, wildcard=True)
        ),
        *color_faults(colors or {}),
    ]
    if faults:
        raise Misconfigured("; ".join(faults) + ". Nothing was started.")
    light, dark = painted(colors or {})
    return Appearance(
        title=title or "",
        starters=tuple(starters),
        light=light,
        dark=dark,
        logo=read_logo(Path(logo)) if logo else None,
        pictures=tuple(pictures),
        frame_ancestors=tuple(frame_ancestors),
    )


def is_origin(text: str, *, wildcard: bool = False) -> bool:
    """Tell whether *text* is the origin of a page; *wildcard*: or "https://*.example.com", all under a name."""
    host = r"[a-z0-9._-]+|\[[0-9a-f:]+\]" + (r"|\*(\.[a-z0-9-]+){2,}" if wildcard else "")
    return re.fullmatch(rf"https?://({host})(:[0-9]+)?", text) is not None


def read_logo(path: Path) -> tuple[bytes, str]:
    """Return a picture and its media type. Raises `Misconfigured`."""
    kind = LOGOS.get(path.suffix.lower())
    if kind is None:
        raise Misconfigured(f'logo "{path}" is none of {", ".join(LOGOS)}; nothing was started.')
    try:
        picture = path.read_bytes()
    except OSError as fault:
        raise Misconfigured(f'logo "{path}" cannot be read ({fault.strerror}); nothing was started.') from fault
    if len(picture) > LOGO_LIMIT:
        raise Misconfigured(f'logo "{path}" has more than {LOGO_LIMIT:,} bytes; nothing was started.')
    return picture, kind


# -- colors -------------------------------------------------------------------------------------------------------------


@cache
def palettes() -> tuple[Palette, Palette]:
    """Return the colors of the page itself, light and dark, as its style sheet has them."""
    found = re.findall(r":root \{(.*?)\}", (files(__package__) / "page" / "chat.css").read_text("utf-8"), re.S)
    light, dark = (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", rules)) for rules in found[:2])
    return light, dark


def color_faults(colors: Mapping[str, str]) -> list[str]:
    """Return what is wrong with the colors of a site: names, values, and text that nobody could read."""
    known = (*NAMES, *(f"dark-{name}" for name in NAMES))
    faults = [f'colors has no "{name}"; there are: {", ".join(known)}' for name in colors if name not in known]
    faults += [
        f'colors: {name} is like "#0b5fff", not {value!r}'
        for name, value in colors.items()
        if not (isinstance(value, str) and COLOR.fullmatch(value))
    ]
    if faults:
        return faults
    for default, prefix in zip(palettes(), ("", "dark-"), strict=True):
        palette = default | given_for(prefix, colors)
        for ground in ("paper", "bar", "card"):
            seen = contrast(palette["ink"], palette[ground])
            if seen < READABLE:
                faults.append(
                    f"colors: {prefix}ink {palette['ink']} on {prefix}{ground} {palette[ground]} has a contrast of {seen:.1f}, and "
                    f"text takes {READABLE}"
                )
    return faults


def given_for(prefix: str, colors: Mapping[str, str]) -> Palette:
    """Return those of *colors* that are for light or dark mode; without an accent for dark mode, that of light mode."""
    found = {name: colors[f"{prefix}{name}"] for name in NAMES if f"{prefix}{name}" in colors}
    return found if "accent" in found or "accent" not in colors else found | {"accent": colors["accent"]}


def painted(colors: Mapping[str, str]) -> tuple[Palette, Palette]:
    """Return the colors that differ from the page's own, light and dark, with those that are made of what a site has given."""
    light, dark = (
        painted_over(default, given_for(prefix, colors))
        for default, prefix in zip(palettes(), ("", "dark-"), strict=True)
    )
    return light, dark


def painted_over(default: Palette, given: Palette) -> Palette:
    """Return *given* and what follows from it: text that can be read on every ground it stands on."""
    if not given:
        return {}
    palette = default | given
    grounds = [palette[name] for name in ("paper", "bar", "card")]
    made = {"faint": readable(palette["faint"], palette["ink"], grounds)}
    made["accent-text"] = readable(palette["accent"], palette["ink"], grounds)
    if "accent" in given:
        on = max("#ffffff", "#000000", key=lambda color: contrast(color, palette["accent"]))
        made |= {"on-accent": on, "on-accent-faint": on}
        made["accent-hover"] = mixed(palette["accent"], "#000000" if on == "#ffffff" else "#ffffff", 0.15)
    return given | made


def readable(color: str, goal: str, grounds: Sequence[str]) -> str:
    """Return *color*, moved towards *goal* as far as it must be to be read on all *grounds*."""
    for step in range(21):
        moved = mixed(color, goal, step / 20)
        if all(contrast(moved, ground) >= READABLE for ground in grounds):
            break
    return moved


def channels(color: str) -> tuple[int, int, int]:
    """Return red, green and blue of a color."""
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def mixed(one: str, other: str, share: float) -> str:
    """Return *one* with a *share* of *other*."""
    return "#" + "".join(
        f"{round(a + (b - a) * share):02x}" for a, b in zip(channels(one), channels(other), strict=True)
    )


def luminance(color: str) -> float:
    """Return the relative luminance of a color, as WCAG 2 defines it."""
    shares = [value / 255 for value in channels(color)]
    red, green, blue = (share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colors: 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
