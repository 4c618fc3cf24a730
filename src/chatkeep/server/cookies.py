"""Tokens in cookies: which of a browser's are meant, where they are put, and that only pages of this host use them."""

from __future__ import annotations

import hashlib

from starlette.requests import Request
from starlette.responses import Response

from ..auth.credentials import Issued
from .refusals import forbidden

COOKIE = "__Host-chatkeep"
"""Holds the token of the browser's own chat; what was shared with it is in cookies of their own, whose names begin like that."""

SHARED_MOST = 20
"""Shared chats that one browser keeps in cookies: all of them travel with each request."""

ELSEWHERE = (
    "This request does not come from a page of this host, as `Sec-Fetch-Site` or `Origin` would say; nothing was done. A program sends a "
    "service key instead: `Authorization: Bearer ck_k_...`."
)


def cookies_in(request: Request) -> list[tuple[str, str]]:
    """Return the names and texts of the cookies with tokens that a browser sends, oldest first."""
    pairs = [pair.strip().partition("=") for line in request.headers.getlist("cookie") for pair in line.split(";")]
    return [(name, text) for name, _, text in pairs if name.startswith(COOKIE)]


def cookies_of(request: Request, conversation: str | None) -> list[tuple[str, str]]:
    """Return the names and texts of the cookies that may be meant, where *conversation* is asked for: those of that shared chat, then the
    browser's own. What is there twice is not there."""
    found = cookies_in(request)
    names = [name for name, _ in found]
    if any(name != COOKIE for name in names):
        conversation = conversation or request.query_params.get("conversation")
    prefix = f"{COOKIE}-{mark(conversation)}-" if conversation else ""
    own = [pair for pair in found if pair[0] == COOKIE]
    shared = [pair for pair in found if prefix and pair[0].startswith(prefix)]
    return [pair for pair in shared + own if names.count(pair[0]) == 1]


def mark(text: str) -> str:
    """Return *text* as a part of a cookie's name."""
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).hexdigest()


def shared_cookie(tenant: str, conversation: str) -> str:
    """Return the name of the cookie for a conversation that somebody else has shared: it takes no other one's place."""
    return f"{COOKIE}-{mark(conversation)}-{mark(tenant)}"


def holds_many(request: Request) -> bool:
    """Tell whether the browser keeps as many shared chats as it may."""
    return sum(line.count(f"{COOKIE}-") for line in request.headers.getlist("cookie")) >= SHARED_MOST


def same_origin(request: Request) -> bool:
    """Tell whether a browser says that a page of this very host sent *request*."""
    sites, origins = request.headers.getlist("sec-fetch-site"), request.headers.getlist("origin")
    if sites:
        return sites == ["same-origin"]
    host = request.headers.get("host", "").lower()
    # (Compared as text: what is no address at all is not this host either, and cannot be taken apart.)
    return len(origins) == 1 and bool(host) and origins[0].lower().partition("://")[2] == host


def refuse_other_pages(request: Request) -> None:
    """Raise 403 unless a page of this host has sent *request*."""
    if not same_origin(request):
        raise forbidden(ELSEWHERE)


def set_cookie(response: Response, cookie: str, issued: Issued, *, now: float) -> None:
    """Put a token into a cookie, where no script reads it."""
    age = max(int((issued.expires_at or 0.0) - now), 0)
    response.set_cookie(cookie, issued.token, max_age=age, path="/", secure=True, httponly=True, samesite="lax")


def clear_cookie(response: Response, cookie: str) -> None:
    """Have the browser forget a cookie."""
    response.delete_cookie(cookie, path="/", secure=True, httponly=True, samesite="lax")
