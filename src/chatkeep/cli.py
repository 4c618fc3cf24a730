"""The command line: run a demo bot, talk to it, and look into a store while others use it."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from datetime import UTC, datetime
from io import FileIO
from threading import Thread
from typing import IO, Any, TypeVar
from urllib.parse import urlsplit

import click
import msgspec

from . import __version__
from .deliveries import Sending
from .demos import BOTS, demo_for
from .drivers import driver_for
from .drivers.base import Finding
from .errors import ChatkeepError, Corrupt, HandlerFailed, StoreError, Uncertain, UsageError
from .keep import Chatkeep, Tenant
from .model import Conversation, Message
from .settings import CONFIG, seconds

T = TypeVar("T")

EXITS: dict[type[ChatkeepError], int] = {
    UsageError: 2,
    StoreError: 3,
    Corrupt: 4,
    Uncertain: 5,
    HandlerFailed: 6,
    ChatkeepError: 1,
}
"""Error to exit code: an error ends the program with the code of the nearest of its classes that is listed."""

UNFIT = 7
"""Exit code of `check` for a store that chatkeep should not be run on."""

UNCLEAN = 8
"""Exit code of `simulate` when a promise was broken."""

HIDDEN = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))}
HIDDEN |= {code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}
"""Characters that would steer the reader's terminal, or turn its text around."""


class Commands(click.Group):
    """The commands; errors are told in one line and become exit codes."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command that was asked for."""
        try:
            return super().invoke(ctx)
        except ChatkeepError as fault:
            click.echo(f"chatkeep: {plain(str(fault))}", err=True)
            return ctx.exit(next(EXITS[kind] for kind in type(fault).__mro__ if kind in EXITS))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="chatkeep")
def main() -> None:
    """Durable conversations: run a demo bot, and look into the store it keeps.

    \b
    Try it:
      chatkeep demo                          a restaurant with a chat page
      chatkeep chat restaurant               the same bot, here in the terminal
      chatkeep list chatkeep-demo.db         what is in the store, also while the demo runs
      chatkeep show chatkeep-demo.db ada     one conversation: state, log, what was set aside
      chatkeep check redis://127.0.0.1/0     whether a store is durable, and fit to be used
      chatkeep serve app:keep                your bot, over HTTP

    STORE is a URL (sqlite:///chat.db) or the path of an SQLite file. These commands never create a file and never
    answer a message; a server that has the store open is not disturbed.

    \b
    Exit codes: 0 done, 1 not found, 2 used wrongly, 3 the store cannot be reached (try again), 4 damaged,
    5 perhaps done (look), 6 the bot's code failed, 7 the store is not fit (check), 8 a message was lost,
    doubled, put out of order or not answered (simulate).
    """
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


# -- bots ---------------------------------------------------------------------------------------------------------------


