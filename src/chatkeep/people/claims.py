"""Claims: a guest, or another account, has become a user, and what was the guest's is the user's from then on.

The claim is one record, under the name of who was moved and owned by the user: written in one act on any store, so it is made or it is
not. Who owns a conversation is found through it, so nothing else has to be written for lists and rights to follow. Rows get their
new owner later, when the claim cannot be undone any more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from msgspec import Struct, structs

from ..conversation.keys import RESERVED, check_user
from ..conversation.snapshots import Commit, Snapshot
from ..drivers.base import Key
from ..errors import Conflict, Corrupt, OtherOwner, StoreError, Unsupported, UsageError
from ..storage.audit import Act, AuditLog
from ..storage.holds import Hold, Holds
from ..storage.reader import PAGE
from ..storage.records import CLAIMS, Records
from ..storage.store import Store

log = logging.getLogger("chatkeep")

UNDO_S = 86_400.0
"""So long a claim can be undone; rows are given their new owner after it."""

DEEPEST = 32
"""Accounts that are merged into one another, one after the other, at most."""

MOVED_AT_ONCE = 20
"""Rows that are given their new owner with one look at a user's conversations."""


class Claim(Struct, frozen=True, omit_defaults=True):
    """Who an account was moved to, when, and who said so; settled: its conversations have their new owner."""

    moved_to: str = ""
    at: float = 0.0
    by: str = ""
    settled: bool = False


