"""Commands that look at many conversations at once: as things happen, for words that were said, and in numbers."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import click

from ..app import Chatkeep
from ..bounded import Newest
from ..errors import ChatkeepError
from ..model import Conversation, Message
from .opening import existing, found_in, opened
from .options import StoreCommand, json_option, limit_option, store_argument
from .printing import columns, full_name, logged, plain, tell, when

LOOK_S = 1.0
"""So often `tail` looks for conversations that have changed."""

SLACK_S = 60.0
"""The clocks of those who write may differ by so much."""

AT_ONCE = 50
"""So much is shown at once of a conversation that was quiet, at most."""

FOLLOWED_MOST = 100_000

LATE_S = 60.0
"""Whoever waits longer for an answer is told of."""

AROUND = 40
"""So many characters `search` shows before and behind what it found."""


@click.command(cls=StoreCommand)
@store_argument
@click.argument("conversation", required=False)
@click.option("--tenant", metavar="NAME", help="Whose; without it the default one's, and all with no conversation.")
@click.option("--last", default=10, show_default=True, type=click.IntRange(0), help="Begin with so many messages.")
@json_option
def tail(store: str, conversation: str | None, tenant: str | None, last: int, as_json: bool) -> None:
    """Print what is said as it is said, until Ctrl-C.

    In one conversation, or in all of them: those then begin with what is said from now on.

    \b
    Examples:
      chatkeep tail chat.db ada
      chatkeep tail chat.db --tenant salon-7 --json
    """
    keep, begin = existing(store), last

    def show(of: str, name: str, message: Message) -> None:
        if as_json:
            tell({"tenant": of, "conversation": name, "message": message})
        else:
            if conversation is None:
                click.echo(full_name(of, name))
            logged(message)
        sys.stdout.flush()

    async def follow_one(name: str) -> None:
        of = keep.tenant(tenant or "")
        head = (await found_in(of, name, store)).head
        async for event in of.events(name, after=max(head - begin, 0)):
            if isinstance(event, Message):
                show(of.name, name, event)

    async def follow_all() -> None:
        shown: Newest[tuple[str, str], int] = Newest(FOLLOWED_MOST)
        start = looked_at = time.time()
        click.echo("What is said from now on, in all conversations; Ctrl-C ends it.", err=True)
        while True:
            since, looked_at = looked_at - SLACK_S, time.time()
            async for found in _conversations(keep, tenant):
                if found.updated_at < since:
                    break
                of, key = keep.tenant(found.tenant), (found.tenant, found.id)
                seen = shown.get(key)
                page = {"before": found.head + 1, "limit": AT_ONCE} if seen is None else {"after": seen}
                last = max(found.head, seen or 0)
                with suppress(ChatkeepError):  # erased meanwhile, or unreadable, which `list` tells
                    async for message in of.history(found.id, **page):
                        last = max(last, message.number)
                        if message.created_at >= start or seen is not None:
                            show(found.tenant, found.id, message)
                shown[key] = last
            await asyncio.sleep(LOOK_S)

    with suppress(KeyboardInterrupt):
        asyncio.run(opened(keep, follow_all if conversation is None else lambda: follow_one(conversation)))


@click.command(cls=StoreCommand)
@store_argument
@click.argument("text")
@click.option("--tenant", metavar="NAME", help="Only this tenant's; without it, all.")
@limit_option
@json_option
def search(store: str, text: str, tenant: str | None, limit: int, as_json: bool) -> None:
    """Find conversations by what was said in them, by id or owner.

    Upper and lower case are alike. The newest conversations come first, and it reads their logs until it has found enough, so
    on a large store it takes a while; Ctrl-C ends it.

    \b
    Examples:
      chatkeep search chat.db "gel manicure"
      chatkeep search chat.db +49170 --tenant salon-7 --limit 5
    """
    wanted, keep = text.casefold(), existing(store)
    if not wanted:
        raise click.UsageError("TEXT is empty; nothing was searched.")

    async def work() -> None:
        found = 0
        async for place, one in _enumerate(_conversations(keep, tenant)):
            _progress(f"{place} conversations read, {found} found")
            async for message in _matches(keep, one, wanted):
                found += 1
                _progress("")
                if as_json:
                    tell({"tenant": one.tenant, "conversation": one.id, "message": message})
                else:
                    name = full_name(one.tenant, one.id)
                    if message is None:
                        click.echo(name)
                    else:
                        click.echo(
                            f"{name}  {message.number}  {when(message.created_at)}  {message.role}  {_around(message, wanted)}"
                        )
                if found == limit:
                    return
        _progress("")
        if not found and not as_json:
            click.echo("Nothing was found.")

    asyncio.run(opened(keep, work))


@click.command(cls=StoreCommand)
@store_argument
@click.option("--tenant", metavar="NAME", help="Only this tenant's; without it, all.")
@json_option
def stats(store: str, tenant: str | None, as_json: bool) -> None:
    """Count what is in a store: conversations, messages, what waits and what was set aside.

    It reads the list of all conversations. What a running server does is in its /metrics.

    \b
    Example:
      chatkeep stats chat.db
    """
    keep = existing(store)
    names = ("conversations", "messages", "unread", "waiting", "set aside", "paused", "unreadable", "changed today")

    async def work() -> None:
        counts: dict[str, Counter[str]] = {}
        today, late = time.time() - 86_400, 0.0
        async for place, one in _enumerate(_conversations(keep, tenant)):
            _progress(f"{place} conversations counted")
            count = counts.setdefault(one.tenant, Counter())
            count["conversations"] += 1
            count["messages"] += one.head
            count["unread"] += one.unread
            count["waiting"] += one.unread > 0
            count["set aside"] += len(one.dead)
            count["paused"] += one.paused
            count["unreadable"] += bool(one.fault)
            count["changed today"] += one.updated_at >= today
            if one.unread and not one.paused and not one.fault:
                late = max(late, time.time() - one.updated_at)
        _progress("")
        if as_json:
            for name, count in sorted(counts.items()):
                tell({"tenant": name} | {key.replace(" ", "_"): count[key] for key in names})
            return
        rows = [
            (plain(name, line=True) or "(default)", *(str(count[key]) for key in names))
            for name, count in sorted(counts.items())
        ]
        if len(rows) > 1:
            total = sum(counts.values(), Counter())
            rows.append(("all", *(str(total[key]) for key in names)))
        columns(("tenant", *names), rows, nothing="There are no conversations.")
        if late > LATE_S:
            click.echo(
                f"\nSomebody waits for an answer since {_long(late)}. Does a process with the bot run on this store?"
            )

    asyncio.run(opened(keep, work))


def _conversations(keep: Chatkeep[Any], tenant: str | None) -> AsyncIterator[Conversation[Any]]:
    return keep.all_conversations() if tenant is None else keep.tenant(tenant).conversations()


async def _enumerate(found: AsyncIterator[Conversation[Any]]) -> AsyncIterator[tuple[int, Conversation[Any]]]:
    place = 0
    async for one in found:
        place += 1
        yield place, one


async def _matches(keep: Chatkeep[Any], one: Conversation[Any], wanted: str) -> AsyncIterator[Message | None]:
    """Yield the messages of a conversation that have the words; None where its name or owner has them."""
    if any(wanted in name.casefold() for name in (one.id, one.owner)):
        yield None
    if one.fault:
        return
    try:
        async for message in keep.tenant(one.tenant).history(one.id):
            if message.role != "system" and wanted in message.text.casefold():
                yield message
    except ChatkeepError as fault:  # erased meanwhile, or a log that is damaged
        click.echo(f"{plain(one.id, line=True)} was left out: {plain(str(fault), line=True)}", err=True)


def _around(message: Message, wanted: str) -> str:
    """Return the words that were found with some of those around them, as one line."""
    text = message.text
    at = max(text.casefold().find(wanted), 0)
    begin, end = max(at - AROUND, 0), at + len(wanted) + AROUND
    return plain(f"{'...' * (begin > 0)}{text[begin:end]}{'...' * (end < len(text))}", line=True)


def _progress(text: str) -> None:
    """Say how far it is, where a person looks on; "" takes it away."""
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{text}", nl=False, err=True)


def _long(seconds: float) -> str:
    """Return a duration in the largest unit that fits."""
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{round(seconds / length)} {unit}"
    return f"{round(seconds)} seconds"