@main.command()
@click.argument("bot", default="restaurant", metavar="[BOT]")
@click.option("--store", help="URL or SQLite file; created when there is none. Otherwise one of the bot's own.")
@click.option("--port", default=8765, show_default=True, type=click.IntRange(0, 65535), help="0 takes any free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="An address of this machine's own.")
def demo(bot: str, store: str | None, port: int, host: str) -> None:
    """Runs a demo bot with a chat page and an HTTP API, until Ctrl-C.

    There is no sign-in, so it listens on this machine only.

    \b
    Examples:
      chatkeep demo
      chatkeep demo restaurant --store orders.db --port 0
    """
    from .server import create_app, serving
    from .server.settings import ServerSettings

    store = store or store_of(bot)
    keep = demo_for(bot, url_of(store))
    asyncio.run(
        opened(Chatkeep(url_of(store)), nothing)
    )  # what is wrong with the store is said here, not in a traceback
    if not serving.is_loopback(host):
        raise UsageError(
            f"{host} can be reached from other machines, and the demo has no sign-in; nothing was started. Use 127.0.0.1."
        )
    listener = serving.listening(
        host, port, hint="Perhaps a demo runs there already: open it, or start this one with --port 0."
    )
    click.echo(f"{BOTS[bot].title} is open: {serving.address(listener)}")
    store = without_secret(store).removeprefix("sqlite:///")
    click.echo(f"Everything said there is kept in {store}. Ctrl-C stops it.")
    click.echo(f"Order something, then kill it (kill -9 {os.getpid()}) and start it again: the order is still there.")
    click.echo(f"Look inside meanwhile, in another terminal: chatkeep list {store}")
    app = create_app(keep, title=BOTS[bot].title, anonymous=True)
    settings = ServerSettings(anonymous=True)
    served = serving.Lived(app, settings, keep, ends=app.state.streams.end)
    serving.serve(serving.configured(served, settings, patience_s=5.0), listener)


@main.command()
@click.argument("bot", metavar="BOT")
@click.option("--store", help="URL or SQLite file; created when there is none. Otherwise one of the bot's own.")
@click.option(
    "--conversation", default="terminal", show_default=True, metavar="NAME", help="Which conversation to be in."
)
def chat(bot: str, store: str | None, conversation: str) -> None:
    """Talks to a demo bot in the terminal; Ctrl-D or /quit ends it.

    What was said before is shown first. Messages may also come through a pipe, one a line.

    \b
    Examples:
      chatkeep chat restaurant --conversation ada
      echo "2 margherita" | chatkeep chat restaurant --store orders.db
    """
    keep = demo_for(bot, url_of(store or store_of(bot)))
    try:
        asyncio.run(opened(keep, lambda: talk(keep, conversation)))
    except KeyboardInterrupt:
        click.echo()


def store_of(bot: str) -> str:
    """Where a demo bot keeps its conversations unless told otherwise."""
    return "chatkeep-demo.db" if bot == "restaurant" else f"chatkeep-{bot}.db"


async def talk(keep: Chatkeep[Any], conversation: str) -> None:
    """Shows the log, then answers line by line what is typed."""
    for _ in range(40):  # what was left unread is answered now, so it can be part of what is shown
        found = await keep.conversation(conversation)
        if found is None or not found.unread:
            break
        await asyncio.sleep(0.05)
    seen = 0
    async for message in keep.history(conversation):
        seen = message.number
        said(message)
    typed_here = sys.stdin.isatty()
    async for line in lines(prompt="you: " if typed_here else ""):
        if line == "/quit":
            return
        if not line:
            continue
        receipt = await keep.receive(conversation, line)
        async for message in keep.history(conversation, after=seen):
            seen = message.number
            if not (typed_here and message.id == receipt.id):
                said(message)


async def lines(*, prompt: str) -> AsyncIterator[str]:
    """The lines of standard input. Read in a thread that may be left waiting, so that Ctrl-C ends the program at
    once."""
    loop, read = asyncio.get_running_loop(), asyncio.Queue[bytes](maxsize=1)
    # Unbuffered, because Python cannot exit while a thread waits inside its buffered standard input.
    source = FileIO(0, closefd=False)

    def read_on() -> None:
        while True:
            line = source.readline(1 << 20)
            asyncio.run_coroutine_threadsafe(read.put(line), loop).result()
            if not line:
                return

    Thread(target=read_on, name="stdin", daemon=True).start()
    while True:
        click.echo(prompt, nl=False)
        line = await read.get()
        if not line:
            if prompt:
                click.echo()
            return
        yield line.decode(errors="replace").strip()


def said(message: Message) -> None:
    """Prints a message as people see it."""
    if message.role != "system":
        who = {"user": "you", "assistant": "bot"}.get(message.role, message.role)
        click.echo(f"{who}: {plain(message.text).replace(chr(10), chr(10) + '     ')}")
        parts = [part for part in message.content if isinstance(part, dict)]
        if choices := [str(button.get("text", "")) for part in parts for button in part.get("buttons", ())]:
            click.echo("     " + " ".join(f"[{plain(choice, line=True)}]" for choice in choices))


# -- stores -------------------------------------------------------------------------------------------------------------

store_argument = click.argument("store", metavar="STORE")
conversation_argument = click.argument("conversation", metavar="CONVERSATION")
tenant_option = click.option(
    "--tenant", default="", metavar="NAME", help="Whose conversation; without it, the default one's."
)
json_option = click.option("--json", "as_json", is_flag=True, help="JSON, one object a line.")
limit_option = click.option("--limit", default=50, show_default=True, type=click.IntRange(1), help="At most so many.")


@main.command("list")
@store_argument
@click.option("--tenant", metavar="NAME", help="Only this tenant's; without it, all.")
@limit_option
@json_option
def list_(store: str, tenant: str | None, limit: int, as_json: bool) -> None:
    """Lists conversations, last changed first.

    \b
    Examples:
      chatkeep list chatkeep-demo.db
      chatkeep list sqlite:////var/lib/bot/chat.db --tenant salon-7 --json
    """
    keep = existing(store)

    async def work() -> None:
        of = keep if tenant is None else keep.tenant(tenant)
        none = True
        async for found in of.conversations(limit=limit):
            none = False
            if as_json:
                tell(facts(found))
            else:
                waiting = f", {found.unread} unread" if found.unread else ""
                aside = f", {len(found.dead)} set aside" if found.dead else ""
                name = f"{found.tenant}/{found.id}" if found.tenant else found.id
                facts_of_it = plain(found.fault, line=True) or f"{found.head} in the log{waiting}{aside}"
                click.echo(f"{when(found.updated_at)}  {plain(name, line=True)}  ({facts_of_it})")
        if none and not as_json:
            click.echo("There are no conversations.")

    asyncio.run(opened(keep, work))


@main.command()
@store_argument
@conversation_argument
@tenant_option
@json_option
def show(store: str, conversation: str, tenant: str, as_json: bool) -> None:
    """Shows one conversation: where it stands.

    Its session, its state, its last messages, and what was set aside.

    \b
    Example:
      chatkeep show chatkeep-demo.db terminal
    """

    async def work(of: Tenant[Any]) -> None:
        found = await found_in(of, conversation, store)
        dead = await of.dead_letters(conversation)
        if as_json:
            tell(facts(found) | {"state": found.state, "messages": found.messages, "dead_letters": dead})
            return
        for name, value in facts(found).items():
            click.echo(f"{name + ':':<14}{plain(str(value), line=True)}")
        state = msgspec.json.format(msgspec.json.encode(found.state), indent=2).decode()
        click.echo(f"\nstate:\n{plain(state)}\n\nlast messages:")
        for message in found.messages:
            logged(message)
        if dead:
            click.echo("\nset aside (chatkeep replay hands one in again):")
            for message in dead:
                logged(message)

    look(store, tenant, work)


@main.command()
@store_argument
@conversation_argument
@tenant_option
@click.option("--after", type=click.IntRange(0), metavar="NUMBER", help="Only what is numbered above.")
@click.option("--before", type=click.IntRange(0, 2**62), metavar="NUMBER", help="Only what is numbered below.")
@click.option("--limit", type=click.IntRange(1), help="At most so many; with --before alone, the last ones.")
@json_option
def history(
    store: str, conversation: str, tenant: str, after: int | None, before: int | None, limit: int | None, as_json: bool
) -> None:
    """Prints the log of a conversation, oldest first.

    \b
    Examples:
      chatkeep history chatkeep-demo.db terminal --after 20
      chatkeep history chatkeep-demo.db terminal --json > terminal.jsonl
    """

    async def work(of: Tenant[Any]) -> None:
        await found_in(of, conversation, store)
        async for message in of.history(conversation, after=after, before=before, limit=limit):
            if as_json:
                tell(message)
            else:
                logged(message)

    look(store, tenant, work)


@main.command()
@store_argument
@conversation_argument
@tenant_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def erase(store: str, conversation: str, tenant: str, yes: bool) -> None:
    """Removes a conversation with its whole log, and the tokens for it. There is no way back."""
    from . import grants

    async def work(of: Tenant[Any]) -> None:
        try:
            what = f"{(await found_in(of, conversation, store)).head} log entries"
        except Corrupt:
            what = "log, which cannot be read,"
        if not yes:
            click.confirm(f"Erase {plain(conversation, line=True)} with its {what} for ever?", abort=True)
        await of.erase(conversation)
        await grants.forget(keep, tenant, conversation)
        click.echo(f"{plain(conversation, line=True)} is erased.")

    keep = existing(store)
    asyncio.run(opened(keep, lambda: work(keep.tenant(tenant))))


@main.command()
@store_argument
@conversation_argument
@click.argument("slot", required=False, metavar="[SLOT]")
@tenant_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def forget(store: str, conversation: str, slot: str | None, tenant: str, yes: bool) -> None:
    """Clears the state of a conversation, or one slot of it; the log stays.

    The bot need not be able to read what is cleared. After all of it the next message begins a new session.

    \b
    Examples:
      chatkeep forget chat.db ada
      chatkeep forget chat.db ada cart --yes
    """

    async def work(of: Tenant[Any]) -> None:
        await found_in(of, conversation, store)
        what = f"slot {plain(slot, line=True)!r}" if slot else "the state"
        if not yes:
            click.confirm(f"Clear {what} of {plain(conversation, line=True)}?", abort=True)
        await of.forget(conversation, slot)
        click.echo(f"{what[0].upper()}{what[1:]} of {plain(conversation, line=True)} is cleared.")

    look(store, tenant, work)


@main.command()
@store_argument
@conversation_argument
@tenant_option
@json_option
def dead(store: str, conversation: str, tenant: str, as_json: bool) -> None:
    """Lists the messages that were set aside, and why."""

    async def work(of: Tenant[Any]) -> None:
        await found_in(of, conversation, store)
        letters = await of.dead_letters(conversation)
        listed(letters, logged, as_json=as_json, nothing="Nothing was set aside.")

    look(store, tenant, work)


@main.command()
@store_argument
@conversation_argument
@click.argument("number", type=click.IntRange(1), metavar="NUMBER")
@tenant_option
def replay(store: str, conversation: str, number: int, tenant: str) -> None:
    """Hands in a message again that was set aside.

    `chatkeep dead` has the numbers.

    It becomes a new message at the end of the log, and whoever runs the bot on this store answers it.
    """

    async def work(of: Tenant[Any]) -> None:
        receipt = await of.replay(conversation, number)
        again = " was replayed before:" if receipt.duplicate else " is in the log again:"
        click.echo(f"Message {number}{again} number {receipt.number}, {receipt.status}.")

    look(store, tenant, work)


@main.command()
@store_argument
@click.argument("to", type=click.Choice(["on", "off"]))
@click.argument("conversation", required=False)
@tenant_option
@click.option("--everywhere", is_flag=True, help="For all tenants.")
@click.option("--skip", is_flag=True, help="When it goes on: pass over what is unread, instead of answering it.")
def switch(store: str, to: str, conversation: str | None, tenant: str, everywhere: bool, skip: bool) -> None:
    """Switches the bot off, so that a person can take over, or on again.

    For one conversation, for a tenant, or --everywhere. Messages are kept meanwhile. A turn that runs just then says nothing.

    \b
    Examples:
      chatkeep switch chat.db off ada
      chatkeep say chat.db ada "Kim here. How can I help?"
      chatkeep switch chat.db on ada --skip
    """
    if everywhere and (conversation or tenant):
        raise UsageError("--everywhere goes with no conversation and no tenant; nothing was switched.")
    keep = existing(store)
    of = keep if everywhere else keep.tenant(tenant)

    async def work() -> None:
        if conversation is not None:
            await found_in(of, conversation, store)
        await of.switch(to == "on", conversation, unread="skip" if skip else "answer")
        where = plain(conversation, line=True) if conversation else "everywhere" if everywhere else f"tenant {tenant!r}"
        click.echo(f"The bot is {to}: {where}.")

    asyncio.run(opened(keep, work))


@main.command()
@store_argument
@conversation_argument
@click.argument("text")
@tenant_option
def say(store: str, conversation: str, text: str, tenant: str) -> None:
    """Says something in a conversation as a person.

    Whoever serves the bot on this store sends it through the conversation's channel, also while the bot is off.
    """

    async def work(of: Tenant[Any]) -> None:
        await found_in(of, conversation, store)
        receipt = await of.accept(conversation, text, role="operator")
        click.echo(f"Message {receipt.number} is in the log.")

    look(store, tenant, work)


@main.command()
@store_argument
@conversation_argument
@tenant_option
@json_option
def deliveries(store: str, conversation: str, tenant: str, as_json: bool) -> None:
    """Lists how the sending of each reply through its channel stands."""

    async def work(of: Tenant[Any]) -> None:
        await found_in(of, conversation, store)
        found = await of.deliveries(conversation)
        listed(found, sent, as_json=as_json, nothing="Nothing goes out from here through a channel.")

    look(store, tenant, work)


@main.command()
@store_argument
@conversation_argument
@click.argument("number", type=click.IntRange(1), metavar="NUMBER")
@tenant_option
def resend(store: str, conversation: str, number: int, tenant: str) -> None:
    """Sends a reply once more: one that failed, or of which nobody knows.

    `chatkeep deliveries` has the numbers; whoever serves the bot on this store sends it.
    """

    async def work(of: Tenant[Any]) -> None:
        await found_in(of, conversation, store)
        await of.resend(conversation, number)
        click.echo(f"Message {number} is sent once more.")

    look(store, tenant, work)


@main.command()
@store_argument
@click.argument("path", type=click.Path(dir_okay=False))
@click.option("--replace", is_flag=True, help="Replaces PATH when it is there.")
def backup(store: str, path: str, replace: bool) -> None:
    """Copies an SQLite store into a new file at PATH, while others use it.

    The copy is of one instant, and complete when it is there. To put it back: stop all that use the store, remove its
    -wal and -shm, and move the copy into its place.

    \b
    Example:
      chatkeep backup chat.db /backups/chat-monday.db
    """
    keep = existing(store)
    asyncio.run(opened(keep, lambda: keep.backup(path, replace=replace)))
    click.echo(f"{plain(without_secret(store), line=True)} is copied to {plain(path, line=True)}.")


@main.command()
@store_argument
@click.option("--json", "as_json", is_flag=True, help="One line of JSON for each finding.")
@click.option("--strict", is_flag=True, help="Warnings count as failures.")
def check(store: str, as_json: bool, strict: bool) -> None:
    """Says in plain words whether a store is fit to keep conversations.

    Versions, durability, eviction, clock, schema, permissions and the time of a round trip; nothing is changed. Exit code 0
    when it is fit, 7 when something is wrong with it (with --strict: also when there is a warning).

    \b
    Examples:
      chatkeep check chat.db
      chatkeep check redis://127.0.0.1:6379/0
      chatkeep check postgresql://bot@db.example/chat --strict
    """
    report(
        asyncio.run(driver_for(url_of(store)).examine()),
        what=without_secret(url_of(store)),
        as_json=as_json,
        strict=strict,
    )


def report(findings: list[Finding], *, what: str, as_json: bool = False, strict: bool = False) -> None:
    """Prints what was found out about a store; ends the program when it is not fit."""
    for finding in findings:
        if as_json:
            tell(finding._asdict())
        else:
            mark = {"ok": click.style("ok  ", fg="green"), "warn": click.style("warn", fg="yellow")}
            click.echo(
                f"{mark.get(finding.level, click.style('FAIL', fg='red'))}  {finding.subject:<14}  {plain(finding.said)}"
            )
    failed = [finding for finding in findings if finding.level == "fail" or (strict and finding.level == "warn")]
    warned = [finding for finding in findings if finding.level == "warn"]
    if not as_json:
        verdict = "not fit" if failed else f"fit, with {len(warned)} to look at" if warned else "fit"
        click.echo(f"{verdict}: {plain(what)}")
    if failed:
        sys.exit(UNFIT)


# -- serving ------------------------------------------------------------------------------------------------------------


@main.command()
@click.argument("app", required=False, metavar="[MODULE:ATTRIBUTE]")
@click.option("--host", help="Where to listen; 127.0.0.1 unless told otherwise.")
@click.option("--port", type=click.IntRange(0, 65535), help="8765 unless told otherwise; 0 takes any free one.")
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Processes, each with its own Chatkeep.")
@click.option(
    "--config", metavar="FILE", type=click.Path(dir_okay=False), help="Settings; chatkeep.toml if there is one."
)
@click.option("--check", "only_check", is_flag=True, help="Look at settings, application and store; start nothing.")
def serve(
    app: str | None, host: str | None, port: int | None, workers: int | None, config: str | None, only_check: bool
) -> None:
    """Serves a Chatkeep (or an ASGI application) over HTTP, until Ctrl-C or SIGTERM.

    What is not said here comes from the environment (CHATKEEP_PORT, CHATKEEP_HOSTS, CHATKEEP_SESSION_TTL, ...), else
    from the file; docs/settings.md has all names. On a stop it finishes running turns. SIGHUP reads the flags again.

    \b
    Examples:
      chatkeep serve app:keep
      chatkeep serve app:keep --host 0.0.0.0 --port 80 --workers 4 --config /etc/chatkeep.toml
      chatkeep serve app:keep --check
    """
    if config or (not os.environ.get(CONFIG) and os.path.isfile("chatkeep.toml")):
        os.environ[CONFIG] = os.path.abspath(config or "chatkeep.toml")
    from .server import serving
    from .server.settings import server_settings_from

    said = {"app": app, "host": host, "port": port, "workers": workers}
    settings = server_settings_from({name: value for name, value in said.items() if value is not None})
    if not only_check:
        serving.run(settings)
        return
    keep = serving.check(serving.loaded(settings.app), settings)
    click.echo(f"ok    settings        {settings.app}: settings and application are fit to be served")
    if keep is not None:
        report(asyncio.run(keep._engine.store.driver.examine()), what=settings.app)


SHARE = click.FloatRange(0.0, 1.0)


@main.command()
@click.argument("urls", nargs=-1, required=True, metavar="URL...")
@click.option(
    "--key", envvar="CHATKEEP_KEY", required=True, help="Service key of the customers' tenant; or CHATKEEP_KEY."
)
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
    key: str,
    seed: int | None,
    script: IO[str] | None,
    channel: str,
    secret: str | None,
    account: str | None,
    platform_port: int | None,
    as_json: bool,
    **plan: Any,
) -> None:
    """Lets many customers talk to a running server, and judges every message in the end.

    Requests go to any of the URLs, and to another one when it does not answer: kill servers meanwhile. Ctrl-C ends the
    talking; what was said is judged all the same. The bot must answer every message. The conversations stay in the store:
    use one for tests.

    \b
    Examples:
      chatkeep simulate http://127.0.0.1:8765 --customers 1000
      chatkeep simulate http://127.0.0.1:8001 http://127.0.0.1:8002 --duplicates 0.5 --faults 0.3 --json
      chatkeep simulate http://127.0.0.1:8765 --channel whatsapp --secret APP_SECRET --platform-port 9000
    """
    from . import simulate as kit

    if (channel == "api") == bool(secret) or (channel == "api" and (account or platform_port)):
        raise UsageError(
            "--secret, --account and --platform-port go with whatsapp or telegram, and --secret must. Nothing was sent."
        )
    talk = [line.strip() for line in script or kit.TALK.splitlines() if line.strip()]
    if not talk:
        raise UsageError("The script has no lines; nothing was sent.")
    asked = kit.Plan(**plan, seed=secrets.randbelow(1 << 32) if seed is None else seed, talk=talk)
    road = kit.road(channel, key=key, secret=secret or "", account=account)
    progress = (lambda line: click.echo(line, err=True)) if sys.stderr.isatty() else None
    found = asyncio.run(kit.Simulation(urls, asked, road, key=key, platform_port=platform_port, tell=progress).run())
    if as_json:
        tell(msgspec.structs.asdict(found) | {"clean": not found.faults, "seed": asked.seed})
    else:
        click.echo(f"{plain(kit.spelled(found))} (seed {asked.seed})")
    if found.faults:
        sys.exit(UNCLEAN)


