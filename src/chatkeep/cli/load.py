"""Many simulated customers of a running server."""

from __future__ import annotations

import asyncio
import secrets
import sys
from typing import IO, Any

import click
import msgspec

from ..errors import UsageError
from ..sources import named_key
from .exits import UNCLEAN
from .printing import plain, tell

SHARE = click.FloatRange(0.0, 1.0)


@click.command()
@click.argument("urls", nargs=-1, required=True, metavar="URL...")
@click.option("--key", help="Service key of the customers' tenant; or CHATKEEP_KEY, or CHATKEEP_KEY_FILE.")
@click.option("--customers", default=100, show_default=True, type=click.IntRange(1, 99_999), help="How many.")
@click.option(
    "--rate", default=20.0, show_default=True, type=click.FloatRange(0.01), help="So many arrive in a second."
)
@click.option("--messages", default=10, show_default=True, type=click.IntRange(1, 99_999), help="Of each customer.")
@click.option("--bursts", default=0.2, show_default=True, type=SHARE, help="Share that waits for no answer before.")
@click.option("--duplicates", default=0.2, show_default=True, type=SHARE, help="Share sent twice, at once or later.")
@click.option("--reorder", default=0.1, show_default=True, type=SHARE, help="Share overtaken by the message after it.")
@click.option(
    "--faults", default=0.05, show_default=True, type=SHARE, help="Share of requests cut off, and sent again."
)
@click.option("--seed", type=int, help="What the dice begin with; otherwise chance.")
@click.option("--script", type=click.File(encoding="utf-8"), help="A talk, one message a line; else they order pizza.")
@click.option("--channel", default="api", type=click.Choice(["api", "whatsapp", "telegram"]), help="How they write.")
@click.option("--secret", help="Of the channel's webhooks: the app secret, or the secret token.")
@click.option("--account", help="Of the channel: the phone number id (1550), or the bot's id (42).")
@click.option(
    "--platform-port", type=click.IntRange(1, 65535), help="Be the platform there, and judge what is sent out."
)
@click.option("--json", "as_json", is_flag=True, help="The verdict as one JSON object.")
def simulate(
    urls: tuple[str, ...],
    key: str | None,
    seed: int | None,
    script: IO[str] | None,
    channel: str,
    secret: str | None,
    account: str | None,
    platform_port: int | None,
    as_json: bool,
    **plan: Any,
) -> None:
    """Let many customers talk to a running server, and judge every message in the end.

    Requests go to any of the URLs, and to another one when it does not answer: kill servers meanwhile. Ctrl-C ends the
    talking; what was said is judged all the same. The bot must answer every message. The conversations stay in the store:
    use one for tests.

    \b
    Examples:
      chatkeep simulate http://127.0.0.1:8765 --customers 1000
      chatkeep simulate http://127.0.0.1:8001 http://127.0.0.1:8002 --duplicates 0.5 --faults 0.3 --json
      chatkeep simulate http://127.0.0.1:8765 --channel whatsapp --secret APP_SECRET --platform-port 9000
    """
    from ..testing import loadtest as kit
    from ..testing.transports import transport_for
    from .on_server import MAKE_ONE

    key = key or named_key()
    if key is None:
        raise UsageError(
            f"There is no key for {urls[0]}; nothing was sent. Set CHATKEEP_KEY, or CHATKEEP_KEY_FILE to the path of a file that holds "
            f"it, or give --key; {MAKE_ONE}."
        )
    if (channel == "api") == bool(secret) or (channel == "api" and (account or platform_port)):
        raise UsageError(
            "--secret, --account and --platform-port go with whatsapp or telegram, and --secret must. Nothing was sent."
        )
    talk = [line.strip() for line in script or kit.TALK.splitlines() if line.strip()]
    if not talk:
        raise UsageError("The script has no lines; nothing was sent.")
    asked = kit.Plan(**plan, seed=secrets.randbelow(1 << 32) if seed is None else seed, talk=talk)
    transport = transport_for(channel, key=key, secret=secret or "", account=account)
    progress = (lambda line: click.echo(line, err=True)) if sys.stderr.isatty() else None
    found = asyncio.run(
        kit.Simulation(urls, asked, transport, key=key, platform_port=platform_port, tell=progress).run()
    )
    if as_json:
        tell(msgspec.structs.asdict(found) | {"clean": not found.faults, "seed": asked.seed})
    else:
        click.echo(f"{plain(kit.spelled(found))} (seed {asked.seed})")
    if found.faults:
        sys.exit(UNCLEAN)
