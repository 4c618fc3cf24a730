"""Accounts of people who operate the bot, and the sessions in which they are signed in. Records, on every store.

    await add_account(keep, "kim", role="agent", tenants=["salon"], password="correct horse battery")
    account = await sign_in(keep, "kim", "correct horse battery")      # None: wrong, unknown or disabled; raises `Throttled`
    token = await begin_session(keep, account="kim")                   # shown to the browser alone; the store has its SHA-256

There is no account and no password that nobody has made.
"""

from __future__ import annotations

import re
import secrets
import unicodedata
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import Any

from msgspec import Struct, structs

from ..app import Chatkeep, core_of
from ..conversation.backoff import believed
from ..conversation.keys import key_for
from ..errors import UsageError
from ..storage.records import Records
from .passwords import hash_password, is_password
from .rights import ROLES, Role
from .views import stored_views

ACCOUNTS = "accounts"
"""Under which owner all accounts are found."""

NAME_MOST = 100
FREE_TRIES = 5
"""So many wrong passwords in a row cost no waiting."""

WAIT_S = 15.0
"""So long no password is looked at after the first that is one too many; twice as long after each other one, and WAIT_MOST_S at most."""

WAIT_MOST_S = 300.0

TOKEN = re.compile(r"ck_s_[0-9A-Za-z_-]{43}")


class Throttled(Exception):
    """Too many wrong passwords in a row were tried on an account: the next one is looked at in *after* seconds."""

    def __init__(self, after: float) -> None:
        super().__init__(after)
        self.after = after


