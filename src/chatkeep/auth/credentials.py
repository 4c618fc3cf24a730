"""Access: what the store keeps of the credentials that people hold, and how they are made, changed and ended.

The store holds the SHA-256 of a credential only, as the name of its record; `format` is how it is written.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing, suppress
from hashlib import sha256
from typing import Any, Literal, get_args

from msgspec import Struct, structs

from ..app import Chatkeep, core_of
from ..conversation.keys import GUEST, key_for
from ..drivers.base import mark_of
from ..errors import Corrupt, UsageError
from ..storage.records import Records, owner_of_user
from .format import Kind, id_of, make_credential, name_of

Scope = Literal["read", "send", "state:read", "state:write", "share", "erase", "save"]
Holder = Literal["service", "user", "visitor", "holder"]

SCOPES: frozenset[str] = frozenset(get_args(Scope))
TOKEN_SCOPES: tuple[Scope, ...] = ("read", "send")
USER_SCOPES: tuple[Scope, ...] = ("read", "send", "state:read", "state:write", "share", "erase", "save")

DAY_S = 86_400.0
TOKEN_S, TOKEN_LONGEST_S = 30 * DAY_S, 400 * DAY_S
SHARE_S, SHARE_LONGEST_S = 600.0, 7 * DAY_S
"""How long a token and a share last unless that is said, and how long they may at most where HTTP asks for them."""

KEYS = "keys"
EVERYWHERE = "everywhere"
"""Among the scopes of a service key: what concerns all tenants is allowed too."""

REUSE_S = 7 * DAY_S
"""So long a rotated token is kept after its grace, so that its use is seen and ends its family."""

DEEPEST = 8
"""Levels of shares that were made from what a share was redeemed for."""

TIDIED = 4
"""So many credentials of a conversation are looked at with each new one, to remove what is over."""


class StoredCredential(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the store holds of a credential.

    subject: who holds it, as far as its maker has said; "": whoever has the conversation's tokens. family: the first
    of a row of tokens that were rotated, or the credential itself. ancestors: the families that it comes from by shares,
    the first maker first; it ends with each of them. rotated: another has taken its place, and it only lives out its
    grace. uses: how often a share can still be redeemed; until: when a token that it gives expires at the latest.
    """

    kind: Kind = "token"
    tenant: str = ""
    conversation: str = ""
    subject: str = ""
    scopes: tuple[str, ...] = ()
    label: str = ""
    family: str = ""
    ancestors: tuple[str, ...] = ()
    created_at: float = 0.0
    expires_at: float | None = None
    last_used_at: float | None = None
    revoked: bool = False
    rotated: bool = False
    uses: int = 1
    until: float | None = None

    def over(self, now: float) -> bool:
        """Tell whether it gives no right any more."""
        return self.revoked or not self.uses or (self.expires_at is not None and self.expires_at <= now)

    def reused(self, now: float) -> bool:
        """Tell whether its use at *now* says that two hold it: another has taken its place, and its grace is over."""
        return self.rotated and not self.revoked and self.over(now)

    def comes_from(self, family: str) -> bool:
        """Tell whether it is of *family*, or was made through a share by somebody of it; such a credential ends with it."""
        return self.family == family or family in self.ancestors

    @property
    def holder(self) -> Holder:
        """What kind of holder this is: a backend, a user that it has named, a visitor, or a holder whom nobody has named."""
        if self.kind == "service":
            return "service"
        return "holder" if not self.subject else "visitor" if self.subject.startswith(GUEST) else "user"


class Issued(Struct, frozen=True, kw_only=True):
    """A new credential; *token* is shown this once and kept nowhere."""

    id: str
    token: str
    scopes: list[str]
    expires_at: float | None
    label: str = ""

    def __repr__(self) -> str:
        return f"Issued(id={self.id!r})"


