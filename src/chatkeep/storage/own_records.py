"""Whether the small records that chatkeep keeps for itself can be read: what is paused, holds, credentials, claims, the audit log."""

from __future__ import annotations

import heapq

from ..conversation.codec import messages_from, record_of
from ..conversation.keys import RESERVED
from ..drivers.base import Ability, Driver, Entries, Finding, Key, Row, Scan, row_at
from ..errors import Corrupt, Misconfigured, StoreError, Unsupported
from .pacing import Pages, do
from .relocation import NOTE
from .seal_note import SPACE as KEYS
from .seal_note import refuse_sealed

SUBJECT = "own records"
PAGE = 200
NAMED = 5
"""So many that cannot be read are told of, each in a finding of its own."""
LOGGED = (RESERVED + "chatkeep", RESERVED + "audit")
"""The tenants of records whose log counts as much as they do: what everything depends on, and what people have done."""


async def examine_records(driver: Driver) -> list[Finding]:
    """Read all of chatkeep's own records in a store that is open, and return what is to be said of them. A damaged one is a failing: the
    bot may be silent because of it, or somebody be let in, or kept out."""
    count, faults = 0, list[str]()
    pages = Pages(driver, Scan("key", after=row_at(Key(RESERVED, "")), limit=PAGE))
    while rows := await pages.next():
        own = [row for row in rows if row.key.tenant.startswith(RESERVED)]
        for row in own:
            if row.key.tenant == KEYS or row.key == NOTE:
                continue  # (these are no records, and whoever opens the store reads them)
            count += 1
            try:
                await _read(driver, row)
            except (Corrupt, Unsupported) as fault:
                faults.append(str(fault))
        if len(own) < len(rows):  # the tenants behind are of people
            break
    if not faults:
        return [Finding("ok", SUBJECT, f"{count:,} can be read")]
    told = [Finding("fail", SUBJECT, said) for said in heapq.nsmallest(NAMED, faults)]
    more = len(faults) - len(told)
    return told + [Finding("fail", SUBJECT, f"{more:,} more cannot be read, of {count:,}")] * (more > 0)


async def _read(driver: Driver, row: Row) -> None:
    """Read one record, and its log where that counts. Raises `Corrupt`, or `Unsupported` if newer code wrote it."""
    record = record_of(row)
    after = record.dropped
    while row.key.tenant in LOGGED and after < row.head:
        page = await do(driver.entries, Entries(row.key, after, limit=PAGE))
        messages_from(row.key, row.incarnation, page)
        if not page:
            return  # it has gone on meanwhile
        after = page[-1].number


async def examine_opened(driver: Driver) -> list[Finding]:
    """Open a store that is there and as this code has it, and return what `examine_records` says; nothing is changed."""
    if Ability.SCAN not in driver.abilities:
        return []
    try:
        await driver.open()
        try:
            await refuse_sealed(driver)
            return await examine_records(driver)
        finally:
            await driver.close()
    except Misconfigured as fault:  # whoever asks has not the keys, or not the rights
        return [Finding("warn", SUBJECT, f"they were not read: {fault}")]
    except StoreError as fault:
        return [Finding("fail", SUBJECT, f"they were not read: {fault}")]
