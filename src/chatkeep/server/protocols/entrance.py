"""Who may use the routes of a protocol, and how each protocol says no.

Inside `create_app` the rules of the server hold: service keys, tokens of the one conversation, and, where visitors are let in,
whoever begins a conversation whose id nobody has used. In an application of somebody else's these routes have no such server
around them. Then the application decides (`authorize=`); or chatkeep's own credentials do; and who sends none is let in from
this very machine only, which is for development.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import wraps
from inspect import isawaitable
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct, structs
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ...app import Chatkeep, core_of
from ...auth.credentials import SCOPES, Issued, Scope
from ...auth.format import digest_of
from ...drivers.url import is_loopback
from ...errors import ChatkeepError, Conflict, NotOpen, NotWaiting
from ...model import Content, Message, Receipt, Role
from ...tenant import Tenant
from .. import api, problems, wire
from ..access import Access, bearer
from ..cookies import COOKIE, SHARED_MOST, clear_cookie, cookies_in, same_origin, set_cookie, shared_cookie
from ..limits import is_forwarded
from ..principals import AccessPolicy, Principal
from ..refusals import forbidden, not_found, refuse_step, unauthorized
from .answer_stream import AnswerStream, Ended

log = logging.getLogger("chatkeep.server")

Authorize = Callable[[Request, str], Awaitable[str | None] | str | None]
"""Decides, in an application of your own, who may use a conversation: its tenant ("" where there is only one), or None for nobody.
A coroutine function, or a plain one that does not wait."""

Endpoint = Callable[[Request], Awaitable[Response]]

BODY_MOST = 4 * 1024 * 1024
"""Bytes of a body: pages of these protocols send the whole talk with each message."""

STRANGERS_MOST = 1024 * 1024
"""The same of somebody without credentials, who has said nothing yet."""

TOKENS_MOST = 100_000
"""Strings, commas and brackets of a body."""

TOKEN_HEADER = "chatkeep-token"
"""Has the token of a visitor whose client keeps no cookies."""

FOR_CUSTOMERS = "This is for customers and backends; people look after conversations at /operator."

LOCAL = Principal(kind="service", scopes=SCOPES)
"""Whoever an application lets in itself, or who works on this machine."""


class NoObject(HTTPException):
    """The body is JSON, and no object."""


class Caller(Struct, frozen=True):
    """Who asks, and for what. *issued*: the token of a visitor who has begun the conversation by this request. *stranger*: a
    visitor who holds no right to the conversation and is to be shown nothing, or a user who has not begun it. *begins*: the request of a
    visitor or user who begins it by the first message that is accepted."""

    tenant: Tenant[Any]
    conversation: str
    principal: Principal
    access: Access
    issued: Issued | None = None
    stranger: bool = False
    begins: Request | None = None

    @property
    def absent(self) -> bool:
        """Whether the conversation is still to be begun; what is there all the same is somebody else's, who was faster."""
        return self.begins is not None and self.begins.state.absent

    @property
    def sees_log(self) -> bool:
        """Whether the log of the conversation may be shown, and not only the answer to what the caller says."""
        return "read" in self.principal.scopes

    @property
    def sees_state(self) -> bool:
        """Whether the state of the conversation may be shown."""
        return "state:read" in self.principal.scopes

    async def accept(
        self, content: Content, *, id: str | None, role: Role = "user", metadata: dict[str, Any] | None = None
    ) -> Receipt:
        """Accept as `Tenant.accept` does. Raises `Conflict` where the conversation was erased meanwhile, and the message with it;
        401 or 404 for a stranger."""
        self.refuse_stranger()
        if self.begins is not None:
            issued = await self.access.begin(self.begins, content, id=id, role=role, metadata=metadata)
            if issued is not None:
                self.begins.scope["chatkeep.begun"] = structs.replace(self, issued=issued)
        receipt = await self.tenant.accept(self.conversation, content, id=id, role=role, metadata=metadata)
        if receipt.status == "dropped" and not receipt.number:
            raise Conflict(f"{self.conversation}: the conversation was erased meanwhile, and the message with it.")
        return receipt

    async def read_log(self, asked: wire.LogWindow) -> tuple[list[Message], bool]:
        """Read as `api.talk` does, beside so many other reads as the server makes at once."""
        if self.absent:
            return [], False
        async with self.access.reads:
            return await api.talk(self.tenant, self.conversation, asked)

    def answer(self, number: int) -> AnswerStream:
        """Follow the answer to message *number*."""
        return AnswerStream(core_of(self.access.keep), self.tenant.name, self.conversation, number)

    async def find_end(self, number: int) -> Ended:
        """Find out what has become of message *number*; "erased" where it is not there any more."""
        found = await core_of(self.access.keep).find_outcome(self.tenant.name, self.conversation, number)
        return Ended("erased") if found is None else Ended(found.status, found.dead, found.replies, found.failing)

    async def find_message(self, number: int, roles: Sequence[Role]) -> Message:
        """Return message *number* of the log. Raises 401 for a stranger, and 404 where there is none of these *roles*."""
        self.refuse_stranger()
        found = [m async for m in self.tenant.history(self.conversation, after=number - 1, before=number + 1)]
        if not found or found[0].role not in roles:
            raise not_found()
        return found[0]

    async def stop(self, number: int) -> None:
        """End the answer to message *number*; what was said of it stays. One that waits, for others or for a paused bot, is withdrawn."""
        is_first = (await self.tenant.answering(self.conversation)).number == number
        if is_first and (await self.tenant.stop(self.conversation)).stopped:
            return
        with suppress(NotWaiting):  # it was answered meanwhile
            await self.tenant.withdraw(self.conversation, number)

    def refuse_stranger(self) -> None:
        """Raise 401 for a visitor who holds no right to the conversation, and 404 for a user who has none of that id."""
        if self.stranger:
            raise unauthorized() if self.principal.kind == "visitor" else not_found()

    async def holds(self) -> bool:
        """Tell whether the right still stands, for streams that stay open."""
        return not self.principal.name or await self.access.holds(self.principal)

    def hand_over(self, request: Request, response: Response) -> None:
        """Give a visitor's new token along with *response*: in a cookie to a page of this host, in a header to anybody else."""
        assert self.issued is not None
        if not same_origin(request):
            response.headers[TOKEN_HEADER] = self.issued.token
            return
        mine = shared_cookie("", self.conversation)
        held = [name for name, _ in cookies_in(request) if name not in (COOKIE, mine)]
        for name in held[: max(len(held) + 1 - SHARED_MOST, 0)]:  # all of them travel with each request: the oldest go
            clear_cookie(response, name)
        set_cookie(response, mine, self.issued, now=core_of(self.access.keep).clock())


