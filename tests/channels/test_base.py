"""What is true of the names that channels give."""

from __future__ import annotations

import pytest

from chatkeep.channels import address_of


def test_the_conversations_id_is_the_address() -> None:
    """A reply finds its channel, account and customer in it, whatever is in the customer's own id."""
    assert [
        ("telegram", "123456", "-1001234567890/77"),
        ("webhook", "shop", "a:b:c"),
    ] == [address_of("telegram:123456:-1001234567890/77"), address_of("webhook:shop:a:b:c")]
    for one in ("", "ada", "whatsapp:ada"):
        with pytest.raises(ValueError, match="unpack"):
            address_of(one)