# -- service keys -------------------------------------------------------------------------------------------------------


@main.group()
def key() -> None:
    """Service keys: what backends and operators show to use the HTTP API of a whole tenant."""


@key.command("create")
@store_argument
@click.option("--tenant", default="", metavar="NAME", help="Whose conversations; without it, the default one's.")
@click.option("--label", default="", metavar="TEXT", help="What it is for.")
@click.option("--expires", metavar="DURATION", help='When it ends by itself, such as "90d"; never, unless told.')
@json_option
def create_key(store: str, tenant: str, label: str, expires: str | None, as_json: bool) -> None:
    """Makes a service key, and shows it this once.

    \b
    Example:
      chatkeep key create chat.db --tenant salon --label ci --expires 90d
    """
    from . import grants

    try:
        expires_in = None if expires is None else seconds(expires)
    except ValueError as fault:
        raise UsageError(f"{fault}. No key was made.") from None
    keep = existing(store)
    issued = asyncio.run(opened(keep, lambda: grants.create_key(keep, tenant, label=label, expires_in=expires_in)))
    if as_json:
        tell(issued)
        return
    click.echo(issued.token)
    click.echo(f"That is key {issued.id}; it is kept nowhere and not shown again.", err=True)


@key.command("list")
@store_argument
@json_option
def list_keys(store: str, as_json: bool) -> None:
    """Lists the service keys of a store: what they are for, never what they are."""
    from . import grants

    keep = existing(store)
    keys = asyncio.run(opened(keep, lambda: grants.list_keys(keep)))
    for found in keys:
        if as_json:
            tell(found)
            continue
        ends = "revoked" if found.revoked else f"until {when(found.expires_at)}" if found.expires_at else "for ever"
        used = f"last used {when(found.last_used_at)}" if found.last_used_at else "not used yet"
        tenant, label = plain(found.tenant, line=True) or "(default)", plain(found.label, line=True) or "(no label)"
        click.echo(f"{found.id}  tenant {tenant}  {label}  made {when(found.created_at)}, {ends}, {used}")
    if not keys and not as_json:
        click.echo("There are no service keys.")