class Claims:
    """The claims of one tenant, in one store."""

    def __init__(self, store: Store, tenant: str, *, clock: Callable[[], float]) -> None:
        self._store = store
        self._tenant = tenant
        self._clock = clock
        self._records = Records(store, CLAIMS + tenant, Claim, clock=clock)
        self._holds = Holds(store, tenant, clock=clock)

    async def find_user(self, subject: str) -> str:
        """Return the user that *subject* stands for: itself, unless it was claimed."""
        path: list[tuple[float, str]] = []
        while (claim := await self._records.get(subject)) is not None and claim.moved_to:
            if any(name == subject for _, name in path):
                # Two accounts were merged into each other at once: the claim that came last does not count.
                start = next(place for place, (_, name) in enumerate(path) if name == subject)
                return max(path[start:])[1]
            path.append((claim.at, subject))
            subject = claim.moved_to
            if len(path) > DEEPEST:
                raise UsageError(f"{subject!r:.60}: more than {DEEPEST} accounts were merged one into the other.")
        return subject

    async def find_owners(self, user: str) -> dict[str, Claim | None]:
        """Return the names under which *user* owns conversations: its own, first, and those that were claimed for it, with their claims."""
        owners: dict[str, Claim | None] = {user: None}
        pending = [user]
        while pending:
            name = pending.pop()
            # A claim is written with its owner, so whose one is that cannot be read is known, but not since when: it is not settled.
            async for subject, claim in self._records.owned_records(name, unreadable=partial(Claim, moved_to=name)):
                if subject not in owners and claim.moved_to == name:
                    owners[subject] = claim
                    pending.append(subject)
        return owners

    async def refuse_other(self, key: Key, held: str, owner: str) -> None:
        """Raise `OtherOwner` when a conversation that is *held*'s is asked for in the name of *owner*, who is another person."""
        if held == owner or held in await self.find_owners(await self.find_user(owner)):
            return
        whose = f"belongs to {held!r}" if held else "has no owner"
        raise OtherOwner(
            f"{key}: the conversation exists and {whose}, so it was not taken for {owner!r}; nothing was changed. "
            "Use another id, or leave the owner out to have the conversation as it is.",
            owner=held,
        )

    async def claim(self, user: str, subject: str, *, by: str = "") -> str:
        """
        Make what is *subject*'s *user*'s, in one act; and return the user that both are from now on.

        Twice is fine, also of what another account of the same person has claimed. Where *user* is on legal hold, *subject* is then.
        Raises `OtherOwner` when *subject* was claimed for somebody else, and `UsageError` when *user* itself was moved to *subject* before.
        """
        user, subject, by = check_user(user), check_user(subject), check_user(by or user)
        person = await self._claim(user, subject, by)
        # (After the claim: who puts a hold meanwhile looks at the names once more.)
        if (held := await self._holds.find_of_owner(user)) is not None:
            await self._hold_all(subject, reason=held.reason)
        return person

    async def hold(self, user: str, *, reason: str) -> list[Hold]:
        """
        Put all that is *user*'s on legal hold, under each of its names; return the holds.

        Raises `UsageError` where *user* was claimed longer than UNDO_S ago and is not on hold: what it had is another's by then.
        """
        with suppress(Corrupt, Unsupported):  # nobody can tell whose it is then; what has the name is on hold
            claim, person = await self._records.get(user), await self.find_user(user)
            moved = claim is not None and person != user and self._is_final(claim)
            if moved and await self._holds.find_of_owner(user) is None:
                raise UsageError(
                    f"{user!r:.60} has become {person!r:.60}, and so has what it had; nothing was put on hold. Put the hold on that name: "
                    "it covers all the names of that person."
                )
        return await self._hold_all(user, reason=reason)

    def _is_final(self, claim: Claim) -> bool:
        """Tell whether a claim can be undone no more: conversations are given their new owner then."""
        return claim.settled or claim.at + UNDO_S <= self._clock()

    async def _hold_all(self, user: str, *, reason: str) -> list[Hold]:
        made: dict[str, Hold] = {}
        # Until there is no other name: one that is claimed meanwhile is among those that are looked up after the hold is there.
        while names := [name for name in await self.find_owners(user) if name not in made]:
            for name in names:
                made[name] = await self._holds.put(owner=name, reason=reason)
        return [*made.values()]

    async def _claim(self, user: str, subject: str, by: str) -> str:
        if user == subject:
            raise UsageError(f"{user!r:.60} cannot claim itself; nothing was changed.")
        person, held = await self.find_user(user), await self._records.get(subject)
        if person == await self.find_user(subject):
            if person == subject:
                raise UsageError(
                    f"{user!r:.60} was merged into {subject!r:.60} before, so it cannot claim it; nothing was changed."
                )
            if held is not None and held.moved_to != user:
                return person
        now = self._clock()

        def move(held: Claim | None) -> Claim | None:
            if held is not None and held.moved_to != user:
                raise OtherOwner(f"{subject!r:.60} was claimed for somebody else; nothing was changed.")
            return held or Claim(moved_to=user, at=now, by=by)

        await self._records.change(subject, move, owner=user)
        await self._note("claim", user, subject, by)
        return await self.find_user(user)

    async def undo(self, user: str, subject: str, *, by: str = "") -> bool:
        """
        Undo a claim that *user* has made, or an account that was claimed for it: what was *subject*'s is its own again. One act.

        False when there is none, or none any more. Raises `UsageError` when it was made more than UNDO_S ago.
        """
        user, subject, by = check_user(user), check_user(subject), check_user(by or user)
        key = Key(RESERVED + CLAIMS + self._tenant, subject)
        snapshot, claim = await self._store.load(key), await self._records.get(subject)
        if snapshot is None or claim is None or user == subject or subject not in await self.find_owners(user):
            return False
        if self._is_final(claim):
            raise UsageError(f"{user!r:.60} claimed {subject!r:.60} too long ago to undo it; nothing was changed.")
        with suppress(Conflict):  # undone by somebody else meanwhile, or settled
            await self._store.erase(key, at=self._clock(), revision=snapshot.row.revision)
            await self._note("claim:undo", user, subject, by)
            return True
        return await self.undo(user, subject, by=by)

    async def adopt(self, key: Key, owner: str) -> None:
        """Make a visitor's conversation, if it is nobody's, *owner*'s."""
        await self._move(key, "", owner)

    async def settle(self, owners: dict[str, Claim | None]) -> None:
        """Give some conversations of old claims their new owner; also what was written by a guest's other page meanwhile is found. Those
        of an owner on hold keep theirs, by which the hold finds them."""
        left = MOVED_AT_ONCE
        for subject, claim in owners.items():
            if claim is None or claim.settled or not claim.at or claim.at + UNDO_S > self._clock():
                continue
            if await self._holds.find_of_owner(subject) is not None:
                continue
            rows = await self._store.rows("owner", tenant=self._tenant, owner=subject, limit=min(left + 1, PAGE))
            for row in rows[:left]:
                try:
                    await self._move(row.key, subject, claim.moved_to)
                except (Corrupt, Unsupported) as fault:
                    log.warning("A conversation was not given its new owner: %s", fault)
            if len(rows) <= left:
                await self._records.change(subject, lambda held: held and structs.replace(held, settled=True))
            left -= min(len(rows), left)
            if not left:
                return

    async def _move(self, key: Key, old: str, new: str) -> None:
        def decide(there: Snapshot) -> Commit | None:
            if not there.row.revision or there.row.owner != old:
                return None
            row, record = there.row, structs.replace(there.record, visitor=False)
            return Commit(
                record=record,
                lease=row.lease,
                leased_until=row.leased_until,
                due_at=row.due_at,
                untouched=True,
                owner=new,
            )

        await self._store.commit(await self._store.reload(key), decide, at=self._clock())

    async def _note(self, act: str, user: str, subject: str, by: str) -> None:
        made = Act(act=act, by=by or user, label=subject, at=self._clock())
        try:
            await AuditLog(self._store, clock=self._clock).write(self._tenant, [made])
        except StoreError as fault:  # it is done; the record says by whom, and when
            log.error("%s of %s by %s was not noted in the audit log: %s", act, subject, made.by, fault)
