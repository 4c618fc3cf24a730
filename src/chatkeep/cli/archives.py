"""Exporting and importing conversations: `chatkeep export`, `chatkeep import`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import aclosing, contextmanager, nullcontext, suppress
from typing import IO, TYPE_CHECKING, Literal, NoReturn

import click

from ..app import core_of
from ..drivers.base import Driver
from ..drivers.whole_files import make_part, put
from ..errors import ChatkeepError, Corrupt, UsageError
from ..storage.archive import LONGEST_LINE, Existing, Exported, Imported, import_lines, read_blocks
from .opening import driver_with_keys, existing, note_act, open_driver, opened, target_url, url_of
from .options import StoreCommand, json_option, store_argument
from .printing import amount, in_all, now_and_then, plain, progress, tell
from .reaching import found_in, open_target
from .target import Target, is_server

if TYPE_CHECKING:
    from ..people.handing_out import HandedOut


@click.command(cls=StoreCommand)
@store_argument
@click.option("--conversation", metavar="ID", help="Only this one, of the tenant.")
@click.option(
    "--tenant", metavar="NAME", help="Only this tenant's; without it, all, with credentials and the audit log."
)
@click.option(
    "--owner",
    metavar="NAME",
    help="One person's, under every name, as a ZIP archive to be read by that person; needs --output.",
)
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="A new file; without it, standard output.")
@click.option("--replace", is_flag=True, help="Replaces the file when it is there.")
def export(
    store: str, conversation: str | None, tenant: str | None, owner: str | None, output: str | None, replace: bool
) -> None:
    """Write conversations as lines of JSON, in the format of docs/reference/export.md.

    \b
    Examples:
      chatkeep export chat.db -o monday.jsonl
      chatkeep export chat.db --conversation ada
      chatkeep export redis://127.0.0.1/0 --tenant salon-7 | zstd > salon-7.jsonl.zst
      chatkeep export chat.db --owner user-17 -o user-17.zip
      chatkeep export https://chat.example -o monday.jsonl
    """
    if output is not None and os.path.exists(output) and not replace:
        raise UsageError(f"{output} exists already; nothing was written. Choose another name, or add --replace.")
    if owner is not None:
        if output is None or conversation is not None:
            raise UsageError("--owner needs --output and cannot be combined with --conversation; nothing was written.")
        if is_server(store):
            raise UsageError(
                "`chatkeep export --owner` is not possible over HTTP: the archive for a person is put together where the store is. "
                "Nothing was done. Name the store, on a machine that reaches it."
            )
        export_person(store, tenant or "", owner, output, replace=replace)
        return
    target, said = open_target(store), Exported()
    with nullcontext(sys.stdout.buffer) if output is None else whole_file(output, replace=replace) as file:
        asyncio.run(write_export(target, file, said, tenant=tenant, conversation=conversation))
    alone = conversation is not None and said.conversations <= 1  # else its owner's claims are there too
    of = amount(said.conversations, "conversation") if alone else in_all(said.conversations)
    are = "is" if said.conversations == 1 else "are"
    click.echo(f"{of} with {amount(said.entries, 'entry', 'entries')} {are} exported.", err=True)
    if said.damaged:
        raise left_out(list(said.damaged.values()), "the export")


def left_out(reasons: list[str], place: str) -> Corrupt:
    """Return the error for conversations that could not be read, and so are not in a *place*: how many, and the first reasons."""
    are = "is" if len(reasons) == 1 else "are"
    return Corrupt(
        f"{amount(len(reasons), 'conversation')} could not be read and {are} not in {place}: {'; '.join(reasons[:5])}"
    )


def export_person(store: str, tenant: str, owner: str, output: str, *, replace: bool) -> None:
    """Write the archive of one person, and note in the audit log that it was."""
    keep = existing(store)

    async def work(target: IO[bytes]) -> HandedOut:
        said = await core_of(keep).hand_out(tenant, owner, target)
        await note_act(keep, tenant, "export", f"owner {owner}")
        return said

    with whole_file(output, replace=replace) as target:
        said = asyncio.run(opened(keep, lambda: work(target)))
        if not said.conversations and not said.damaged:
            raise ChatkeepError(f"The store has nothing of user {plain(owner, line=True)!r}; nothing was written.")
    names = ", ".join(plain(name, line=True) for name in said.names)
    click.echo(
        f"{amount(said.conversations, 'conversation')} with {amount(said.messages, 'entry', 'entries')} of {names} "
        f"{'is' if said.conversations == 1 else 'are'} in {output}.",
        err=True,
    )
    if said.damaged:
        raise left_out(list(said.damaged.values()), "it")


@contextmanager
def whole_file(path: str, *, replace: bool) -> Iterator[IO[bytes]]:
    """Open a file that nobody else may read, and that stands at *path* when it is complete, or never."""
    try:
        made, part = make_part(path, 0o600)
    except OSError as fault:
        raise UsageError(
            f"{path} cannot be made: {fault.strerror}. Nothing was written; name a file in a folder that you may write to."
        ) from fault
    with os.fdopen(part, "w+b") as file, _ended_in_order():
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if sys.platform == "win32":  # where a file that is open keeps its name, and no lock is held
                file.close()
            _put(made, path, replace=replace)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(made)


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Have the signals that end a program end it as an exception does, so that it takes away what it has begun: the next export may be made
    under another name, and would not."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        ending = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
        # (One that is ignored, as by nohup, ends nothing.)
        before = {each: signal.signal(each, _end) for each in ending if signal.getsignal(each) is not signal.SIG_IGN}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _end(number: int, frame: object) -> NoReturn:
    sys.exit(128 + number)


def _put(made: str, path: str, *, replace: bool) -> None:
    """Put the file that was *made* at *path*. Raises `UsageError` where another is there by now, unless it may *replace* that."""
    try:
        put(made, path, replace=replace)
    except FileExistsError:
        raise UsageError(
            f"{path} was made by somebody else meanwhile, and was not changed. Choose another name, or add --replace."
        ) from None


async def write_export(
    target: Target, file: IO[bytes], said: Exported, *, tenant: str | None, conversation: str | None
) -> None:
    """Write what an export says to a file."""
    shown_at, count = time.monotonic(), 0
    async with target:
        if conversation is not None:
            with suppress(Corrupt):  # which is told at the end
                await found_in(target.of(tenant or ""), conversation, target.where)
        async with aclosing(target.export(tenant, conversation, said)) as lines:  # type: ignore[type-var]
            async for line in lines:
                file.write(line)
                count += 1
                if not sys.stdout.isatty() and time.monotonic() > shown_at + 0.1:
                    shown_at = time.monotonic()
                    progress(f"{amount(count, 'line')} written")
        progress("")
        file.flush()


@click.command("import", cls=StoreCommand)
@store_argument
@click.argument("file", type=click.File("rb"))
@click.option(
    "--existing",
    type=click.Choice(["refuse", "skip", "replace"]),
    default="refuse",
    show_default=True,
    help="What to do with a conversation that is there and is another one.",
)
@click.option("--check", is_flag=True, help="Reads the file and imports nothing.")
@json_option
def import_(
    store: str, file: IO[bytes], existing: Literal["refuse", "skip", "replace"], check: bool, as_json: bool
) -> None:
    """Read the lines of an export into a store, which is made if it is not there; "-" is standard input.

    Conversations arrive as they were, with numbers and ids. A file is read to its end before anything is imported. What is there
    already is passed over, so an import that was interrupted is run again.

    \b
    Examples:
      chatkeep import new.db monday.jsonl
      zstd -dc salon-7.jsonl.zst | chatkeep import postgresql://bot@db.example/chat -
    """
    driver = driver_with_keys(url_of(store) if check else target_url(store))
    if check or file.seekable():
        count = checked(file)
        if check:
            click.echo(f"{in_all(count)}, and nothing wrong. Nothing was imported.")
            return
        file.seek(0)
    said = asyncio.run(read_import(driver, file, existing, live=not as_json))
    if as_json:
        tell(said)
        return
    others = [
        f"{number:,} {'was' if number == 1 else 'were'} {what}"
        for number, what in ((said.already, "there already"), (said.skipped, "passed over"))
        if number
    ]
    again = f"; {', '.join(others)}" if others else ""
    click.echo(
        f"{in_all(said.new + said.replaced, 'imported')}, with {amount(said.entries, 'entry', 'entries')}{again}."
    )


def checked(file: IO[bytes]) -> int:
    """Return how many conversations and records are in a file in which nothing is wrong. Raises `UsageError`."""
    said, count = Imported(), 0
    try:
        for block in read_blocks(lines_of(file), said, now=0.0):
            block.texts.close()
            count += 1
    except UsageError as fault:
        raise type(fault)(f"{fault}. Nothing was imported.") from fault
    return count


async def read_import(driver: Driver, file: IO[bytes], existing: Existing, *, live: bool) -> Imported:
    """Import what a file holds."""

    def words(said: Imported) -> str:
        return f"{amount(said.conversations, 'conversation')}, line {said.line:,}"

    told = now_and_then(words) if live else (lambda _: None)

    try:
        await open_driver(driver)
        return await import_lines(driver, lines_of(file), existing=existing, told=told)
    finally:
        await driver.close()


def lines_of(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the lines of a file; one that is longer than any may be, in pieces."""
    return iter(lambda: file.readline(LONGEST_LINE + 1), b"")
