"""Whose the accounts of channels are."""

from __future__ import annotations

import pytest

from chatkeep import Misconfigured
from chatkeep.channels import Telegram, WhatsApp
from chatkeep.channels.accounts import Accounts, tenant_for

TENANTS = {("whatsapp", "1550"): "salon", ("telegram", "42"): ""}


def tenant_of(channel: str, account: str) -> str:
    """Whose an account is."""
    return TENANTS[channel, account]


def channels() -> tuple[WhatsApp, Telegram]:
    """One of each, with two accounts that somebody has, and one that nobody has."""
    return (
        WhatsApp(accounts={"1550": "t", "1551": "t"}, secrets="a-secret-of-meta", verify_tokens="v"),
        Telegram(token="42:AAF", secrets="a-secret-of-telegram"),
    )


@pytest.mark.parametrize(
    ("tenant", "conversation", "expected"),
    [
        ("salon", "whatsapp:1550:4917", True),
        ("salon", "whatsapp:1550:", True),
        ("", "telegram:42:7", True),
        ("", "whatsapp:1550:4917", False),
        ("salon", "telegram:42:7", False),
        ("salon", "whatsapp:1551:4917", False),
        ("salon", "whatsapp:1552:4917", False),
        ("salon", "telegram:1550:4917", False),
        ("salon", "whatsapp:1550", False),
        ("salon", "ada", False),
    ],
)
def test_a_reply_goes_out_from_the_tenants_own_account(tenant: str, conversation: str, expected: bool) -> None:
    """And from no account that another tenant has, or nobody."""
    assert expected is Accounts(*channels(), tenant_of=tenant_of).takes(tenant, conversation)


def test_an_account_is_one_channels() -> None:
    """Else a reply would go out with either's secrets."""
    with pytest.raises(Misconfigured, match="Two channels have the account whatsapp:155"):
        Accounts(channels()[0], channels()[0], tenant_of=tenant_of)


def test_an_account_that_nobody_knows_has_no_tenant() -> None:
    """The one without a name is a tenant."""
    assert ["salon", "", None] == [
        tenant_for(tenant_of, *name) for name in (("whatsapp", "1550"), ("telegram", "42"), ("telegram", "43"))
    ]