@key.command("revoke")
@store_argument
@click.argument("id", metavar="ID")
def revoke_key(store: str, id: str) -> None:
    """Ends a service key; every server on the store refuses it within two seconds."""
    from . import grants

    keep = existing(store)
    if not asyncio.run(opened(keep, lambda: grants.revoke_key(keep, id))):
        raise ChatkeepError(f"There is no key {plain(id, line=True)!r}. `chatkeep key list` has those there are.")
    click.echo(f"Key {plain(id, line=True)} is revoked.")


# -- what they share ----------------------------------------------------------------------------------------------------


def look(store: str, tenant: str, work: Callable[[Tenant[Any]], Coroutine[Any, Any, None]]) -> None:
    """Runs *work* on one tenant of a store that is there."""
    keep = existing(store)
    asyncio.run(opened(keep, lambda: work(keep.tenant(tenant))))


def existing(store: str) -> Chatkeep[Any]:
    """A Chatkeep without a bot on a store that is there: it starts no workers. Raises `UsageError`."""
    url = url_of(store)
    scheme, _, path = url.partition(":///")
    if scheme == "sqlite" and not os.path.isfile(path):
        raise UsageError(f"There is no file {path}; nothing was created. Name the store that the bot writes to.")
    return Chatkeep(
        url, schema=0, on_outage="refuse", journal=None, cache=None
    )  # a server's journal is not ours to open


