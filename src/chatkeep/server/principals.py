"""Who asks, and whom an endpoint lets in: values, and the rule that judges one by the other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal

from msgspec import Struct
from starlette.requests import Request

from ..auth.credentials import USER_SCOPES, Holder, Scope, StoredCredential, subject_of
from .refusals import forbidden, not_found, unauthorized
from .signed_in import Operator


class KnownUser(Struct, frozen=True, kw_only=True):
    """A user whom the application knows. expires_at: until when, in seconds since 1970; scopes: what the user may do."""

    user: str
    tenant: str = ""
    expires_at: float | None = None
    scopes: tuple[Scope, ...] = USER_SCOPES


Found = str | tuple[str, str] | KnownUser | None

Users = Callable[[Request], Found | Awaitable[Found]]
"""Says which user has sent a request: the user's name, tenant and name, or a `KnownUser`; None: nobody that the application knows."""


class Principal(Struct, frozen=True, kw_only=True):
    """Who asks: a service key, a conversation's token, a user, or a visitor without any. *name* is that of its stored credential, "" of a
    user whom the application knows; *cookie* that of the cookie which has brought it. *user*: its name, as the conversations have it;
    *conversation*: the one of a token, or that a user asks for."""

    kind: Literal["service", "token", "user", "visitor", "operator"]
    user: str = ""
    tenant: str = ""
    conversation: str = ""
    scopes: frozenset[str] = frozenset()
    id: str = ""
    name: str = ""
    expires_at: float | None = None
    cookie: str = ""
    stored: StoredCredential | None = None
    operator: Operator | None = None

    @property
    def masked(self) -> bool:
        """Whether it must not see what is personal."""
        return self.kind == "operator" and "reveal" not in self.scopes

    @property
    def rules(self) -> bool:
        """Whether it stands for a whole tenant: a service key, or a person who is signed in."""
        return self.kind in ("service", "operator")

    @property
    def is_guest(self) -> bool:
        """Whether it has come to its conversation by a share."""
        return self.stored is not None and bool(self.stored.ancestors)

    @property
    def label(self) -> str:
        """What people call it: the label of a credential, the name of a person that customers see."""
        return self.operator.shown if self.operator else self.stored.label if self.stored else ""

    @property
    def subject(self) -> str:
        """Names who asks, as `credentials.subject_of`; "" without credentials. Made only where it is asked for."""
        return "" if self.stored is None else subject_of(self.stored)

    @property
    def asker(self) -> str:
        """Names who asks among all who may: the subject of a credential, the account of a person who is signed in."""
        return self.subject or f"{self.kind}:{self.id}"

    @property
    def holder(self) -> Holder:
        """What kind of holder asks."""
        return "visitor" if self.stored is None else self.stored.holder


VISITOR = Principal(kind="visitor")


class AccessPolicy(Struct, frozen=True, kw_only=True):
    """Whom an endpoint lets in; see `allows`."""

    scope: str = ""
    right: str = ""
    own: bool = False
    user: bool = False
    visitor: bool = False
    anyone: bool = False
    counted: bool = True
    creates: bool = False
    masks: bool = False

    @property
    def rulers_only(self) -> bool:
        """Whether no token and no user is let in."""
        return bool(self.right) and not (self.scope or self.own or self.user)


def judge(
    principal: Principal, policy: AccessPolicy, conversation: str | None, *, visitors: bool, absent: bool
) -> None:
    """Raise what somebody is told who may not; *visitors*: whether the server lets them in, *absent*: nobody has the *conversation*."""
    if principal.kind == "visitor":
        if not (policy.visitor and visitors):
            raise unauthorized()
    elif policy.user and not policy.right and principal.kind != "user":
        raise forbidden("This takes a user's token: it is about all conversations of one user.")
    elif principal.rules:
        judge_ruler(principal, policy)
    elif principal.kind == "user":
        if absent and not policy.creates:
            raise not_found()
        if policy.rulers_only:
            raise forbidden("This takes a service key; a user cannot do it.")
        if policy.scope and policy.scope not in principal.scopes:
            raise forbidden(f"This token has not the scope {policy.scope!r}, which this takes.")
    elif principal.kind == "token":
        # First of all whose it is: who holds no right to it learns nothing, not even what it would take.
        if conversation is not None and conversation != principal.conversation:
            raise not_found()
        if policy.rulers_only or policy.user:
            raise forbidden("This takes a service key; a conversation's token cannot do it.")
        if policy.scope and policy.scope not in principal.scopes:
            raise forbidden(f"This token has not the scope {policy.scope!r}, which this takes.")


def judge_ruler(principal: Principal, policy: AccessPolicy) -> None:
    """Raise what a service key, or a person who is signed in, is told who may not."""
    needed = policy.right or policy.scope
    if principal.kind == "operator" and not needed:
        raise forbidden("This takes a credential; who is signed in asks /v1/session.")
    if needed and needed not in principal.scopes:
        who = "This key" if principal.kind == "service" else f"The role of {principal.id}"
        raise forbidden(f"{who} has not the right {needed!r}, which this takes; nothing was done.")
    if principal.masked and not policy.masks:
        raise forbidden(f"{principal.id} may not see what is personal, and this would show it.")
