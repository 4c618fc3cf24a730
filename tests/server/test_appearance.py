"""How the chat page looks and whom it lets in: by arguments, and by the settings of `chatkeep serve`."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatkeep import Chatkeep
from chatkeep.errors import Misconfigured
from chatkeep.server import create_app
from chatkeep.server.appearance import READABLE, appearance_of, contrast, palettes
from chatkeep.server.settings import server_settings_from

from ..support.serving import served

COLOR = st.integers(0, 0xFFFFFF).map(lambda number: f"#{number:06x}")


@given(accent=COLOR, dark=st.none() | COLOR)
def test_whatever_the_accent_is_text_can_be_read(accent: str, dark: str | None) -> None:
    """On it, and in it on every ground of the page, light and dark."""
    look = appearance_of(title="Chat", colors={"accent": accent} | ({"dark-accent": dark} if dark else {}))
    for default, chosen in zip(palettes(), (look.light, look.dark), strict=True):
        colors = default | dict(chosen)
        pairs = [("on-accent", "accent"), ("on-accent-faint", "accent")]
        pairs += [(text, ground) for text in ("accent-text", "faint", "ink") for ground in ("paper", "bar", "card")]

        assert {} == {pair: seen for pair in pairs if (seen := contrast(*(colors[name] for name in pair))) < READABLE}


def test_the_page_s_own_colors_can_be_read() -> None:
    """Light and dark, as the style sheet has them."""
    for colors in palettes():
        assert {"paper", "bar", "card", "ink", "faint", "accent", "accent-text", "on-accent"} <= set(colors)
        for text in ("ink", "faint", "accent-text"):
            assert min(contrast(colors[text], colors[ground]) for ground in ("paper", "bar", "card")) >= READABLE, text
        assert contrast(colors["on-accent"], colors["accent"]) >= READABLE


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"colors": {"accent": "red"}}, 'accent is like "#0b5fff"'),
        ({"colors": {"accent": "#0b5fff;}"}}, 'accent is like "#0b5fff"'),
        ({"colors": {"akzent": "#0b5fff"}}, "there are: accent, paper"),
        ({"colors": {"ink": "#999999"}}, "ink #999999 on card #ffffff has a contrast of 2.8"),
        ({"colors": {"dark-paper": "#eeeeee"}}, "dark-ink #f0ebe6 on dark-paper #eeeeee"),
        ({"frame_ancestors": ["*"]}, '"*" is not taken'),
        ({"frame_ancestors": ["https://*"]}, '"*" is not taken'),
        ({"frame_ancestors": ["https://*.com"]}, "a site is like"),
        ({"frame_ancestors": ["shop.example"]}, "a site is like"),
        ({"frame_ancestors": ["https://shop.example; script-src *"]}, "a site is like"),
        ({"pictures": ["https://cdn.example/path"]}, "an origin is like"),
        ({"pictures": ["https://*.example"]}, "an origin is like"),
        ({"logo": "nothing.svg"}, "cannot be read"),
        ({"logo": "logo.html"}, "is none of .svg"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(wrong: dict[str, object], said: str) -> None:
    """As an argument, and as a setting, each in words."""
    with pytest.raises(Misconfigured, match=r"othing was started") as fault:
        create_app(Chatkeep("memory://"), title="Chat", **wrong)  # type: ignore[arg-type]
    assert said in str(fault.value)
    settings = {
        name: [f"{color}={value[color]}" for color in value] if isinstance(value, dict) else value
        for name, value in wrong.items()
    }
    with pytest.raises(Misconfigured) as fault:
        server_settings_from(settings)
    assert said in str(fault.value)


def test_a_color_of_the_settings_has_a_name() -> None:
    """Else it is told what one is like."""
    with pytest.raises(Misconfigured, match="accent=#0b5fff"):
        server_settings_from({"colors": ["#0b5fff"]})


async def test_nobody_frames_the_page_unless_sites_are_named() -> None:
    """Without the setting there is no widget."""
    async with served(Chatkeep("memory://"), title="Chat") as client:
        page = await client.ask("GET", "/")

        assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
        assert "DENY" == page.headers["x-frame-options"]
        assert [404] * 4 == [
            (await client.ask("GET", path)).status for path in ("/widget", "/widget.js", "/frame.js", "/logo")
        ]


async def test_named_sites_may_frame_the_widget_alone(tmp_path: Path) -> None:
    """With the logo, colors and pictures that were chosen; every other page is framed by nobody."""
    (tmp_path / "logo.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    look = {
        "logo": tmp_path / "logo.svg",
        "colors": {"accent": "#0b5fff"},
        "pictures": ["https://cdn.example"],
        "starters": ['"Hi" & <b>'],
        "frame_ancestors": ["https://shop.example", "https://*.shop.example"],
    }
    async with served(Chatkeep("memory://"), title="Chat <1>", **look) as client:
        widget, script, page, desk, sheet, logo = [
            await client.ask("GET", path) for path in ("/widget", "/widget.js", "/", "/operator", "/chat.css", "/logo")
        ]

        assert (
            "frame-ancestors https://shop.example https://*.shop.example" in widget.headers["content-security-policy"]
        )
        assert "x-frame-options" not in widget.headers
        assert "cross-origin" == script.headers["cross-origin-resource-policy"]
        for shown in (page, widget):
            assert "img-src 'self' https://cdn.example;" in shown.headers["content-security-policy"]
            assert "nosniff" == shown.headers["x-content-type-options"]
            assert b'data-starters="[&quot;\\&quot;Hi\\&quot; &amp; &lt;b&gt;&quot;]"' in shown.body
            assert b"<title>Chat &lt;1&gt;</title>" in shown.body
            assert b'<img src="logo"' in shown.body
        for shown in (page, desk):
            assert "frame-ancestors 'none'" in shown.headers["content-security-policy"]
            assert "DENY" == shown.headers["x-frame-options"]
        assert b"--accent:#0b5fff;" in sheet.body
        assert b"#0b5fff" in script.body
        assert b"{{" not in sheet.body + script.body + page.body
        assert "image/svg+xml" == logo.headers["content-type"]
        assert "default-src 'none'" in logo.headers["content-security-policy"]