class Refusal(Struct, frozen=True):
    """Why a request is refused, for the protocol to say in its own shape."""

    status: int
    word: str
    detail: str
    headers: dict[str, str] = {}


class Entrance:
    """
    Lets callers of one protocol's routes in, and has what goes wrong told in that protocol's shape.

    Args:
        refuse: Makes an answer of a refusal.

        authorize: Decides instead of credentials, outside of `create_app`.
    """

    def __init__(
        self, keep: Chatkeep[Any], *, refuse: Callable[[Refusal], Response], authorize: Authorize | None = None
    ) -> None:
        self.keep = keep
        self.core = core_of(keep)
        self._refuse = refuse
        self._authorize = authorize
        self._own = Access(keep)
        self._told: set[str] = set()

    def guards(self, scope: Scope) -> Callable[[Endpoint], Endpoint]:
        """Declare what an endpoint takes, and have its errors told."""
        policy = AccessPolicy(scope=scope, visitor=True)

        def guarded(endpoint: Endpoint) -> Endpoint:
            @wraps(endpoint)
            async def answer(request: Request) -> Response:
                request.scope["chatkeep.policy"] = policy
                try:
                    response = await endpoint(request)
                except (HTTPException, ChatkeepError) as fault:
                    response = self._refuse(self.refusal_of(fault))
                # (Also where the store has failed the message: the conversation is there.)
                if (begun := request.scope.get("chatkeep.begun")) is not None:
                    begun.hand_over(request, response)
                return response

            answer.policy = policy  # type: ignore[attr-defined]
            return answer

        return guarded

    def open_to_all(self, endpoint: Endpoint) -> Endpoint:
        """Declare that everybody may use an endpoint, and that nobody looks at credentials."""
        policy = AccessPolicy(anyone=True)

        @wraps(endpoint)
        async def answer(request: Request) -> Response:
            await self._access_of(request).admit(request, policy)
            return await endpoint(request)

        answer.policy = policy  # type: ignore[attr-defined]
        return answer

    async def body(self, request: Request) -> dict[str, Any]:
        """Return the request's body, an object. Who can't be let in, whatever the body says, is refused before it is read."""
        limit = BODY_MOST
        if self._authorize is None and not self._is_let_in(request):
            access = self._access_of(request)
            if (await access.who(request)).kind == "visitor":
                limit = STRANGERS_MOST
                if not access.anonymous:
                    raise unauthorized()
        found = await wire.value(request, limit=limit, most=TOKENS_MOST)
        if not isinstance(found, dict):
            raise NoObject(400, "The body is no JSON object; nothing was touched.")
        return found

    async def admit(
        self, request: Request, conversation: str, *, begins: bool = False, scope: Scope | None = None
    ) -> Caller:
        """Let the caller in, or raise what it is told; *begins*: a visitor or a user may begin the conversation by this request. *scope*:
        what it takes where that is not what the endpoint has declared."""
        policy, access = structs.replace(self._policy_of(request, scope), creates=True), self._access_of(request)
        request.scope["chatkeep.begins"] = begins
        if self._authorize is not None:
            tenant = await self._ask_application(request, conversation)
            if tenant is None:
                raise unauthorized()
            return Caller(self.keep.tenant(tenant), conversation, LOCAL, access)
        if self._is_let_in(request):
            return Caller(self.keep.tenant(""), conversation, LOCAL, access)
        # (The one place where the check and the work find the conversation.)
        request.scope["path_params"] = {**request.path_params, "id": conversation}
        await access.admit(request, policy)
        principal: Principal = request.state.principal
        if principal.kind == "operator":
            raise forbidden(FOR_CUSTOMERS)
        caller = Caller(request.state.tenant, conversation, principal, access)
        if principal.kind != "visitor" and not request.state.absent:
            return caller
        if not begins:
            return structs.replace(caller, stranger=True)
        if principal.kind == "visitor":
            if await access.is_taken(conversation):
                raise unauthorized()  # an id alone is no right
            refuse_step(conversation)
            request.state.absent = True
        return structs.replace(caller, begins=request)

    async def find_callers(self, request: Request, *, most: int, scope: Scope | None = None) -> list[Caller]:
        """Let the caller in to what it may use of the conversations that were changed last, *most* of which are looked at. Raises
        what it is told if it may use none, whichever there are."""
        access = self._access_of(request)
        if self._authorize is not None or self._is_let_in(request):
            tenant = "" if self._authorize is None else await self._ask_application(request, "")
            if tenant is None:
                raise unauthorized()
            names = await self._find_last(tenant, most)
            if self._authorize is not None:
                names = [name for name in names if await self._ask_application(request, name) == tenant]
            return [Caller(self.keep.tenant(tenant), name, LOCAL, access) for name in names]
        request.scope["chatkeep.begins"] = False
        await access.admit(request, self._policy_of(request, scope))  # (once, however many conversations there are)
        principal: Principal = request.state.principal
        match principal.kind:
            case "operator":
                raise forbidden(FOR_CUSTOMERS)
            case "visitor":
                names = []
            case "token":
                names = [principal.conversation]
            case "user":
                user = self.keep.tenant(principal.tenant).user(principal.user)
                names = [one.id async for one in user.conversations(limit=most)]
            case "service":
                names = await self._find_last(principal.tenant, most)
        return [Caller(request.state.tenant, name, principal, access) for name in names]

    @staticmethod
    def _policy_of(request: Request, scope: Scope | None) -> AccessPolicy:
        policy: AccessPolicy = request.scope["chatkeep.policy"]
        return policy if scope is None else structs.replace(policy, scope=scope)

    async def _find_last(self, tenant: str, most: int) -> list[str]:
        rows = await self.core.scan("recent", tenant=tenant, after=None, limit=most)
        return [row.key.id for row in rows]

    async def _ask_application(self, request: Request, conversation: str) -> str | None:
        assert self._authorize is not None
        asked = self._authorize(request, conversation)
        tenant = await asked if isawaitable(asked) else asked
        if not isinstance(tenant, str | None):
            raise TypeError(f"`authorize` gives a tenant's name, or None for nobody, and not {tenant!r:.40}.")
        return tenant

    def _access_of(self, request: Request) -> Access:
        access = getattr(getattr(request.scope.get("app"), "state", None), "access", None)
        return access if isinstance(access, Access) and access.keep is self.keep else self._own

    def _is_let_in(self, request: Request) -> bool:
        """Tell whether somebody without a credential of chatkeep's is let in, because it is a development machine."""
        if self._access_of(request) is not self._own or self._has_credential(request) or not is_local(request):
            return False
        self._tell(
            "local",
            logging.WARNING,
            "Requests without credentials are served because they come from this very machine; others get 401. Before others "
            "shall use these routes, say who may: `routes(keep, authorize=...)`, or mount them by `create_app`.",
        )
        return True

    def _has_credential(self, request: Request) -> bool:
        given = bearer(request.headers.getlist("authorization")) if "authorization" in request.headers else ""
        # Other clients send a header of their own, such as a key that nobody looks at.
        return digest_of(given) is not None

    def refusal_of(self, fault: Exception) -> Refusal:
        """Return what is to be told of an error."""
        if isinstance(fault, NotOpen):
            self._tell("not-open", logging.CRITICAL, f"{type(fault).__name__}: {fault}")
        if isinstance(fault, ChatkeepError):
            told = problems.tell_error(fault)
            return Refusal(told.status, told.word, told.detail, told.headers)
        assert isinstance(fault, HTTPException)
        word = fault.word if isinstance(fault, wire.Refused) else problems.WORDS.get(fault.status_code, "refused")
        return Refusal(fault.status_code, word, fault.detail, dict(fault.headers or {}))

    def _tell(self, what: str, level: int, text: str) -> None:
        if what not in self._told:  # once
            self._told.add(what)
            log.log(level, "%s", text)


def id_in(body: dict[str, Any], name: str) -> str:
    """Return the id under *name* in a body. Raises 400 where it is no text."""
    found = body.get(name)
    if not isinstance(found, str) or not found:
        raise HTTPException(400, f"`{name}` is text that names something, and is not here; nothing was touched.")
    return found


def is_local(request: Request) -> bool:
    """Tell whether a request was made on this machine, for this machine, and by no page of another host."""
    peer = request.client.host if request.client is not None else ""
    hosts, origins = request.headers.getlist("host"), request.headers.getlist("origin")
    site = request.headers.get("sec-fetch-site", "none")
    return (
        (is_loopback(peer) or peer == "testclient")  # (so Starlette's TestClient calls itself)
        and not is_forwarded(request.scope)
        and len(hosts) == 1
        and all(map(is_local_name, [f"//{hosts[0]}", *origins]))
        and (site != "cross-site" or bool(origins))
    )


def is_local_name(url: str) -> bool:
    """Tell whether a host is this machine, or has a name that no stranger can own."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False
    return is_loopback(host) or ("." not in host and ":" not in host and bool(host)) or host.endswith(".localhost")
