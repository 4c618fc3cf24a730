"""Whether chatkeep's own records can be read, as `chatkeep check` tells."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from chatkeep import Chatkeep
from chatkeep.app import core_of
from chatkeep.auth.credentials import create_key, issue_token
from chatkeep.conversation.keys import RESERVED
from chatkeep.drivers.base import Driver, Key, Read, Scan, Write, row_at
from chatkeep.storage.own_records import NAMED, PAGE, examine_records

from ..support.stores import FAST, STORES


async def damage(driver: Driver, key: Key) -> None:
    """Has a record say what no chatkeep has written."""
    found = await driver.read(Read(key, tail=0))
    assert found is not None
    row = structs.replace(found[0], body=b"junk", revision="another")
    await driver.write(Write(row, replaces=found[0].revision))


async def keys_of(driver: Driver) -> list[Key]:
    """Those of all records of chatkeep's own."""
    rows = await driver.scan(Scan("key", after=row_at(Key(RESERVED, "")), limit=1000))
    return [row.key for row in rows if row.key.tenant.startswith(RESERVED)]


@pytest.mark.parametrize("kind", STORES)
async def test_each_record_that_is_damaged_is_named_with_the_way_out(kind: str, fresh: Any) -> None:
    """Of whatever kind it is, also where tenants of people come behind them; and conversations are none."""
    url, driver = await fresh(kind)
    async with Chatkeep(url, **FAST) as keep:
        for tenant in ("", "éclair"):
            await keep.tenant(tenant).create("ada", owner="guest:1")
        await keep.user("ada").claim("guest:1")
        await keep.pause_all()
        await core_of(keep).hold("", "", "ada", reason="case 7")
        await create_key(keep, "")
        await issue_token(keep, "", "ada")
    whole = await examine_records(driver)
    keys = await keys_of(driver)
    await damage(driver, Key("", "ada"))
    told = {}
    for key in keys:
        before = await driver.read(Read(key, tail=0))
        assert before is not None
        await damage(driver, key)
        told[key] = await examine_records(driver)
        now = await driver.read(Read(key, tail=0))
        assert now is not None
        await driver.write(
            Write(structs.replace(now[0], body=before[0].body, revision="whole"), replaces=now[0].revision)
        )

    assert ["ok"] == [finding.level for finding in whole]
    assert {"~access", "~chatkeep", "~holds:", "~people:"} <= {key.tenant for key in keys}
    assert {key: ["fail"] for key in keys} == {
        key: [one.level for one in found if str(key) in one.said] for key, found in told.items()
    }
    assert "`chatkeep resume STORE --everywhere`" in told[Key("~chatkeep", "switches")][0].said
    assert whole == await examine_records(driver)


async def test_of_many_that_are_damaged_some_are_named(fresh: Any) -> None:
    """And all are counted, on whatever page of the store they stand."""
    url, driver = await fresh("sqlite")
    async with Chatkeep(url, **FAST) as keep:
        for _ in range(PAGE + NAMED):
            await create_key(keep, "")
    keys = await keys_of(driver)
    for key in keys:
        await damage(driver, key)
    found = await examine_records(driver)

    assert ["fail"] * (NAMED + 1) == [one.level for one in found]
    assert f"{len(keys) - NAMED} more cannot be read, of {len(keys)}" == found[-1].said
