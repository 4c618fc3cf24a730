"""The rule by which an endpoint lets somebody in, as a table: who asks, what the endpoint takes, what that somebody is told."""

from __future__ import annotations

from typing import Any

import pytest

from chatkeep.auth.credentials import StoredCredential
from chatkeep.server.principals import VISITOR, AccessPolicy, Principal, judge
from chatkeep.server.signed_in import Operator
from chatkeep.server.wire import Refused

pytestmark = pytest.mark.rules

KEY = Principal(kind="service", id="k1", scopes=frozenset({"read", "list"}))
TOKEN = Principal(kind="token", conversation="ada", scopes=frozenset({"read"}))
USER = Principal(kind="user", user="ada", scopes=frozenset({"read"}))
AGENT = Principal(kind="operator", id="agent", scopes=frozenset({"read", "list", "reveal"}))
VIEWER = Principal(kind="operator", id="viewer", scopes=frozenset({"read", "list"}))

READ, WRITE = AccessPolicy(scope="read"), AccessPolicy(scope="write")
LIST = AccessPolicy(right="list")
MASKED = AccessPolicy(right="list", masks=True)
OWN, MINE = AccessPolicy(own=True), AccessPolicy(user=True)
OPEN = AccessPolicy(scope="read", visitor=True)
BEGIN = AccessPolicy(scope="read", creates=True)


def told(who: Principal, policy: AccessPolicy, conversation: str | None = "ada", **how: bool) -> tuple[int, str]:
    """What is answered: 200 for whoever is let in."""
    given: dict[str, Any] = {"visitors": True, "absent": False} | how
    try:
        judge(who, policy, conversation, **given)
    except Refused as refused:
        return refused.status_code, refused.detail
    return 200, ""


@pytest.mark.parametrize(
    ("expected", "who", "policy", "how"),
    [
        (401, VISITOR, READ, {}),
        (200, VISITOR, OPEN, {}),
        (401, VISITOR, OPEN, {"visitors": False}),
        (200, KEY, READ, {}),
        (403, KEY, WRITE, {}),
        (200, KEY, LIST, {}),
        (200, KEY, OWN, {}),
        (403, KEY, MINE, {}),
        (200, KEY, READ, {"absent": True}),
        (200, TOKEN, READ, {}),
        (403, TOKEN, WRITE, {}),
        (403, TOKEN, LIST, {}),
        (403, TOKEN, MINE, {}),
        (200, TOKEN, OWN, {}),
        (200, TOKEN, READ, {"conversation": None}),
        (404, TOKEN, READ, {"conversation": "bob"}),
        (404, TOKEN, LIST, {"conversation": "bob"}),
        (200, USER, READ, {}),
        (403, USER, WRITE, {}),
        (403, USER, LIST, {}),
        (200, USER, MINE, {}),
        (404, USER, READ, {"absent": True}),
        (200, USER, BEGIN, {"absent": True}),
        (404, USER, LIST, {"absent": True}),
        (200, AGENT, READ, {}),
        (200, AGENT, LIST, {}),
        (403, AGENT, WRITE, {}),
        (403, AGENT, OWN, {}),
        (403, AGENT, MINE, {}),
        (200, VIEWER, MASKED, {}),
        (403, VIEWER, LIST, {}),
        (403, VIEWER, READ, {}),
    ],
)
def test_who_is_let_in(expected: int, who: Principal, policy: AccessPolicy, how: dict[str, Any]) -> None:
    """Whose a conversation is comes first: who holds no right to it learns nothing, not even what it would take."""
    assert expected == told(who, policy, **how)[0]


def test_a_right_that_users_have_beside_keys_lets_both_in() -> None:
    """An endpoint of users that also names a right is no endpoint of users alone."""
    both = AccessPolicy(user=True, right="list")

    assert [200, 200] == [told(who, both)[0] for who in (USER, KEY)]


@pytest.mark.parametrize(
    ("expected", "who", "policy"),
    [
        ("This key has not the right 'write', which this takes; nothing was done.", KEY, WRITE),
        ("The role of agent has not the right 'write', which this takes; nothing was done.", AGENT, WRITE),
        ("viewer may not see what is personal, and this would show it.", VIEWER, LIST),
        ("This takes a credential; who is signed in asks /v1/session.", AGENT, OWN),
        ("This takes a service key; a user cannot do it.", USER, LIST),
        ("This takes a service key; a conversation's token cannot do it.", TOKEN, LIST),
        ("This token has not the scope 'write', which this takes.", TOKEN, WRITE),
        ("This token has not the scope 'write', which this takes.", USER, WRITE),
        ("This takes a user's token: it is about all conversations of one user.", TOKEN, MINE),
    ],
)
def test_who_is_not_let_in_is_told_what_it_takes(expected: str, who: Principal, policy: AccessPolicy) -> None:
    assert expected == told(who, policy)[1]


def test_a_policy_of_a_right_alone_is_for_those_who_stand_for_a_tenant() -> None:
    policies = (
        LIST,
        MASKED,
        READ,
        OWN,
        MINE,
        AccessPolicy(right="list", own=True),
        AccessPolicy(right="list", user=True),
    )

    assert [True, True, False, False, False, False, False] == [policy.rulers_only for policy in policies]
    assert [True, False, False, True, True, False] == [who.rules for who in (KEY, TOKEN, USER, AGENT, VIEWER, VISITOR)]
    assert [VIEWER] == [who for who in (KEY, TOKEN, USER, AGENT, VIEWER, VISITOR) if who.masked]


def test_what_people_call_somebody() -> None:
    """The label of a credential, or the name that customers see; a visitor has none, and no subject."""
    person = Operator(
        name="ann",
        shown="Ann from the salon",
        role="agent",
        rights=frozenset(),
        tenants=("",),
        everywhere=False,
        session="s",
        proof="p",
        begun_at=0.0,
        seen_at=0.0,
    )
    stored = StoredCredential(kind="service", label="CRM", subject="crm")
    labels = [
        Principal(kind="operator", operator=person, stored=stored).label,
        Principal(kind="service", stored=stored).label,
        VISITOR.label,
    ]

    assert ["Ann from the salon", "CRM", ""] == labels
    assert ("", "visitor") == (VISITOR.subject, VISITOR.holder)
    assert Principal(kind="service", stored=stored).subject != ""
    assert stored.holder == Principal(kind="service", stored=stored).holder