class Account(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the store holds of a person.

    shown: the name that customers see. tenants: whose conversations the person sees, the first one unless another is asked for;
    everywhere: all tenants', and switches that concern all. password: its hash; "": only the host in front of the server, or an OpenID
    provider, says who this is. issuer, subject: of whom this is, as a provider has said that let them in. failures: wrong passwords in a
    row; retry_at: when the next one is looked at.
    """

    role: Role = "viewer"
    shown: str = ""
    tenants: tuple[str, ...] = ("",)
    everywhere: bool = False
    password: str = ""
    created_at: float = 0.0
    disabled: bool = False
    failures: int = 0
    retry_at: float = 0.0
    signed_in_at: float | None = None
    issuer: str = ""
    subject: str = ""


class StoredSession(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the store holds of a session: of an *account*, or of the service key whose record is called *key*. *host*: the host in front of
    the server said who it is. begun_at; seen_at: when the person last did something, to the minute."""

    account: str = ""
    key: str = ""
    host: bool = False
    begun_at: float = 0.0
    seen_at: float = 0.0


# -- accounts -------------------------------------------------------------------------------------------------------------


def stored_accounts(keep: Chatkeep[Any]) -> Records[Account]:
    """Return where the accounts are kept."""
    return core_of(keep).records("accounts", Account)


def name_of(text: str) -> str:
    """Return the name of an account as it is stored: the same however it is typed. Raises `UsageError`."""
    name = unicodedata.normalize("NFKC", text).strip().casefold()
    if not 1 <= len(name) <= NAME_MOST or any(unicodedata.category(letter)[0] in "CZ" for letter in name):
        raise UsageError(
            f"{text!r:.60} cannot be the name of an account, which has 1 to {NAME_MOST} visible characters and no spaces."
        )
    key_for("", name)
    return name


async def add_account(
    keep: Chatkeep[Any],
    name: str,
    *,
    role: Role,
    tenants: Iterable[str] = ("",),
    everywhere: bool = False,
    shown: str = "",
    password: str | None = None,
) -> Account:
    """Make an account; without a *password* it is for who the host in front of the server says it is.

    Raises `UsageError` where there is one of that name.
    """
    if role not in ROLES:
        raise UsageError(f"{role!r:.40} is not a role; the roles are {', '.join(ROLES)}.")
    named = tuple(dict.fromkeys(tenants)) or ("",)
    for tenant in named:
        key_for(tenant, "-")
    made = Account(
        role=role,
        shown=shown,
        tenants=named,
        everywhere=everywhere,
        password="" if password is None else await hash_password(password),
        created_at=core_of(keep).clock(),
    )

    def add(held: Account | None) -> Account:
        if held is not None:
            raise UsageError(
                f"There is an account {name!r} already; nothing was changed. `chatkeep accounts change` changes it."
            )
        return made

    await stored_accounts(keep).change(name_of(name), add, owner=ACCOUNTS)
    return made


async def list_accounts(keep: Chatkeep[Any]) -> list[tuple[str, Account]]:
    """Return all accounts by name, in order."""
    return sorted([pair async for pair in stored_accounts(keep).owned_records(ACCOUNTS)], key=lambda pair: pair[0])


def may_look_after(account: Account, tenant: str) -> bool:
    """Tell whether the conversations of *tenant* may be assigned to an account."""
    return (
        not account.disabled and "operate" in ROLES[account.role] and (account.everywhere or tenant in account.tenants)
    )


async def change_account(keep: Chatkeep[Any], name: str, edit: Callable[[Account], Account]) -> Account | None:
    """Put what *edit* makes of an account in its place; None where there is no such account."""
    return await stored_accounts(keep).change(name_of(name), lambda held: held and edit(held))


async def set_password(keep: Chatkeep[Any], name: str, password: str) -> Account | None:
    """Give an account another password, and end its sessions; None where there is no such account."""
    hashed = await hash_password(password)
    changed = await change_account(
        keep, name, lambda held: structs.replace(held, password=hashed, failures=0, retry_at=0.0)
    )
    await end_sessions(keep, name)
    return changed


async def remove_account(keep: Chatkeep[Any], name: str) -> bool:
    """Remove an account with its views, and end its sessions; False where there is none."""
    if await stored_accounts(keep).remove(name_of(name), unreadable=Account) is None:
        return False
    await stored_views(keep).erase(name_of(name))
    await end_sessions(keep, name)
    return True


async def sign_in(keep: Chatkeep[Any], name: str, password: str) -> Account | None:
    """
    Return the account whose name and password these are; None for anything else, after as long a time.

    A try is counted before it is looked at, so that many at once are many. After FREE_TRIES wrong ones in a row the account looks
    at none for a while, twice as long each time: raises `Throttled`.
    """
    records, now = stored_accounts(keep), core_of(keep).clock()
    try:
        stored_as = name_of(name)
    except UsageError:
        await is_password(password, "")
        return None
    wait_s = 0.0

    def count(held: Account | None) -> Account | None:
        nonlocal wait_s
        wait_s = max(believed(held.retry_at, WAIT_MOST_S, at=now) - now, 0.0) if held else 0.0
        if held is None or wait_s:
            return None
        failures = held.failures + 1
        pause_s = min(WAIT_S * 2.0 ** min(failures - FREE_TRIES, 20), WAIT_MOST_S) if failures >= FREE_TRIES else 0.0
        return structs.replace(held, failures=failures, retry_at=now + pause_s if pause_s else 0.0)

    counted = await records.change(stored_as, count)
    if wait_s:
        raise Throttled(wait_s)
    good = await is_password(password, counted.password if counted else "")
    if counted is None or not good or counted.disabled:
        return None
    return await records.change(
        stored_as, lambda held: held and structs.replace(held, failures=0, retry_at=0.0, signed_in_at=now)
    )


# -- sessions -------------------------------------------------------------------------------------------------------------


def stored_sessions(keep: Chatkeep[Any]) -> Records[StoredSession]:
    """Return where the sessions are kept."""
    return core_of(keep).records("sessions", StoredSession)


def session_name(token: str) -> str | None:
    """Return the name under which the store has a session; None if *token* is none, which needs no look-up."""
    return sha256(token.encode()).hexdigest() if TOKEN.fullmatch(token) else None


def proof_of(token: str) -> str:
    """Return what a page of ours sends beside the cookie: only who may read an answer of this host has it."""
    return sha256(f"desk:{token}".encode()).hexdigest()[:40]


async def begin_session(keep: Chatkeep[Any], *, account: str = "", key: str = "", host: bool = False) -> str:
    """Begin a session of an account, or of who holds a service key; returns its token."""
    token, now = f"ck_s_{secrets.token_urlsafe(32)}", core_of(keep).clock()
    made = StoredSession(account=account, key=key, host=host, begun_at=now, seen_at=now)
    await stored_sessions(keep).change(str(session_name(token)), lambda held: made, owner=_owner(account, key))
    return token


async def touch_session(keep: Chatkeep[Any], name: str) -> None:
    """Note that the person of a session is there."""
    now = core_of(keep).clock()
    await stored_sessions(keep).change(
        name, lambda held: held and structs.replace(held, seen_at=max(now, held.seen_at))
    )


async def end_session(keep: Chatkeep[Any], name: str) -> None:
    """End a session."""
    await stored_sessions(keep).erase(name)


async def end_sessions(keep: Chatkeep[Any], account: str) -> int:
    """End all sessions of an account; returns how many there were."""
    records, count = stored_sessions(keep), 0
    async for name in records.owned(_owner(name_of(account), "")):
        await records.erase(name)
        count += 1
    return count


async def tidy_sessions(keep: Chatkeep[Any], account: str, key: str, *, longest_s: float) -> None:
    """Remove the sessions of an account, or key, that are over."""
    records, now = stored_sessions(keep), core_of(keep).clock()
    over = [n async for n, held in records.owned_records(_owner(account, key)) if held.begun_at + longest_s <= now]
    for name in over:
        await records.erase(name)


def _owner(account: str, key: str) -> str:
    """Return the owner under whom the sessions of an account, or key, are found."""
    return f"account:{account}" if account else f"key:{key[:16]}"