class Listed(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A credential as people see it. rotated: another has taken its place, and it only lives out its grace; current: it is the one by
    which the list is asked for."""

    id: str
    kind: Kind
    tenant: str
    conversation: str
    scopes: list[str]
    label: str
    created_at: float
    expires_at: float | None
    last_used_at: float | None
    revoked: bool
    rotated: bool
    current: bool = False


def mark_current(found: list[Listed], id: str) -> list[Listed]:
    """Return the list as whoever asks by the credential *id* sees it."""
    return [structs.replace(one, current=True) if one.id == id else one for one in found]


def subject_of(stored: StoredCredential) -> str:
    """
    Name the holder of a credential by an opaque text, which is safe to show and to use as a key.

    The name is the same for all credentials of one holder: after a rotation, for each token that is made for the same
    user, for every service key of a tenant. It is another one in another tenant, and tells neither tenant nor user.
    """
    who = {"service": ["service"], "holder": ["conversation", stored.conversation]}
    said = json.dumps([stored.tenant, *who.get(stored.holder, ["subject", stored.subject])])
    return sha256(said.encode()).hexdigest()[:32]


def new_guest() -> str:
    """Make the subject of somebody whom nobody knows."""
    return GUEST + secrets.token_hex(16)


def stored_credentials(keep: Chatkeep[Any]) -> Records[StoredCredential]:
    """Return where the credentials of all tenants are kept."""
    return core_of(keep).records("access", StoredCredential)


async def create_key(
    keep: Chatkeep[Any],
    tenant: str,
    *,
    label: str = "",
    expires_in: float | None = None,
    everywhere: bool = False,
    scopes: tuple[str, ...] = (),
) -> Issued:
    """
    Make a service key: all rights over all conversations of *tenant*; *everywhere*: and over switches that concern all.

    *scopes*: the key has these only, which `rights.checked_for_key` has looked at.
    """
    key_for(tenant, "-")
    now = core_of(keep).clock()
    expires_at = None if expires_in is None else now + expires_in
    scopes = (*scopes, EVERYWHERE) if everywhere else scopes
    stored = StoredCredential(
        kind="service", tenant=tenant, scopes=scopes, label=label, created_at=now, expires_at=expires_at
    )
    return await _issue(keep, stored, owner=KEYS)


async def list_keys(keep: Chatkeep[Any]) -> list[Listed]:
    """Return all service keys of the store, the oldest first."""
    return [shown(name, stored) async for name, stored in _stored(keep, KEYS)]


async def revoke_key(keep: Chatkeep[Any], id: str) -> bool:
    """End a service key; False when there is no such key. Twice is fine."""
    name = await _found(keep, KEYS, id)
    return name is not None and await _end(keep, name) is not None


async def issue_token(
    keep: Chatkeep[Any],
    tenant: str,
    conversation: str,
    *,
    scopes: Iterable[str] = TOKEN_SCOPES,
    expires_in: float = TOKEN_S,
    label: str = "",
    subject: str = "",
    ancestors: tuple[str, ...] = (),
) -> Issued:
    """Make a token for one conversation, which need not exist yet.

    *subject* names the user whom the token is for. Clients keep apart what different users have written; without a
    subject, all holders of the conversation's tokens count as one. *ancestors*: the families that the token ends with.
    """
    now = core_of(keep).clock()
    stored = StoredCredential(
        tenant=tenant,
        conversation=conversation,
        subject=subject,
        ancestors=ancestors,
        scopes=checked(scopes),
        label=label,
        created_at=now,
        expires_at=now + expires_in,
    )
    owner = owner_of(tenant, conversation)
    await _tidy(keep, owner, now)
    return await _issue(keep, stored, owner=owner)


async def issue_share(
    keep: Chatkeep[Any],
    tenant: str,
    conversation: str,
    *,
    maker: str,
    scopes: Iterable[str] = TOKEN_SCOPES,
    expires_in: float = SHARE_S,
    uses: int = 1,
) -> Issued | None:
    """Make a share of a conversation, to be redeemed *uses* times; None when its maker has no right any more.

    *maker* is the name of a stored credential; "": a user whom the application knows, and the store does not.
    Neither the share nor what it is redeemed for outlives it, if that is a token.
    Raises `UsageError` for the share of a share of a share, and so on, more than DEEPEST times.
    """
    records, now = stored_credentials(keep), core_of(keep).clock()
    held = await records.get(maker) if maker else None
    token = held if held is not None and held.kind == "token" else None
    until = token.expires_at if token else None
    ancestors = (*token.ancestors, token.family) if token else ()
    if len(ancestors) > 2 * DEEPEST:  # a maker and its share on each level
        raise UsageError(
            f"{conversation}: this token was made through {DEEPEST} shares, one after the other, which is the most; it can make no share."
        )
    stored = StoredCredential(
        kind="share",
        tenant=tenant,
        conversation=conversation,
        scopes=checked(scopes),
        ancestors=ancestors,
        created_at=now,
        expires_at=min(now + expires_in, until or now + expires_in),
        uses=uses,
        until=until,
    )
    owner = owner_of(tenant, conversation)
    await _tidy(keep, owner, now)
    issued = await _issue(keep, stored, owner=owner)
    if not maker:
        return issued
    # Looked at only now: whoever revokes the maker ends the shares that are there by then.
    held = await records.get(maker)
    if held is None or held.over(now):
        await records.erase(str(name_of(issued.token)))
        return None
    return issued


async def redeem(keep: Chatkeep[Any], share: str) -> tuple[str, str, Issued] | None:
    """Return the tenant and conversation that a share stands for, and a token for it; None when it is unknown, expired or used up.

    The token ends with the share, and with the token that has made the share.
    """
    records, name, now = stored_credentials(keep), name_of(share), core_of(keep).clock()
    given: StoredCredential | None = None

    def use(held: StoredCredential | None) -> StoredCredential | None:
        nonlocal given
        given = None if held is None or held.kind != "share" or held.over(now) else held
        return given and structs.replace(given, uses=given.uses - 1)

    # The use is counted first: an answer that gets lost costs a use, and never gives one too many.
    if name is not None:
        await records.change(name, use)
    if name is None or given is None:
        return None
    expires_in = TOKEN_S if given.until is None else min(TOKEN_S, given.until - now)
    issued = await issue_token(
        keep,
        given.tenant,
        given.conversation,
        scopes=given.scopes,
        expires_in=expires_in,
        label="shared",
        subject=new_guest(),
        ancestors=(*given.ancestors, given.family),
    )
    # Looked at only now: whoever revokes the share, or its maker, ends the tokens that are there by then.
    held = await records.get(name)
    if held is None or held.revoked:
        await records.erase(str(name_of(issued.token)))
        return None
    return given.tenant, given.conversation, issued


async def issue_user_token(
    keep: Chatkeep[Any],
    tenant: str,
    user: str,
    *,
    scopes: Iterable[str] = USER_SCOPES,
    expires_in: float = TOKEN_S,
    label: str = "",
) -> Issued:
    """Make a token for all conversations of *user*, those that are there and those to come. *label*: such as of the device."""
    owner, now = owner_of_user(tenant, user), core_of(keep).clock()
    stored = StoredCredential(
        kind="user",
        tenant=tenant,
        subject=user,
        scopes=checked(scopes),
        label=label,
        created_at=now,
        expires_at=now + expires_in,
    )
    await _tidy(keep, owner, now)
    return await _issue(keep, stored, owner=owner)


async def list_user_tokens(keep: Chatkeep[Any], tenant: str, user: str) -> list[Listed]:
    """Return all tokens of a user, which are its devices, the oldest first."""
    return [shown(name, stored) async for name, stored in _stored(keep, owner_of_user(tenant, user))]


async def rotate_user_token(keep: Chatkeep[Any], tenant: str, user: str, id: str, *, grace: float) -> Issued | None:
    """Rotate a user's token, as `rotate` does one of a conversation."""
    return await _rotate(keep, owner_of_user(tenant, user), id, grace=grace, of=user)


async def revoke_user_token(keep: Chatkeep[Any], tenant: str, user: str, id: str) -> bool:
    """End a user's token, with those that it was rotated from or to; False when there is no such token."""
    return await _revoke(keep, owner_of_user(tenant, user), id)


async def rotate(keep: Chatkeep[Any], tenant: str, conversation: str, id: str, *, grace: float) -> Issued | None:
    """Make a token that takes the place of another, which goes on for *grace* seconds; None when there is no such token.

    Raises `UsageError` when it was rotated before: whoever has only the old one must not get a new one from it.
    """
    return await _rotate(keep, owner_of(tenant, conversation), id, grace=grace, of=conversation)


async def _rotate(keep: Chatkeep[Any], owner: str, id: str, *, grace: float, of: str) -> Issued | None:
    records, now = stored_credentials(keep), core_of(keep).clock()
    name = await _found(keep, owner, id)
    old = await records.get(name) if name else None
    if name is None or old is None or old.kind not in ("token", "user") or old.over(now):
        return None
    # The new one is made first and ended again if the old one has moved on: nobody knows it before it is answered.
    fresh = structs.replace(old, created_at=now, last_used_at=None, rotated=False)
    issued = await _issue(keep, fresh, owner=owner)
    done = False

    def step_down(held: StoredCredential | None) -> StoredCredential | None:
        nonlocal done
        done = held is not None and not held.rotated and not held.over(now)
        if held is None or not done:
            return None
        ends = now + grace
        return structs.replace(held, rotated=True, expires_at=min(ends, held.expires_at or ends))

    await records.change(name, step_down)
    if not done:
        await records.erase(str(name_of(issued.token)))
        raise UsageError(f"{of}: the token {id} was rotated or revoked before; nothing was changed.")
    return issued


async def revoke(keep: Chatkeep[Any], tenant: str, conversation: str, id: str) -> bool:
    """End a token or share, and whatever comes from it; False when there is no such thing.

    With a token end those that it was rotated from or to, the shares that were made with one of them, what these were
    redeemed for, and so on downwards; with a share what it was redeemed for.
    """
    return await _revoke(keep, owner_of(tenant, conversation), id)


async def _revoke(keep: Chatkeep[Any], owner: str, id: str) -> bool:
    name = await _found(keep, owner, id)
    try:
        ended = await _end(keep, name) if name else None
    except Corrupt:  # it gives no right, and does not say what came from it
        await stored_credentials(keep).erase(str(name))
        return True
    if ended is None:
        return False
    await _end_family(keep, owner, ended.family)
    return True


async def end_reused(keep: Chatkeep[Any], stored: StoredCredential) -> None:
    """End the family of a token that was used after its grace: its thief and its holder cannot be told apart."""
    by_user = stored.kind == "user"
    owner = owner_of_user(stored.tenant, stored.subject) if by_user else owner_of(stored.tenant, stored.conversation)
    await _end_family(keep, owner, stored.family)


async def _end_family(keep: Chatkeep[Any], owner: str, family: str) -> None:
    # Until nothing more is found: what is made meanwhile, from something that was not ended yet, is there by the next look.
    # Whatever is made later sees that its maker has ended.
    found = True
    while found:
        found = False
        async for name, stored in _stored(keep, owner):
            if not stored.revoked and stored.comes_from(family):
                with suppress(Corrupt):  # damaged in this moment: the next look passes over it
                    await _end(keep, name)
                found = True


async def list_related(keep: Chatkeep[Any], stored: StoredCredential) -> list[Listed]:
    """Return the tokens and shares of a conversation that the holder of the token *stored* may end, the oldest first.

    They are those of its family and of its subject, and whatever comes from these.
    """
    held = [pair async for pair in _stored(keep, owner_of(stored.tenant, stored.conversation))]
    families = {stored.family} | {
        other.family for _, other in held if stored.subject and other.subject == stored.subject
    }
    return [shown(name, other) for name, other in held if any(other.comes_from(family) for family in families)]


async def list_tokens(keep: Chatkeep[Any], tenant: str, conversation: str) -> list[Listed]:
    """Return all tokens and shares of a conversation, the oldest first."""
    return [shown(name, stored) async for name, stored in _stored(keep, owner_of(tenant, conversation))]


async def forget(keep: Chatkeep[Any], tenant: str, conversation: str) -> None:
    """Remove all tokens and shares of a conversation; after `erase`, so that whoever was cut off can ask again."""
    records = stored_credentials(keep)
    async for name in records.owned(owner_of(tenant, conversation)):
        await records.erase(name)


def shown(name: str, stored: StoredCredential) -> Listed:
    """Return a credential for people."""
    return Listed(
        id=id_of(name),
        kind=stored.kind,
        tenant=stored.tenant,
        conversation=stored.conversation,
        scopes=sorted(stored.scopes),
        label=stored.label,
        created_at=stored.created_at,
        expires_at=stored.expires_at,
        last_used_at=stored.last_used_at,
        revoked=stored.revoked,
        rotated=stored.rotated,
    )


def checked(scopes: Iterable[str]) -> tuple[str, ...]:
    """Return *scopes* without repetition. Raises `UsageError` for one that there is not."""
    found = tuple(dict.fromkeys(scopes))
    if unknown := [scope for scope in found if scope not in SCOPES]:
        raise UsageError(f"{unknown[0]!r:.40} is not a scope; there are {', '.join(get_args(Scope))}.")
    return found


def owner_of(tenant: str, conversation: str) -> str:
    """Return the owner under whom a conversation's credentials are found."""
    return mark_of(key_for(tenant, conversation))


async def _issue(keep: Chatkeep[Any], stored: StoredCredential, *, owner: str) -> Issued:
    token = make_credential(stored.kind)
    name = str(name_of(token))
    made = structs.replace(stored, family=stored.family or id_of(name))
    await stored_credentials(keep).change(name, lambda held: made, owner=owner)
    return Issued(
        id=id_of(name), token=token, scopes=list(stored.scopes), expires_at=stored.expires_at, label=stored.label
    )


async def _found(keep: Chatkeep[Any], owner: str, id: str) -> str | None:
    """Return the name of the credential that people call *id*: the next in order, if it begins like that."""
    if len(id) != len(id_of("0" * 64)):
        return None
    async with aclosing(stored_credentials(keep).owned(owner, after=id)) as names:
        async for name in names:
            return name if name.startswith(id) else None
    return None


async def _stored(keep: Chatkeep[Any], owner: str) -> AsyncIterator[tuple[str, StoredCredential]]:
    found = [pair async for pair in stored_credentials(keep).owned_records(owner)]
    for name, stored in sorted(found, key=lambda pair: pair[1].created_at):
        yield name, stored


async def _end(keep: Chatkeep[Any], name: str) -> StoredCredential | None:
    def end(held: StoredCredential | None) -> StoredCredential | None:
        return held and structs.replace(held, revoked=True)

    return await stored_credentials(keep).change(name, end)


async def _tidy(keep: Chatkeep[Any], owner: str, now: float) -> None:
    """Remove what is over among a few credentials of a conversation, from a random place on.

    Done with each new one, this keeps what is over a part of the whole, without ever looking at all of them.
    """
    records, seen = stored_credentials(keep), 0
    async with aclosing(records.owned_records(owner, after=secrets.token_hex(8))) as held:
        async for name, stored in held:
            kept_s = REUSE_S if stored.rotated and not stored.revoked else 0.0
            if stored.expires_at is not None and stored.expires_at + kept_s <= now:
                await records.erase(name)
            if (seen := seen + 1) == TIDIED:
                return
