"""Putting a new key around a sealed store: `chatkeep reseal`."""

from __future__ import annotations

import asyncio
import time

import click

from ..drivers import driver_for
from ..errors import Misconfigured
from ..settings import named_seal_keys
from ..storage.relocation import refuse_elsewhere
from .opening import existing_url
from .options import StoreCommand, json_option, store_argument
from .printing import amount, now_and_then, tell
from .target import refuse_server


@click.command(cls=StoreCommand)
@store_argument
@json_option
def reseal(store: str, as_json: bool) -> None:
    """Wrap the keys of all conversations with the newest key of CHATKEEP_SEAL_KEYS.

    Logs are not touched, and bots may use the store meanwhile, if they have the new key already. Afterwards the older keys may be
    taken away. A run that was interrupted is run again.

    \b
    Example:
      CHATKEEP_SEAL_KEYS_FILE=/run/secrets/keys chatkeep reseal chat.db
    """
    refuse_server(store)
    keys = named_seal_keys()
    if not keys:
        raise Misconfigured(
            "There are no keys; nothing was done. Name them in CHATKEEP_SEAL_KEYS_FILE, one a line, the new one first."
        )
    from ..storage.conversation_keys import Resealed, reseal_store  # an extra: imported only where it is wanted

    driver = driver_for(existing_url(store))

    def words(said: Resealed) -> str:
        return f"{amount(said.conversations, 'conversation')}, {amount(said.wrapped, 'key')} wrapped anew"

    told = (lambda _: None) if as_json else now_and_then(words)

    async def work() -> Resealed:
        try:
            await driver.open()
            await refuse_elsewhere(driver)
            return await reseal_store(driver, keys, at=time.time(), told=told)
        finally:
            await driver.close()

    said = asyncio.run(work())
    if as_json:
        tell(said)
        return
    click.echo(
        f"The keys of {amount(said.conversations, 'conversation')} are wrapped with the newest key ({said.wrapped:,} of them now). The "
        "older keys are not needed for this store any more."
    )
