"""How long credentials give rights, and what ends with what; that the server keeps to it is tried in tests/server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec import structs

from chatkeep import Chatkeep, UsageError
from chatkeep.auth import credentials
from chatkeep.auth.credentials import (
    REUSE_S,
    TOKEN_S,
    Issued,
    StoredCredential,
    create_key,
    end_reused,
    issue_share,
    issue_token,
    issue_user_token,
    list_keys,
    list_related,
    list_tokens,
    redeem,
    revoke,
    revoke_key,
    rotate,
    stored_credentials,
    subject_of,
)
from chatkeep.auth.format import name_of

from ..support.clock import Clock

TOKEN = StoredCredential(expires_at=100.0, family="f", ancestors=("a",), conversation="ada")


@pytest.fixture
def clock() -> Clock:
    """What time it is."""
    return Clock()


@pytest.fixture
async def keep(clock: Clock) -> AsyncIterator[Chatkeep[Any]]:
    """A store in memory."""
    async with Chatkeep("memory://", clock=clock) as keep:
        yield keep


async def held(keep: Chatkeep[Any], issued: Issued) -> StoredCredential | None:
    """What the store has of a credential."""
    return await stored_credentials(keep).get(str(name_of(issued.token)))


@pytest.mark.parametrize(
    ("changed", "now", "over"),
    [
        ({}, 99.9, False),
        ({}, 100.0, True),
        ({"expires_at": None}, 1e12, False),
        ({"revoked": True}, 0.0, True),
        ({"uses": 0}, 0.0, True),
        ({"rotated": True}, 99.9, False),
    ],
)
def test_a_credential_is_over_when_it_has_expired_was_used_up_or_revoked(
    changed: dict[str, Any], now: float, over: bool
) -> None:
    """One that was rotated lives out its grace."""
    assert over is structs.replace(TOKEN, **changed).over(now)


@pytest.mark.parametrize(
    ("changed", "now", "reused"),
    [
        ({"rotated": True}, 100.0, True),
        ({"rotated": True}, 99.0, False),
        ({}, 100.0, False),
        ({"rotated": True, "revoked": True}, 100.0, False),
    ],
)
def test_what_is_used_after_its_grace_is_held_by_two(changed: dict[str, Any], now: float, reused: bool) -> None:
    """Unless it was ended on purpose, or has only expired."""
    assert reused is structs.replace(TOKEN, **changed).reused(now)


def test_a_credential_comes_from_its_family_and_from_those_before() -> None:
    """It ends with each of them."""
    assert [True, True, False, False] == [TOKEN.comes_from(family) for family in ("f", "a", "b", "")]


@pytest.mark.parametrize(
    ("changed", "holder"),
    [
        ({}, "holder"),
        ({"subject": "guest:1"}, "visitor"),
        ({"subject": "ada"}, "user"),
        ({"kind": "service", "subject": "ada"}, "service"),
        ({"kind": "user", "subject": "ada"}, "user"),
    ],
)
def test_a_holder_is_told_by_kind_and_subject(changed: dict[str, Any], holder: str) -> None:
    """A guest has a name that nobody knows."""
    assert holder == structs.replace(TOKEN, **changed).holder


def test_the_name_of_a_holder_tells_nothing_and_is_the_same_for_all_that_it_holds() -> None:
    """In another tenant, and for another holder, it is another one; a user that is named like a conversation is not it."""
    ones = [
        TOKEN,
        structs.replace(TOKEN, conversation="ben"),
        structs.replace(TOKEN, tenant="salon"),
        structs.replace(TOKEN, subject="ada"),
        structs.replace(TOKEN, kind="service"),
    ]

    assert 5 == len({subject_of(one) for one in ones})
    assert subject_of(ones[3]) == subject_of(structs.replace(ones[3], conversation="ben", kind="user", family="g"))
    assert subject_of(TOKEN) == subject_of(structs.replace(TOKEN, family="g"))


async def test_a_rotated_token_lives_out_its_grace_and_no_longer_than_before(keep: Chatkeep[Any], clock: Clock) -> None:
    """The new one lasts as long as the old one would have."""
    long, short = [await issue_token(keep, "", "ada", expires_in=time) for time in (1000.0, 10.0)]
    for issued, ends in ((long, 60.0), (short, 10.0)):
        now = clock.now
        fresh = await rotate(keep, "", "ada", issued.id, grace=60.0)
        old = await held(keep, issued)
        assert fresh is not None
        assert old is not None
        assert old.expires_at is not None

        assert old.rotated
        assert ends == pytest.approx(old.expires_at - now, abs=1.0)
        assert issued.expires_at == fresh.expires_at


async def test_a_token_is_rotated_once_while_it_is_good(keep: Chatkeep[Any], clock: Clock) -> None:
    """Whoever has only the old one gets no new one; of one that is over, or was never there, there is none."""
    issued, other = [await issue_token(keep, "", "ada", expires_in=100.0) for _ in range(2)]
    share = await issue_share(keep, "", "ada", maker="")
    assert share is not None
    assert await rotate(keep, "", "ada", issued.id, grace=50.0)
    with pytest.raises(UsageError, match="was rotated or revoked before; nothing was changed"):
        await rotate(keep, "", "ada", issued.id, grace=50.0)
    clock.now += 101

    assert 4 == len(await list_tokens(keep, "", "ada"))
    for id in (other.id, share.id, "0" * len(other.id), other.id[:-1], "", "x"):
        assert await rotate(keep, "", "ada", id, grace=50.0) is None
    assert await rotate(keep, "", "ben", issued.id, grace=50.0) is None


async def test_a_credential_is_called_by_its_whole_id(keep: Chatkeep[Any]) -> None:
    """Half of one ends nothing."""
    key = await create_key(keep, "", label="ci")

    assert [False, False, False] == [await revoke_key(keep, id) for id in (key.id[:-1], key.id + "0", "")]
    assert [False] == [listed.revoked for listed in await list_keys(keep)]
    assert [True, True] == [await revoke_key(keep, key.id) for _ in range(2)]
    assert [True] == [listed.revoked for listed in await list_keys(keep)]


async def test_a_share_is_used_so_often_and_ends_with_its_maker(keep: Chatkeep[Any], clock: Clock) -> None:
    """So does what it was redeemed for, which lasts no longer than the maker."""
    maker = await issue_token(keep, "", "ada", expires_in=500.0)
    share = await issue_share(keep, "", "ada", maker=str(name_of(maker.token)), uses=2, expires_in=9e9)
    assert share is not None
    found = [await redeem(keep, share.token) for _ in range(3)]
    assert found[0] is not None

    assert [True, True, False] == [one is not None for one in found]
    assert maker.expires_at == share.expires_at
    assert maker.expires_at == pytest.approx(found[0][2].expires_at, abs=1.0)
    assert await revoke(keep, "", "ada", maker.id)
    ended = [await held(keep, issued) for issued in (maker, share, found[0][2])]
    assert [True] * 3 == [one is not None and one.revoked for one in ended]
    assert await issue_share(keep, "", "ada", maker=str(name_of(maker.token))) is None


async def test_a_share_without_a_maker_of_the_store_lasts_as_it_says(keep: Chatkeep[Any], clock: Clock) -> None:
    """What it is redeemed for lasts as any token; a token is no share."""
    share = await issue_share(keep, "", "ada", maker="", expires_in=50.0)
    assert share is not None
    found = await redeem(keep, share.token)
    assert found is not None
    assert found[2].expires_at is not None
    late = await issue_share(keep, "", "ada", maker="", expires_in=50.0)
    assert late is not None
    clock.now += 51

    assert ("", "ada") == found[:2]
    assert TOKEN_S == pytest.approx(found[2].expires_at - clock.now, abs=60.0)
    assert [None, None, None] == [await redeem(keep, text) for text in (late.token, found[2].token, "nonsense")]


async def test_who_uses_a_rotated_token_late_ends_its_family(keep: Chatkeep[Any]) -> None:
    """Thief and holder cannot be told apart; others of the conversation, and a user's own, go on."""
    old, other = [await issue_token(keep, "", "ada") for _ in range(2)]
    device, spare = [await issue_user_token(keep, "", "ada") for _ in range(2)]
    fresh = await rotate(keep, "", "ada", old.id, grace=0.0)
    assert fresh is not None
    for issued in (old, device):
        stored = await held(keep, issued)
        assert stored is not None
        await end_reused(keep, stored)
    seen = [await held(keep, issued) for issued in (old, fresh, other, device, spare)]

    assert [True, True, False, True, False] == [one is not None and one.revoked for one in seen]


