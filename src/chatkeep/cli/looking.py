"""Commands that look at many conversations at once: as things happen, for words that were said, and in numbers."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any, TypeVar

import click
import msgspec

from ..bounded import Newest
from ..conversation.words import called, customer_in, find_in, has_words, shown_of, terms_in
from ..engine.parts import Stats
from ..errors import ChatkeepError
from ..model import Message
from .options import StoreCommand, json_option, limit_option, store_argument, utc_option
from .printing import amount, columns, full_name, logged, plain, progress, tell, when
from .reaching import found_in, on_target
from .target import Place, Target

T = TypeVar("T")

LOOK_S = 1.0
"""So often `tail` looks for conversations that have changed."""

SLACK_S = 60.0
"""The clocks of those who write may differ by so much."""

AT_ONCE = 50
"""So much is shown at once of a conversation that was quiet, at most."""

FOLLOWED_MOST = 100_000

LATE_S = 60.0
"""Whoever waits longer for an answer is told of."""

COUNTED = ("conversations", "messages", "unread", "waiting", "set aside", "paused", "unreadable", "changed today")
"""What `stats` counts, in the order of its columns."""

AROUND = 40
"""So many characters `search` shows before and behind what it found."""


@click.command(cls=StoreCommand)
@store_argument
@click.argument("conversation", required=False)
@click.option("--tenant", metavar="NAME", help="Whose; without it the default one's, and all with no conversation.")
@click.option("--last", default=10, show_default=True, type=click.IntRange(0), help="Begin with so many messages.")
@utc_option
@json_option
def tail(store: str, conversation: str | None, tenant: str | None, last: int, as_json: bool) -> None:
    """Print what is said as it is said, until Ctrl-C.

    In one conversation, or in all of them: those then begin with what is said from now on.

    \b
    Examples:
      chatkeep tail chat.db ada
      chatkeep tail chat.db --tenant salon-7 --json
    """
    begin = last

    def show(of: str, name: str, message: Message) -> None:
        if as_json:
            tell({"tenant": of, "conversation": name, "message": message})
        else:
            if conversation is None:
                click.echo(full_name(of, name))
            logged(message)
        sys.stdout.flush()

    async def follow_one(target: Target, name: str) -> None:
        of = target.of(tenant or "")
        head = (await found_in(of, name, target.where)).head
        async for message in of.messages(name, after=max(head - begin, 0)):
            show(of.name, name, message)

    async def follow_all(target: Target) -> None:
        shown: Newest[tuple[str, str], int] = Newest(FOLLOWED_MOST)
        start = looked_at = time.time()
        click.echo("What is said from now on, in all conversations; Ctrl-C ends it.", err=True)
        while True:
            since, looked_at = looked_at - SLACK_S, time.time()
            async for found, *_ in target.conversations(tenant):
                if found.updated_at < since:
                    break
                of, key = target.of(found.tenant), (found.tenant, found.id)
                seen = shown.get(key)
                if seen is not None and seen >= found.head:
                    continue
                page = {"before": found.head + 1, "limit": AT_ONCE} if seen is None else {"after": seen}
                last = max(found.head, seen or 0)
                with suppress(ChatkeepError):  # erased meanwhile, or unreadable, which `list` tells
                    async for message in of.history(found.id, **page):
                        last = max(last, message.number)
                        if message.created_at >= start or seen is not None:
                            show(found.tenant, found.id, message)
                shown[key] = last
            await asyncio.sleep(LOOK_S)

    async def follow(target: Target) -> None:
        await (follow_all(target) if conversation is None else follow_one(target, conversation))

    with suppress(KeyboardInterrupt):
        on_target(store, follow)


@click.command(cls=StoreCommand)
@store_argument
@click.argument("text")
@click.option("--tenant", metavar="NAME", help="Only this tenant's; without it, all.")
@limit_option
@utc_option
@json_option
def search(store: str, text: str, tenant: str | None, limit: int, as_json: bool) -> None:
    """Find conversations by what was said in them, by id, title, owner or customer.

    A customer is found by what the channel has told: names, phone number (its digits, with the country's), user id. Upper and lower
    case are alike. Found is the text as it stands, and what has all its words in one message, where the last one may be the
    beginning of a word. The newest conversations come first. Without a full-text index (`chatkeep index`) the logs are read until
    enough was found, so on a large store it takes a while; Ctrl-C ends it. A server without one reads the last 2,000 entries of
    each log itself.

    \b
    Examples:
      chatkeep search chat.db "gel manicure"
      chatkeep search chat.db +49170 --tenant salon-7 --limit 5
    """
    wanted = text.casefold()
    if not wanted:
        raise click.UsageError("TEXT is empty; nothing was searched.")

    async def work(target: Target) -> None:
        found = 0
        async for number, one in _enumerate(target.places(tenant, text)):
            progress(f"{amount(number, 'conversation')} read, {found:,} found")
            async for message in _matches(target, one, wanted):
                found += 1
                progress("")
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
        progress("")
        if not found and not as_json:
            click.echo("Nothing was found.")

    on_target(store, work)


@click.command(cls=StoreCommand)
@store_argument
@click.option("--tenant", metavar="NAME", help="Only this tenant's; without it, all.")
@click.option("--parts", is_flag=True, help="Of a server: what each part of its process has done, and how it is now.")
@json_option
def stats(store: str, tenant: str | None, parts: bool, as_json: bool) -> None:
    """Count what is in a store: conversations, messages, what waits and what was set aside.

    Unread are messages that the bot has not answered yet, waiting are conversations in which a person has not either. It reads the list of
    all conversations. What a running server does is told with --parts, and in its /metrics.

    \b
    Examples:
      chatkeep stats chat.db
      chatkeep stats https://chat.example --parts
    """

    async def work(target: Target) -> None:
        if parts:
            _tell_parts(await target.stats(), as_json)
        else:
            counts, late = await _count(target, tenant)
            _tell_counts(counts, late, as_json)

    on_target(store, work)


def _tell_parts(found: Stats, as_json: bool) -> None:
    """Print what each part of a server's process tells of itself."""
    if as_json:
        tell(found)
        return
    for name, told in msgspec.to_builtins(found).items():
        for member, value in _flat(name, told):
            click.echo(f"{member:<32}  {plain(str(value), line=True)}")


async def _count(target: Target, tenant: str | None) -> tuple[dict[str, Counter[str]], float]:
    """Return what is COUNTED of each tenant, and for how long the one who waits longest for the bot has waited."""
    counts: dict[str, Counter[str]] = {}
    today, late = time.time() - 86_400, 0.0
    async for place, found in _enumerate(target.conversations(tenant)):
        one = found.conversation
        progress(f"{amount(place, 'conversation')} counted")
        count = counts.setdefault(one.tenant, Counter())
        count["conversations"] += 1
        count["messages"] += one.head
        count["unread"] += one.unread
        count["waiting"] += found.waits
        count["set aside"] += len(one.dead)
        count["paused"] += one.paused
        count["unreadable"] += bool(one.fault)
        count["changed today"] += one.updated_at >= today
        if one.unread and not one.paused and not one.fault:
            late = max(late, time.time() - one.updated_at)
    progress("")
    return counts, late


def _tell_counts(counts: dict[str, Counter[str]], late: float, as_json: bool) -> None:
    """Print what was counted, and that somebody has waited too long."""
    if as_json:
        for name, count in sorted(counts.items()):
            tell({"tenant": name} | {key.replace(" ", "_"): count[key] for key in COUNTED})
        return
    rows = [
        (plain(name, line=True) or "(default)", *(str(count[key]) for key in COUNTED))
        for name, count in sorted(counts.items())
    ]
    if len(rows) > 1:
        total = sum(counts.values(), Counter())
        rows.append(("all", *(str(total[key]) for key in COUNTED)))
    columns(("tenant", *COUNTED), rows, nothing="There are no conversations.")
    if late > LATE_S:
        click.echo(
            f"\nSomebody waits for an answer since {_long(late)}. Does a process with the bot run on this store?"
        )


def _flat(name: str, told: Any) -> Iterator[tuple[str, Any]]:
    """Yield the numbers in *told*, each under its whole name."""
    if not isinstance(told, dict):
        yield name, "-" if told is None else f"{told:,.1f}" if isinstance(told, float) else told
        return
    for member, value in told.items():
        yield from _flat(f"{name}.{member}", value)


async def _enumerate(found: AsyncIterator[T]) -> AsyncIterator[tuple[int, T]]:
    place = 0
    async for one in found:
        place += 1
        yield place, one


async def _matches(target: Target, one: Place, wanted: str) -> AsyncIterator[Message | None]:
    """Yield the messages of a conversation that have the words, and the first one whose customer is called like that; None where its id,
    title or owner has them."""
    terms = terms_in(wanted)
    named = any(wanted in name.casefold() for name in (one.id, one.title, one.owner))
    if named or has_words(called(one.id, one.title), terms):
        yield None
    if one.fault:
        return
    try:
        is_known = False
        async for message in target.of(one.tenant).history(one.id):
            if message.role == "system":
                continue
            text, customer = message.text, customer_in(message)
            if wanted in text.casefold() or has_words(text, terms):
                yield message
            elif wanted in customer.casefold() or has_words(customer, terms):
                if not is_known:  # each message of the customer has it
                    yield message
                is_known = True
            elif customer and has_words(f"{text}\n{customer}", terms):
                yield message
    except ChatkeepError as fault:  # erased meanwhile, or a log that is damaged
        click.echo(f"{plain(one.id, line=True)} was left out: {plain(str(fault), line=True)}", err=True)


def _around(message: Message, wanted: str) -> str:
    """Return the words that were found with some of those around them, as one line."""
    text = shown_of(message, wanted)
    first, last = find_in(text, wanted)
    begin, end = max(first - AROUND, 0), last + AROUND
    return plain(f"{'...' * (begin > 0)}{text[begin:end]}{'...' * (end < len(text))}", line=True)


def _long(seconds: float) -> str:
    """Return a duration in the largest unit that fits."""
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{round(seconds / length)} {unit}"
    return f"{round(seconds)} seconds"
