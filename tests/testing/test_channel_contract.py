"""The contract of channels has been seen to fail: every clause catches a channel that breaks it."""

from __future__ import annotations

import pytest

from chatkeep.channels import Channel
from chatkeep.testing.channel_contract import BROKEN_CHANNELS, NOW, SECRET, ChannelContract, IntactChannel, Sample

from ..support.samples import webhook_signed

CLAUSES = [name for name in dir(ChannelContract) if name.startswith("test_")]
BREACHES = [(name, clause) for name, (_, clauses) in BROKEN_CHANNELS.items() for clause in clauses]


def contract_of(made: type[IntactChannel]) -> ChannelContract:
    """The contract of a webhook, with two samples."""
    channel = made()

    class Contract(ChannelContract):
        def channel(self) -> Channel:
            return channel

        def signed(self, body: bytes) -> list[tuple[str, str]]:
            return webhook_signed(body, SECRET, at=NOW)

        def samples(self) -> list[Sample]:
            read = {"conversation": "webhook:shop:ada", "account": "shop", "to": "ada", "role": "user"}
            said = {"conversation": "ada", "content": "hello", "id": "1"}
            both = [said, said | {"id": "2"}]
            return [
                Sample(name="one", body=said, expected=[{"Received": read | {"id": "1", "content": "hello"}}]),
                Sample(
                    name="two",
                    body={"messages": both},
                    expected=[{"Received": read | {"id": id, "content": "hello"}} for id in ("1", "2")],
                ),
            ]

    return Contract()


@pytest.mark.parametrize(("name", "clause"), BREACHES)
def test_a_broken_channel_is_caught(name: str, clause: str) -> None:
    """By the clause it breaks, and with the very exception that it is entered with."""
    channel, clauses = BROKEN_CHANNELS[name]
    with pytest.raises(clauses[clause]) as caught:
        getattr(contract_of(channel), clause)()

    assert clauses[clause] is caught.type


@pytest.mark.parametrize("clause", CLAUSES)
def test_an_intact_channel_passes(clause: str) -> None:
    """Or the breaches above would prove nothing."""
    getattr(contract_of(IntactChannel), clause)()


def test_every_clause_has_a_channel_that_breaks_it() -> None:
    """A clause that nobody breaks is a clause that nobody has seen fail."""
    assert set(CLAUSES) == {clause for _, clause in BREACHES}
