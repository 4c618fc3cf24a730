"""The addresses of what browsers show: the chat page, the widget for other sites, the logo and the files of the operators' desk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from .access import allows
from .appearance import Appearance
from .assets import CLIENT, OPERATOR, PAGE, SHOWN, WIDGET, static, static_bytes, version_of
from .guards import HEADERS

ABOUT = (
    "This is the HTTP API of a chatbot, served by chatkeep. /openapi.json describes it; /operator is the page for operators. There is no "
    "chat page here: it needs a title (`title`, CHATKEEP_TITLE).\n"
)


def page_routes(look: Appearance, *, has_page: bool, sample_users: Sequence[str], offline: bool) -> list[BaseRoute]:
    """Return the routes of all files. *has_page*: the chat page is among them, else / says what is here instead; *offline*: it keeps itself
    in the browser."""
    words = look.words | {"users": " ".join(sample_users), "offline": "yes" if offline else ""}
    words["kept"] = version_of(words, look.logo) if offline and has_page else ""
    shown = CLIENT | SHOWN | OPERATOR | (PAGE if has_page else {})
    return [
        *([] if has_page else [Route("/", get_about)]),
        *[Route(path, static(*found, words, page_headers(look, path))) for path, found in shown.items()],
        *(framed_routes(look, words) if has_page else []),
    ]


def page_headers(look: Appearance, path: str) -> dict[str, str]:
    """Return what a file of the page says besides HEADERS, or instead of them: the chat page may load more pictures."""
    return HEADERS | {"content-security-policy": look.policy()} if path == "/" and look.pictures else {}


def framed_routes(look: Appearance, words: Mapping[str, str]) -> list[BaseRoute]:
    """Return the routes of the widget, where sites are named that may show it, and that of the logo."""
    routes: list[BaseRoute] = []
    if look.logo is not None:
        routes.append(Route("/logo", static_bytes(*look.logo)))
    if look.frame_ancestors:
        inside = {**words, "frame": " ".join(look.frame_ancestors), "autofocus": "", "offline": "", "users": ""}
        headers = {name: value for name, value in HEADERS.items() if name != "x-frame-options"}
        headers["content-security-policy"] = look.policy(look.frame_ancestors)
        headers["cross-origin-resource-policy"] = "cross-origin"
        routes += [Route(path, static(*found, inside, headers)) for path, found in WIDGET.items()]
    return routes


@allows(anyone=True)
async def get_about(request: Request) -> Response:
    """Say what is here, where there is no page."""
    return Response(ABOUT, media_type="text/plain")