def url_of(store: str) -> str:
    """The URL of a store that may be given as the path of an SQLite file."""
    return store if "://" in store else f"sqlite:///{store}"


def without_secret(url: str) -> str:
    """*url* as it may be shown."""
    parts = urlsplit(url)
    return url.replace(f":{parts.password}@", ":***@") if parts.password else url


async def opened(keep: Chatkeep[Any], work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What *work* answers while *keep* is open."""
    async with keep:
        return await work()


async def nothing() -> None:
    """For when opening is all that is wanted."""


async def found_in(of: Tenant[Any], conversation: str, store: str) -> Conversation[Any]:
    """The conversation; ends the program when there is none."""
    found = await of.conversation(conversation)
    if found is None:
        store = without_secret(store)
        raise ChatkeepError(
            f"There is no conversation {plain(conversation, line=True)!r} in {store}. `chatkeep list {store}` has those there are."
        )
    return found


def facts(found: Conversation[Any]) -> dict[str, Any]:
    """Where a conversation stands."""
    return {
        "conversation": found.id,
        "tenant": found.tenant,
        "owner": found.owner,
        "session": found.session,
        "log": found.head,
        "unread": found.unread,
        "dead": found.dead,
        "bot": "on" if found.on else "off",
        "updated": when(found.updated_at),
        "due": when(found.due_at) if found.due_at is not None else None,
        "revision": found.revision,
    }


def tell(value: Any) -> None:
    """Prints *value* as a line of JSON."""
    click.echo(msgspec.json.encode(value).decode())


def listed(found: Sequence[T], show: Callable[[T], None], *, as_json: bool, nothing: str) -> None:
    """Prints each of *found*, as JSON or as *show* does; people are told when there is *nothing*."""
    for one in found:
        (tell if as_json else show)(one)
    if not found and not as_json:
        click.echo(nothing)


def sent(sending: Sending) -> None:
    """Prints how the sending of one reply stands."""
    doubt = "  perhaps shown twice" if sending.doubtful else ""
    reason = f"  [{plain(sending.reason, line=True)}]" if sending.reason else ""
    click.echo(f"{sending.number:>6}  {when(sending.at)}  {sending.status:<9}{doubt}{reason}")


def logged(message: Message) -> None:
    """Prints a log entry with its number."""
    text = plain(message.text) or plain(str(message.metadata), line=True)
    reason = f"  [{plain(message.metadata['reason'], line=True)}]" if "reason" in message.metadata else ""
    text = text.replace("\n", "\n" + " " * 12)
    click.echo(f"{message.number:>6}  {when(message.created_at)}  {message.role:<9}  {text}{reason}")


def when(at: float) -> str:
    """A time as text, UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def plain(text: str, *, line: bool = False) -> str:
    """*text* with the characters made visible that would steer the terminal; as one *line* if so wanted."""
    text = text.translate(HIDDEN)
    return text.replace("\n", "\\n") if line else text
