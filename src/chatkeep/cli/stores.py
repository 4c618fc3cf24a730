"""Commands about a store as a whole."""

from __future__ import annotations

import asyncio
import sys

import click
from msgspec import structs

from ..drivers import driver_for
from ..drivers.base import Finding
from ..drivers.statements import newest
from ..secrecy import without_secret
from ..storage.own_records import examine_opened
from ..storage.relocation import judge_epoch
from .exits import UNFIT
from .opening import driver_with_keys, existing, opened, url_of
from .options import StoreCommand, store_argument
from .printing import plain, tell

OLDER = tuple(f"{number} of " for number in range(newest("sqlite")))
"""How a driver begins to say that a file has an older schema, which an opening brings up to date."""


@click.command(cls=StoreCommand)
@store_argument
@click.argument("path", type=click.Path(dir_okay=False))
@click.option("--replace", is_flag=True, help="Replaces PATH when it is there.")
def backup(store: str, path: str, replace: bool) -> None:
    """Copy an SQLite store into a new file at PATH, while others use it.

    The copy is of one instant, and complete when it is there. To put it back: stop all that use the store, remove its
    -wal and -shm, and move the copy into its place.

    \b
    Example:
      chatkeep backup chat.db /backups/chat-monday.db
    """
    keep = existing(store)
    asyncio.run(opened(keep, lambda: keep.backup(path, replace=replace)))
    click.echo(f"{plain(without_secret(store), line=True)} is copied to {plain(path, line=True)}.")


@click.command(cls=StoreCommand)
@store_argument
@click.option("--json", "as_json", is_flag=True, help="One line of JSON for each finding.")
@click.option("--strict", is_flag=True, help="Warnings count as failures.")
def check(store: str, as_json: bool, strict: bool) -> None:
    """Say in plain words whether a store is fit to keep conversations.

    Versions, durability, eviction, clock, schema, permissions and the time of a round trip, and whether chatkeep's own records
    (what is paused, holds, credentials and so on) can be read; nothing is changed. Exit code 0 when it is fit, 7 when something
    is wrong with it (with --strict: also when there is a warning).

    \b
    Examples:
      chatkeep check chat.db
      chatkeep check redis://127.0.0.1:6379/0
      chatkeep check postgresql://bot@db.example/chat --strict
    """
    report(
        asyncio.run(examined(url_of(store))),
        what=without_secret(url_of(store)),
        as_json=as_json,
        strict=strict,
    )


async def examined(url: str) -> list[Finding]:
    """Return what the driver says of a store and, where opening it changes nothing, what is to be said of chatkeep's own records."""
    found = [judge_epoch(finding) for finding in await driver_for(url).examine()]
    said = {finding.subject: finding for finding in found}
    schema = said.get("schema")
    older = schema is not None and (schema.level != "ok" or schema.said.startswith(OLDER))
    if older or "epoch" not in said or any(finding.level == "fail" for finding in found):
        return found
    return found + await examine_opened(driver_with_keys(url))


def report(findings: list[Finding], *, what: str, as_json: bool = False, strict: bool = False) -> None:
    """Print what was found out about a store; ends the program when it is not fit."""
    findings = [judge_epoch(finding) for finding in findings]
    for finding in findings:
        if as_json:
            tell(structs.asdict(finding))
        else:
            mark = {"ok": click.style("ok  ", fg="green"), "warn": click.style("warn", fg="yellow")}
            click.echo(
                f"{mark.get(finding.level, click.style('FAIL', fg='red'))}  {finding.subject:<14}  {plain(finding.said, line=True)}"
            )
    failed = [finding for finding in findings if finding.level == "fail" or (strict and finding.level == "warn")]
    warned = [finding for finding in findings if finding.level == "warn"]
    if not as_json:
        verdict = "not fit" if failed else f"fit, with {len(warned)} to look at" if warned else "fit"
        click.echo(f"{verdict}: {plain(what, line=True)}")
    if failed:
        sys.exit(UNFIT)
