"""Puts the application together: the API, the chat page, the operators' desk, and what stands around all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Route

from .. import errors
from ..app import Chatkeep, core_of
from . import (
    api,
    audit,
    desk,
    devices,
    exporting,
    holds,
    people,
    problems,
    running,
    saving,
    signing_in,
    switches,
    tokens,
    wire,
)
from .access import IDLE_S, LONGEST_S, VISITOR_SCOPES, Access, allows
from .appearance import appearance_of
from .audit import Trail
from .events import Events
from .guards import Hosts, SecurityHeaders, on_crash
from .health import get_ready
from .openapi import document, get_openapi
from .operators import ROUTES as OPERATING
from .page_routes import page_routes
from .presence import Presence
from .principals import Users
from .protocols import routes_of
from .sample_users import routes_of as sample_user_routes
from .samples import Samples
from .signed_in import Operators, SignedIn
from .streams import Streams
from .webhooks import ROUTES as INLETS
from .webhooks import Webhooks, webhooks_of

if TYPE_CHECKING:
    from .oidc import OpenIDProvider

HERE = ("localhost", "127.0.0.1", "[::1]")

# The order decides what a suffix means: /v1/conversations/a/state/messages is the slot "messages" of "a".
ROUTES: list[BaseRoute] = [
    wire.RawRoute("/v1/conversations/{id}/state/{slot}", api.Slot),
    wire.RawRoute("/v1/conversations/{id}/messages", api.Messages),
    wire.RawRoute("/v1/conversations/{id}/state", api.WholeState),
    wire.RawRoute("/v1/conversations/{id}/events", Events),
    *tokens.ROUTES,
    *people.ROUTES,
    *devices.ROUTES,
    *saving.ROUTES,
    *OPERATING,
    *switches.ROUTES,
    *running.ROUTES,
    *audit.ROUTES,
    *holds.ROUTES,
    *exporting.ROUTES,
    *signing_in.ROUTES,
    *desk.ROUTES,
    wire.RawRoute("/v1/conversations", api.Conversations),
    wire.RawRoute("/v1/conversations/{id}", api.Conversation),
    Route("/healthz", api.get_health),
    Route("/readyz", allows(anyone=True)(get_ready)),
    Route("/openapi.json", get_openapi),
]


def lifespan_of(keep: Chatkeep[Any], access: Access) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    """Return what opens *keep* for an application, unless it is open, and ends what the application has begun."""

    @asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if not core_of(keep).is_open:
                await stack.enter_async_context(keep)
            stack.push_async_callback(access.close)
            stack.push_async_callback(app.state.trail.close)
            stack.push_async_callback(app.state.presence.close)
            if keep.settings.background:
                app.state.samples.start()
                stack.push_async_callback(app.state.samples.close)
            stack.callback(app.state.streams.end)
            yield

    return life


def create_app(
    keep: Chatkeep[Any],
    *,
    title: str | None = None,
    starters: Sequence[str] = (),
    colors: Mapping[str, str] | None = None,
    logo: str | Path | None = None,
    pictures: Sequence[str] = (),
    frame_ancestors: Sequence[str] = (),
    hosts: Sequence[str] = HERE,
    anonymous: bool = False,
    visitor_scopes: Sequence[str] = VISITOR_SCOPES,
    users: Users | None = None,
    sample_users: Sequence[str] = (),
    offline: bool = False,
    operators: Operators | None = None,
    provider: OpenIDProvider | None = None,
    desk_idle: float = IDLE_S,
    desk_longest: float = LONGEST_S,
    webhooks: Webhooks | None = None,
    protocols: Sequence[str] = (),
    routes: Sequence[BaseRoute] = (),
    middleware: Sequence[Middleware] = (),
) -> Starlette:
    """
    Return the HTTP API over *keep*, as an ASGI application: to serve, or to mount into another.

    It opens *keep* when it starts and closes it when it ends. Mounted into FastAPI or Starlette, which do not start what
    they mount, that is for the parent's lifespan to do:

        @asynccontextmanager
        async def life(app):
            async with chat.router.lifespan_context(chat):     # or: async with keep
                yield

        chat = create_app(keep, hosts=["www.example.com"])
        parent = FastAPI(lifespan=life)
        parent.mount("/chat", chat)                            # the API is at /chat/v1/...

    Args:
        keep: What is served. If it is open already when the application starts, closing it is left to who opened it.

        title: Of the chat page at /; without one there is no such page. The operators' desk at /operator is always there, and
        shows nothing to who has not signed in.

        starters: What visitors may say first, as buttons on a chat page where nothing was said yet.

        colors: Of the chat page, such as {"accent": "#0b5fff", "dark-paper": "#101418"}: accent, paper, bar, card, ink and line, and
        the same with "dark-" before it. Text on them is made readable, or they are refused.

        logo: The file of a picture for the head of the chat page: SVG, PNG, WebP or JPEG.

        pictures: Origins from which the chat page loads pictures of messages, such as ["https://cdn.example"]; those of other origins are
        links. Each of them learns who reads when.

        frame_ancestors: Sites that may show the chat page in a frame, by the script /widget.js, such as ["https://www.example.com"].

        hosts: The names by which requests may call this server; others are refused, which keeps out pages of other sites
        that point their own name here. ["*"]: any.

        anonymous: Whether anybody may begin a conversation and is given a token for it. Otherwise conversations belong
        to service keys (`chatkeep key create`) and the tokens that these make.

        visitor_scopes: What such a token allows.

        users: Says which user of your application has sent a request, by its session or the token that your application gives out: a
        function, plain or async, that takes the request and returns the user's name, tenant and name, a `KnownUser`, or None; for JWTs
        there is `jwt_users`. A user so known has its
        own conversations, as with a user's token. It is asked with each request that has no credential of chatkeep's, so it should be
        quick. What a browser sends by itself, such as a session's cookie, changes something only from a page of this host.

        sample_users: Users that anybody may be on the chat page, without a password: for trying out, on this machine only. (The people
        at the operators' desk have accounts: see *operators*.)

        offline: Whether the chat page keeps itself in the browser, by a service worker, so that it opens also while this server is away. No
        answer of /v1 is kept by it. Switched off again, it removes itself from the browsers that have it.

        operators: Says which account of the operators' desk has sent a request, as a host in front of this server has found out: a
        function, plain or async, that takes the request and returns the account's name, or None. `chatkeep accounts add` makes accounts.

        provider: An OpenID provider through which people sign in at the desk: `chatkeep.server.oidc.OpenIDProvider`.

        desk_idle, desk_longest: In seconds, when a person who is signed in at the desk is signed out: after doing nothing for so long, and
        at the latest.

        webhooks: The channels that platforms post to, at /channels/whatsapp and so on; by default those of the
        `ChannelOutlet` that *keep* delivers through (`Chatkeep.deliver`).

        protocols: Protocols of other clients that are spoken here too, under the same access rules, such as ["aisdk", "responses"]:
        see `chatkeep.server.protocols`.

        routes, middleware: More of Starlette's, such as metrics; the middleware runs before the request's host is looked at.
    """

    if anonymous:
        core_of(keep).expect_visitors()
    people_at_desk = SignedIn(keep, host=operators, idle_s=desk_idle, longest_s=desk_longest)
    access = Access(keep, anonymous=anonymous, visitor_scopes=visitor_scopes, users=users, desk=people_at_desk)
    look = appearance_of(
        title=title,
        starters=starters,
        colors=colors,
        logo=logo,
        pictures=pictures,
        frame_ancestors=frame_ancestors,
    )
    app = Starlette(
        routes=[
            *ROUTES,
            *INLETS,
            *routes_of(keep, protocols),
            *sample_user_routes(sample_users),
            *routes,
            *page_routes(look, has_page=title is not None, sample_users=sample_users, offline=offline),
        ],
        middleware=[
            Middleware(SecurityHeaders),
            *middleware,
            Middleware(Hosts, allowed_hosts=list(hosts), www_redirect=False),
        ],
        exception_handlers={
            HTTPException: problems.on_refused_request,
            errors.ChatkeepError: problems.on_error,
            Exception: on_crash,
        },
        lifespan=lifespan_of(keep, access),
    )
    share(app, keep, access, webhooks=webhooks or webhooks_of(keep), provider=provider, sample_users=sample_users)
    app.router.redirect_slashes = False
    return app


def share(
    app: Starlette,
    keep: Chatkeep[Any],
    access: Access,
    *,
    webhooks: Webhooks,
    provider: OpenIDProvider | None,
    sample_users: Sequence[str],
) -> None:
    """Put what the endpoints of *app* share where they look for it. What a process of its own adds, `application` puts there."""
    state = app.state
    state.keep, state.access, state.webhooks, state.provider = keep, access, webhooks, provider
    state.streams, state.trail, state.presence, state.samples = Streams(), Trail(keep), Presence(keep), Samples(keep)
    state.sample_users, state.openapi, state.told_not_open = frozenset(sample_users), document(app.routes), False
    state.limits = state.settings = None
