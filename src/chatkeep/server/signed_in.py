"""Recognises the people who are signed in at the operators' desk: by the cookie of a session, or with who the host in front says it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any

from cachetools import TTLCache
from msgspec import Struct
from starlette.requests import Request

from ..app import Chatkeep, core_of
from ..auth import accounts
from ..auth.accounts import Account, StoredSession
from ..auth.credentials import EVERYWHERE, StoredCredential, stored_credentials
from ..auth.format import id_of
from ..auth.rights import ROLES, rights_of
from ..drivers.url import is_loopback
from ..errors import UsageError
from .admin import PUBLIC
from .known_credentials import FRESH_S
from .last_known import HELD

Operators = Callable[[Request], str | Awaitable[str | None] | None]
"""Says which account has sent a request, as the host in front knows it; None: nobody."""

COOKIE = "__Host-desk"
"""Holds a session. Where a browser talks to this very machine without TLS it is LOCAL_COOKIE, which is not `Secure`."""

LOCAL_COOKIE = "desk"
PROOF = "chatkeep-desk"
"""The header that a page of ours sends beside the cookie, with what `GET /v1/session` told it."""

TENANT = "chatkeep-tenant"
"""The header that names the tenant that is meant, percent-encoded, for whom sees several."""

TOUCH_S = 60.0
"""That somebody is there is noted no finer than this."""


class SignInRefused(Exception):
    """An OpenID provider was asked, and nobody was signed in. *code*: why, which the page says in words; *said*: for the log; *account*:
    the name that the provider has told, as far as it came to that."""

    def __init__(self, code: str, said: str, account: str = "") -> None:
        super().__init__(said)
        self.code, self.account = code, account


class Operator(Struct, frozen=True, kw_only=True):
    """A person who is signed in. *name*: of the account, or "key:..." of a key; *shown*: what customers see."""

    name: str
    shown: str
    role: str
    rights: frozenset[str]
    tenants: tuple[str, ...]
    everywhere: bool
    session: str
    proof: str
    begun_at: float
    seen_at: float

    def tenant_for(self, asked: str | None) -> str | None:
        """Return the tenant to work on where *asked* is meant; None where the person does not see it."""
        if asked is None:
            return self.tenants[0]
        return asked if self.everywhere or asked in self.tenants else None


class SignedIn:
    """
    The sessions of one application over *keep*.

    Args:
        host: Says which account the host in front of the server has authenticated, or None.

        idle_s: A session ends when the person does nothing for so long.

        longest_s: A session ends after so long, whatever the person does.
    """

    def __init__(self, keep: Chatkeep[Any], *, host: Operators | None, idle_s: float, longest_s: float) -> None:
        self.keep = keep
        self.host = host
        self.idle_s, self.longest_s = idle_s, longest_s
        self._clock = core_of(keep).clock
        self._sessions: TTLCache[str, StoredSession | None] = TTLCache(HELD, FRESH_S)
        self._accounts: TTLCache[str, Account | None] = TTLCache(HELD, FRESH_S)
        self._keys: TTLCache[str, StoredCredential | None] = TTLCache(HELD, FRESH_S)

    def look_again(self) -> None:
        """Let go of what is known, after something was ended here."""
        self._sessions.clear()
        self._accounts.clear()
        self._keys.clear()

    async def find(self, request: Request) -> Operator | None:
        """Return who is signed in where *request* comes from; None: nobody. What the request may do is not looked at."""
        if request.scope.get(PUBLIC):
            return None  # the browser sends the desk's cookie to every port of its host
        token = token_of(request)
        name = accounts.session_name(token) if token else None
        if name is None:
            return None
        session = await self._session(name)
        now = self._clock()
        if session is None or now >= self.ends_at(session):
            return None
        found = await self._of_key(session) if session.key else await self._of_account(request, session)
        if found is None:
            return None
        shown, role, rights, tenants = found
        everywhere = EVERYWHERE in rights
        return Operator(
            name=session.account or f"key:{id_of(session.key)}",
            shown=shown,
            role=role,
            rights=rights,
            tenants=tenants,
            everywhere=everywhere and not session.key,
            session=name,
            proof=accounts.proof_of(token),
            begun_at=session.begun_at,
            seen_at=session.seen_at,
        )

    def ends_at(self, session: StoredSession | Operator) -> float:
        """Tell when a session is over, if nobody does anything meanwhile."""
        return min(session.seen_at + self.idle_s, session.begun_at + self.longest_s)

    async def holds(self, operator: Operator) -> bool:
        """Tell whether the session still stands, for streams that stay open. Cheap; ask every second or so."""
        session = await self._session(operator.session)
        if session is None or self._clock() >= self.ends_at(session):
            return False
        if session.key:
            return await self._of_key(session) is not None
        account = await self._account(session.account)
        return account is not None and not account.disabled

    async def touch(self, operator: Operator) -> None:
        """Note that the person is there."""
        if self._clock() - operator.seen_at >= min(TOUCH_S, self.idle_s / 4):
            await accounts.touch_session(self.keep, operator.session)
            self._sessions.pop(operator.session, None)

    async def named_by_host(self, request: Request) -> str | None:
        """Return the account that the host in front of the server names; None where there is none, or no such host."""
        if self.host is None:
            return None
        found = self.host(request)
        named = await found if isawaitable(found) else found
        if not named:
            return None
        try:
            return accounts.name_of(named)
        except UsageError:
            return None

    async def _of_account(
        self, request: Request, session: StoredSession
    ) -> tuple[str, str, frozenset[str], tuple[str, ...]] | None:
        account = await self._account(session.account)
        if account is None or account.disabled:
            return None
        if session.host and await self.named_by_host(request) != session.account:
            return None  # the host has somebody else there now, or nobody
        rights = ROLES[account.role] | ({EVERYWHERE} if account.everywhere else frozenset())
        return account.shown or session.account, account.role, rights, account.tenants

    async def _of_key(self, session: StoredSession) -> tuple[str, str, frozenset[str], tuple[str, ...]] | None:
        if session.key not in self._keys:
            self._keys[session.key] = await stored_credentials(self.keep).get(session.key)
        stored = self._keys.get(session.key)
        if stored is None or stored.kind != "service" or stored.over(self._clock()):
            return None
        return stored.label, "key", rights_of(stored) | {"reveal"}, (stored.tenant,)

    async def _session(self, name: str) -> StoredSession | None:
        if name not in self._sessions:
            self._sessions[name] = await accounts.stored_sessions(self.keep).get(name)
        return self._sessions.get(name)

    async def _account(self, name: str) -> Account | None:
        if name not in self._accounts:
            self._accounts[name] = await accounts.stored_accounts(self.keep).get(name)
        return self._accounts.get(name)


def token_of(request: Request) -> str:
    """Return what is in the cookie of a session; "" without one, or with two."""
    name = cookie_name(request)
    pairs = [pair.strip().partition("=") for line in request.headers.getlist("cookie") for pair in line.split(";")]
    found = [text for known, _, text in pairs if known == name]
    return found[0] if len(found) == 1 else ""


def cookie_name(request: Request) -> str:
    """Return the name of the cookie for sessions of this address."""
    return LOCAL_COOKIE if is_local(request) else COOKIE


def is_local(request: Request) -> bool:
    """Tell whether a browser talks to its own machine without TLS, where some browsers keep no `Secure` cookie."""
    return request.scope.get("scheme") != "https" and is_loopback(request.url.hostname or "")


def header_of(name: str) -> Operators:
    """Return what reads the account from the header *name* of a request that a listed proxy has passed on, and of no other."""

    def named(request: Request) -> str | None:
        given = request.headers.getlist(name)
        return given[0] if len(given) == 1 and request.scope.get("chatkeep.proxy") else None

    return named
