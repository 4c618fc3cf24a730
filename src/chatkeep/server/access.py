"""Who may do what: recognises who asks, and checks the policy that every endpoint declares.

    from chatkeep.server.wire import Resource

    access = Access(keep, anonymous=True)       # one for an application: app.state.access, beside app.state.keep
    await access.close()                        # before keep is closed

    class Messages(Resource):
        @allows("read")
        async def get(self, request): ...

The policies:

    allows("read")                              # the tenant's service key, or the conversation's token with this scope
    allows(right="operate")                     # service keys, and people who are signed in, whose rights have it
    allows(right="send", visitor=True)          # and anonymous visitors, where the server lets them in
    allows("send", right="operate")             # as "read" above; of keys and people it takes that right instead
    allows(own=True)                            # service keys, and any token; if the route names a conversation, its own
    allows(own=True, right="tokens")            # the same; keys and people need the right
    allows("read", masks=True)                  # also people who may not see what is personal; the answer is masked
    allows(user=True)                           # users' tokens, and whom `create_app(users=...)` knows
    allows("read", user=True)                   # the same, with this scope
    allows("send", right="send", user=True)     # and service keys with that right
    allows(anyone=True)                         # no credentials are looked at

A user is admitted wherever a conversation's token is, for the conversations that are the user's: what is somebody else's reads as if
it were not there. With `creates` a user may ask for what nobody has; the endpoint has it created by `Access.begin`.

A service key has all rights of its tenant, or those that it was made with. A person who is signed in at the desk (`signed_in`) has those of
their role; the cookie of the session counts only beside a header that a page of another host cannot send.

Before the endpoint runs, `request.state` has `principal`, `tenant` (the `Tenant` to work on) and `conversation`. The
conversation is the route's path parameter `id`, in that one place for the check and for the work; nothing is decided
by `request.url`, which a Host header can bend. The endpoint's `policy` tells a test what was declared.

A revocation is effective everywhere within two seconds: see `known_credentials`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from contextlib import nullcontext
from functools import wraps
from hmac import compare_digest
from inspect import isawaitable
from typing import Any, Literal, TypeVar, cast
from urllib.parse import unquote

import msgspec
from cachetools import TTLCache
from msgspec import structs
from starlette.requests import Request
from starlette.responses import Response

from ..app import Chatkeep, core_of
from ..auth.credentials import (
    Issued,
    Scope,
    StoredCredential,
    checked,
    forget,
    issue_token,
    new_guest,
    subject_of,
)
from ..auth.format import digest_of, id_of
from ..auth.rights import Right, rights_of
from ..conversation.keys import GUEST, key_for
from ..errors import BadKey, Misconfigured, OtherOwner, UsageError
from ..model import Content
from ..tenant import Tenant
from . import wire
from .cookies import COOKIE, ELSEWHERE, SHARED_MOST, cookies_in, cookies_of, refuse_other_pages, same_origin
from .known_credentials import NOTED_S, KnownCredentials
from .last_known import HELD
from .masking import Masker
from .ownership import Ownership
from .principals import VISITOR, AccessPolicy, KnownUser, Principal, Users, judge
from .reads import Reads
from .refusals import forbidden, not_found, refuse_step, unauthorized
from .signed_in import PROOF, TENANT, SignedIn

Endpoint = TypeVar("Endpoint", bound=Callable[..., Coroutine[Any, Any, Response]])

VISITOR_SCOPES: tuple[Scope, ...] = ("read", "send", "share")

EXPORTS = 2
"""So many exports are read at the same time; the others wait in their order."""

SUBJECT = "chatkeep-subject"
"""The header that names whose credential the sender means to use, as /v1/me tells it."""

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

OTHER = "The credential is another subject's than `Chatkeep-Subject` says; nothing was done. Ask /v1/me whose it is."
SIGNED_OUT = "Nobody is signed in here, or the session has ended; nothing was done. Sign in again."

JSON_KINDS = ("application/json", "application/problem+json")

IDLE_S = 30 * 60.0
LONGEST_S = 12 * 3600.0
"""When a session of a person ends: after so long without doing anything, and after so long at all."""


def allows(
    scope: Scope | Literal[""] = "",
    *,
    right: Right | Scope | Literal[""] = "",
    own: bool = False,
    user: bool = False,
    visitor: bool = False,
    anyone: bool = False,
    counted: bool = True,
    creates: bool = False,
    masks: bool = False,
) -> Callable[[Endpoint], Endpoint]:
    """
    Declare, and check, who may use an endpoint; the module's docstring has the cases.

    Args:
        scope: The conversation's own token needs it, and so do service keys and people, unless a *right* is named.

        right: Service keys, and people who are signed in, need it; without *scope*, *own* or *user* nobody else is admitted.

        own: Any token of the conversation is admitted.

        user: Users are admitted, who need no conversation for it, with the *scope* if one is named; without *right* nobody else is.

        visitor: Somebody without credentials is admitted, where the server admits visitors.

        anyone: Everybody is, and nobody looks at credentials.

        counted: Requests count for the rate limits; not those that carry a signature, which come from few addresses.

        creates: A user may ask for what nobody has; the endpoint has it created by `Access.begin`.

        masks: People are admitted who may not see what is personal; what is answered in JSON is masked for them.
    """
    told = {"visitor": visitor, "anyone": anyone, "counted": counted, "creates": creates, "masks": masks}
    policy = AccessPolicy(scope=scope, right=right, own=own, user=user, **told)
    if sum([bool(scope) and not user, policy.rulers_only or user, own, anyone]) != 1:
        raise Misconfigured("An endpoint allows a scope, a right, a conversation's own tokens or anyone: one of these.")

    reads = not (policy.anyone or policy.rulers_only)

    def guarded(endpoint: Endpoint) -> Endpoint:
        @wraps(endpoint)
        async def answer(*args: Any) -> Response:
            request: Request = args[-1]
            access = access_of(request)
            await access.admit(request, policy)
            async with access.reads if reads and request.method in SAFE else nullcontext():
                response = await endpoint(*args)
            if request.state.principal.kind == "operator" and not policy.anyone:
                access.show(request, response)
            return response

        answer.policy = policy  # type: ignore[attr-defined]
        return answer  # type: ignore[return-value]

    return guarded


def keep_of(request: Request) -> Chatkeep[Any]:
    """Return the Chatkeep that the application serves."""
    return cast("Chatkeep[Any]", request.app.state.keep)


def access_of(request: Request) -> Access:
    """Return the application's access."""
    return cast(Access, request.app.state.access)


