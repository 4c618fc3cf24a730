"""Commands about what goes out through channels."""

from __future__ import annotations

import click

from .options import (
    StoreCommand,
    conversation_argument,
    json_option,
    number_argument,
    store_argument,
    tenant_option,
    utc_option,
)
from .printing import listed, sent
from .reaching import look
from .target import Verbs


@click.command(cls=StoreCommand)
@store_argument
@conversation_argument
@tenant_option
@utc_option
@json_option
def deliveries(store: str, conversation: str, tenant: str, as_json: bool) -> None:
    """List how the sending of each reply through its channel stands.

    \b
    Example:
      chatkeep deliveries chat.db whatsapp:1550:4917012345
    """

    async def work(of: Verbs) -> None:
        found = await of.deliveries(conversation)
        listed(found, sent, as_json=as_json, nothing="Nothing goes out from here through a channel.")

    look(store, tenant, work, conversation=conversation)


@click.command(cls=StoreCommand)
@store_argument
@conversation_argument
@number_argument
@tenant_option
def resend(store: str, conversation: str, number: int, tenant: str) -> None:
    """Send a reply once more: one that failed, or of which nobody knows.

    `chatkeep deliveries` has the numbers; whoever serves the bot on this store sends it.

    \b
    Example:
      chatkeep resend chat.db whatsapp:1550:4917012345 8
    """

    async def work(of: Verbs) -> None:
        await of.resend(conversation, number)
        click.echo(f"Message {number} is sent once more.")

    look(store, tenant, work, conversation=conversation)
