"""Whose channels these are: channels by their accounts, and accounts by their tenants. What sends is in `outlet`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..core import Core
from ..errors import Misconfigured
from ..kinds import refuse_other
from .aliases import Aliases
from .base import Channel, Received, Unknown


class Accounts:
    """
    The *channels* of a Chatkeep, with the tenant that each of their accounts belongs to.

    The server takes in what platforms post to them; `ChannelOutlet` also sends through them.
    """

    def __init__(self, *channels: Channel, tenant_of: Callable[[str, str], str]) -> None:
        self.channels = channels
        self.tenant_of = tenant_of
        self.aliases: Aliases | None = None
        self._channels: dict[tuple[str, str], Channel] = {}
        for channel in channels:
            check_channel(channel)
            for account in channel.accounts:
                if self._channels.setdefault((channel.name, account), channel) is not channel:
                    raise Misconfigured(f"Two channels have the account {channel.name}:{account}. Nothing was opened.")

    def attach(self, core: Core[Any]) -> None:
        """Have the names of customers kept in the store of *core*; `Chatkeep.deliver` calls it."""
        self.aliases = Aliases(core)

    def show_received(self, channel: Channel, item: Received | Unknown, *, answering: bool) -> None:
        """Tell the platform that *item* has come. Nothing here: `ChannelOutlet` has the connections."""

    def takes(self, tenant: str, conversation: str) -> bool:
        """Tell whether it came in through one of the channels, and its account is this tenant's: nobody sends from another's."""
        name, _, rest = conversation.partition(":")
        account, colon, _ = rest.partition(":")
        return bool(colon) and (name, account) in self._channels and tenant_for(self.tenant_of, name, account) == tenant


def check_channel(found: Channel) -> None:
    """Raise `Misconfigured`, with all that it lacks, where *found* is no channel: else a reply would find out."""
    refuse_other(found, Channel, "channel", "See chatkeep.channels.Channel.")


def tenant_for(tenant_of: Callable[[str, str], str], channel: str, account: str) -> str | None:
    """Return the tenant of an account; None for one that nobody knows."""
    try:
        return tenant_of(channel, account)
    except LookupError:
        return None