def principal_of(request: Request) -> Principal:
    """Return who asks."""
    return cast(Principal, request.state.principal)


def tenant_of(request: Request) -> Tenant[Any]:
    """Return the conversations that who asks may see."""
    return cast("Tenant[Any]", request.state.tenant)


def conversation_asked(request: Request) -> str:
    """Return the conversation that is asked for."""
    return cast(str, request.state.conversation)


class Access:
    """
    Recognises who asks, for one application over *keep*.

    Args:
        users: Says which user has sent a request, or None: see `create_app`.

        desk: The people who are signed in at the operators' desk.

        anonymous: Whether visitors without credentials are admitted, where an endpoint allows that.

        visitor_scopes: What a visitor gets for the conversation that it makes.
    """

    def __init__(
        self,
        keep: Chatkeep[Any],
        *,
        anonymous: bool = False,
        visitor_scopes: Iterable[str] = VISITOR_SCOPES,
        users: Users | None = None,
        desk: SignedIn | None = None,
    ) -> None:
        self.keep = keep
        self._users = users
        self.desk = desk or SignedIn(keep, host=None, idle_s=IDLE_S, longest_s=LONGEST_S)
        self._masker: Masker | None = None
        self._ownership = Ownership(keep)
        self.anonymous = anonymous
        try:
            self.visitor_scopes = checked(visitor_scopes)
        except UsageError as fault:
            raise Misconfigured(f"visitor_scopes: {fault}") from None
        self._credentials = KnownCredentials(keep)
        self._clock = core_of(keep).clock
        self._seen: TTLCache[tuple[str, str, str], bool] = TTLCache(HELD, NOTED_S)
        self.reads = Reads()
        """Held while an answer to a customer's read is made, and not while it is sent."""
        self.exports = asyncio.Semaphore(EXPORTS)
        """The same for exports, which read whole conversations."""

    async def close(self) -> None:
        """End what is still being looked up or noted down."""
        await self._credentials.close()

    async def who(self, request: Request) -> Principal:
        """Tell who sent *request*; VISITOR without credentials, or with a cookie that says nothing any more.

        Raises 401 for an Authorization header that gives no right, and 403 when a cookie may be used behind its
        owner's back.
        """
        given = request.headers.getlist("authorization")
        cookie = ""
        if not given and PROOF in request.headers:
            return await self._find_operator(request)
        ours = bool(given) and digest_of(bearer(given)) is not None
        user = None if ours or self._users is None else await self._ask_application(request)
        if user is not None:
            if not given and request.method not in SAFE:
                refuse_other_pages(request)
            return user
        if given:
            name, stored = await self._credentials.find_valid(bearer(given), ("service", "token", "user"))
        else:
            cookie, name, stored = await self._by_cookie(request)
        if stored is None:
            if given:
                raise unauthorized()
            return VISITOR
        if not given and request.method not in SAFE:
            refuse_other_pages(request)
        self._credentials.note_use(name, stored)
        if stored.kind == "user" and not await self._ownership.stands(stored):
            raise unauthorized()
        kinds: dict[str, Literal["service", "user"]] = {"service": "service", "user": "user"}
        return Principal(
            kind=kinds.get(stored.kind, "token"),
            user=stored.subject if stored.kind == "user" else "",
            tenant=stored.tenant,
            conversation=stored.conversation,
            scopes=rights_of(stored) if stored.kind == "service" else frozenset(stored.scopes),
            id=id_of(name),
            name=name,
            expires_at=stored.expires_at,
            cookie=cookie,
            stored=stored,
        )

    async def _find_operator(self, request: Request) -> Principal:
        """Return the person who is signed in. Raises 401 when nobody is, and 403 for a request that no page of ours has sent."""
        operator = await self.desk.find(request)
        if operator is None:
            raise wire.Refused(401, "signed-out", SIGNED_OUT, {"www-authenticate": "Bearer"})
        if not compare_digest(request.headers[PROOF].encode(), operator.proof.encode()) or not (
            request.method in SAFE or same_origin(request)
        ):
            raise forbidden(ELSEWHERE)
        asked = request.headers.get(TENANT)  # percent-encoded: a header has no room for every name
        tenant = operator.tenant_for(None if asked is None else unquote(asked))
        if tenant is None:
            raise forbidden(f"The account {operator.name} does not see this tenant; nothing was done.")
        if request.method not in SAFE:
            await self.desk.touch(operator)
        return Principal(
            kind="operator",
            tenant=tenant,
            scopes=operator.rights,
            id=operator.name,
            name=operator.name,
            operator=operator,
        )

    def show(self, request: Request, response: Response) -> None:
        """Mask an answer to a person who may not see what is personal; note who has seen that of a conversation."""
        principal, about = principal_of(request), getattr(request.state, "conversation", None)
        if principal.masked:
            if response.media_type in JSON_KINDS and response.body:
                shown = self.mask(principal, msgspec.json.decode(response.body), about)
                response.body = msgspec.json.encode(shown)
                response.headers["content-length"] = str(len(response.body))
            return
        seen = (principal.id, principal.tenant, about or "")
        if about is not None and request.method == "GET" and response.status_code == 200 and seen not in self._seen:
            self._seen[seen] = True
            request.app.state.trail.note(request, "reveal", "200")

    def mask(self, principal: Principal, value: Any, conversation: str | None = None) -> Any:
        """Return *value* as *principal*, who may not see what is personal, is shown it."""
        return self.masker.mask(value, tenant=principal.tenant, conversation=conversation)

    @property
    def masker(self) -> Masker:
        """What masks for people of this store."""
        if self._masker is None:
            self._masker = Masker(core_of(self.keep).driver.epoch)
        return self._masker

    async def _ask_application(self, request: Request) -> Principal | None:
        """Return the user whom the application knows."""
        assert self._users is not None
        found = self._users(request)
        found = await found if isawaitable(found) else found
        if found is None:
            return None
        if isinstance(found, str):
            found = KnownUser(user=found)
        elif isinstance(found, tuple):
            found = KnownUser(tenant=found[0], user=found[1])
        tenant, user = found.tenant, found.user
        try:
            key_for(tenant, user)
        except UsageError as fault:
            raise Misconfigured(f"users= gave {found!r:.80}, which cannot be a user: {fault}") from None
        told: dict[str, Any] = {"scopes": found.scopes, "expires_at": found.expires_at}
        stored = StoredCredential(kind="user", tenant=tenant, subject=user, **told)
        if not await self._ownership.stands(stored):
            raise unauthorized()
        scopes, until = frozenset(found.scopes), found.expires_at
        return Principal(kind="user", tenant=tenant, user=user, scopes=scopes, expires_at=until, stored=stored)

    async def find_guest(self, text: str) -> StoredCredential | None:
        """Return what is stored of a guest's token: of a visitor, or a user whose name is a guest's; None of anything else."""
        _, stored = await self._credentials.find_valid(text, ("token", "user"))
        known = (
            stored is not None and stored.subject.startswith(GUEST) and not stored.ancestors and "send" in stored.scopes
        )
        return stored if known else None

    async def find_ended_cookies(self, request: Request) -> list[str]:
        """Return the names of the cookies of shared chats whose right has ended."""
        shared = [(name, text) for name, text in cookies_in(request) if name.startswith(f"{COOKIE}-")][
            : 2 * SHARED_MOST
        ]
        return [name for name, text in shared if (await self._credentials.find_valid(text, ("token",)))[1] is None]

    async def _by_cookie(self, request: Request) -> tuple[str, str, StoredCredential | None]:
        """Return the cookie that is meant, as `find_valid` has what is in it: of the conversation that is asked for and, where the request
        says so, of the subject."""
        wanted = request.headers.get(SUBJECT)
        best: tuple[str, str, StoredCredential | None] = "", "", None
        for cookie, text in cookies_of(request, asked := request.path_params.get("id")):
            name, stored = await self._credentials.find_valid(text, ("token",))
            if stored is None:
                continue
            if asked in (None, stored.conversation) and wanted in (None, subject_of(stored)):
                return cookie, name, stored
            best = best if best[2] else (cookie, name, stored)
        return best

    async def admit(self, request: Request, policy: AccessPolicy) -> None:
        """Let *request* pass, with `principal`, `tenant` and `conversation` in its state, or raise what it is told."""
        state, conversation, absent = request.state, request.path_params.get("id"), False
        principal = state.principal = VISITOR if policy.anyone else await self.who(request)
        if not policy.anyone:
            # A cookie may be another person's than the page thinks: what one has written must not go in another's name.
            if (wanted := request.headers.get(SUBJECT)) is not None and wanted != principal.subject:
                raise wire.Refused(401, "other-subject", OTHER, {"www-authenticate": "Bearer"})
            if (
                policy.visitor
                and self.anonymous
                and principal.cookie
                and conversation not in (None, principal.conversation)
            ):
                principal = state.principal = (
                    VISITOR  # this browser has the cookie of another chat, and begins one more
                )
            absent = await self._look_for(principal, conversation) if principal.kind == "user" else False
            judge(principal, policy, conversation, visitors=self.anonymous, absent=absent)
            if absent:
                refuse_step(conversation)
            if principal.masked and conversation is not None:
                conversation = self.masker.unseal(principal.tenant, conversation)
                if conversation is None:
                    raise not_found()
            state.tenant = self.keep.tenant(principal.tenant).for_owner(principal.user)
            if principal.kind == "user" and conversation is not None:
                state.principal = principal = structs.replace(principal, conversation=conversation)
        if conversation is not None:
            state.conversation = conversation
        limits = getattr(request.app.state, "limits", None)
        if limits is not None and policy.counted and (not policy.anyone or request.method not in SAFE):
            await limits.admit(request, principal)
        state.absent = not policy.anyone and absent

    async def begin(self, request: Request, content: Content, **told: Any) -> Issued | None:
        """Create what a user, or a visitor, asks for and nobody has, for a first message that the engine takes: one that it refuses leaves
        nothing. *told*: as `Core.check_message` has it. Gives a visitor's token."""
        if not request.state.absent:
            return None
        principal, tenant, id = principal_of(request), tenant_of(request), conversation_asked(request)
        core_of(self.keep).check_message(tenant.name, id, content, **told)
        issued = None
        if principal.kind == "visitor":
            if not await core_of(self.keep).create_for_visitor(tenant.name, id):
                raise unauthorized()  # an id alone is no right
            issued = await self.visit(id)
        else:
            try:
                await tenant.create(id, owner=(owner := await self.find_beginner(request)))
            except OtherOwner:
                raise not_found() from None
            self._ownership.note_begun(tenant.name, id, owner)
        request.state.absent = False
        return issued

    async def is_taken(self, conversation: str) -> bool:
        """Tell whether a visitor may not begin a conversation, because it is there or belongs to a channel's customer."""
        return self.is_customers("", conversation) or await core_of(self.keep).exists("", conversation)

    def is_customers(self, tenant: str, conversation: str) -> bool:
        """Tell whether a conversation belongs to a channel's customer, who may not have written yet: no user or visitor begins it."""
        return self._ownership.is_customers(tenant, conversation)

    async def find_beginner(self, request: Request) -> str:
        """Return whose it is what a request begins: the user that whoever asks is now; "" for others than users."""
        principal = principal_of(request)
        return (
            await self._ownership.find_user(principal.tenant, principal.user)
            if request.state.absent
            else principal.user
        )

    async def beginning(self, request: Request) -> Tenant[Any]:
        """Return the tenant for a change of a conversation, which begins it in the same act where nobody has it."""
        begins = request.state.absent
        return tenant_of(request).for_owner(await self.find_beginner(request), begins=begins)

    async def _look_for(self, principal: Principal, conversation: str | None) -> bool:
        """Tell whether nobody has what a user asks for. Raises 404 where somebody else has it."""
        if conversation is None:
            return False
        try:
            owned = await self._ownership.owns(principal, conversation)
        except BadKey:
            raise not_found() from None
        if owned is False:
            raise not_found()
        return owned is None

    async def holds(self, principal: Principal) -> bool:
        """Tell whether the credential behind *principal* still stands, for streams that stay open. Cheap; ask every second or so."""
        if principal.operator is not None:
            return await self.desk.holds(principal.operator)
        about = principal.conversation if principal.kind == "user" else ""
        if about and not await self._ownership.owns(principal, about):
            return False
        if principal.kind == "user" and not principal.name:
            # Whether the application still knows the user is asked with each request.
            return await self._ownership.stands_for(principal)
        stored = await self._credentials.find(principal.name) if principal.name else None
        return (
            stored is not None
            and not stored.over(self._clock())
            and (principal.kind != "user" or await self._ownership.stands_for(principal))
        )

    async def visit(self, conversation: str) -> Issued:
        """Return the token of a visitor who has made *conversation*."""
        return await issue_token(
            self.keep, "", conversation, scopes=self.visitor_scopes, label="visitor", subject=new_guest()
        )

    async def forget(self, tenant: str, conversation: str) -> None:
        """Forget as `credentials.forget` does; here it is effective at once."""
        await forget(self.keep, tenant, conversation)
        self.look_again()

    def look_again(self) -> None:
        """Let go of what is known of credentials and users, after one was ended here."""
        self._credentials.look_again()
        self._ownership.look_again()
        self.desk.look_again()


def bearer(given: list[str]) -> str:
    """Return the credential in the Authorization headers; "" if there is not exactly one that is of this kind."""
    scheme, _, text = given[0].partition(" ")
    return text.strip() if len(given) == 1 and scheme.lower() == "bearer" else ""