async def test_who_holds_a_token_sees_what_it_may_end(keep: Chatkeep[Any]) -> None:
    """Its family, and all of its subject; nobody else's, and of nobody's only the family."""
    ada, again, ben, nobody, other = [
        await issue_token(keep, "", "c", subject=subject) for subject in ("ada", "ada", "ben", "", "")
    ]
    seen = []
    for issued in (ada, nobody):
        stored = await held(keep, issued)
        assert stored is not None
        seen.append([listed.id for listed in await list_related(keep, stored)])

    assert [[ada.id, again.id], [nobody.id]] == seen
    assert [ben.id, other.id] == [
        listed.id for listed in await list_tokens(keep, "", "c") if listed.id in (ben.id, other.id)
    ]


async def test_what_is_over_is_removed_with_time_and_what_was_rotated_stays_to_be_seen(
    keep: Chatkeep[Any], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its use would say that two hold it; a week after its grace it goes too."""
    monkeypatch.setattr(credentials.secrets, "token_hex", lambda size: "")  # each look begins at the first
    over, rotated, lasting = [await issue_token(keep, "", "ada", expires_in=time) for time in (10.0, 1e9, 1e9)]
    assert await rotate(keep, "", "ada", rotated.id, grace=10.0)
    left = []
    for wait in (9.0, 2.0, REUSE_S - 10, 10.0):
        clock.now += wait
        share = await issue_share(keep, "", "ada", maker="")
        assert share is not None
        await stored_credentials(keep).erase(str(name_of(share.token)))
        left.append([await held(keep, issued) is not None for issued in (over, rotated, lasting)])

    assert [[True, True, True], [False, True, True], [False, True, True], [False, False, True]] == left
