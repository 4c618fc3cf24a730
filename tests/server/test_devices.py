"""A user's devices over HTTP: their tokens, listed, rotated and ended."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ..support.users import House, housed


@pytest.fixture
async def house(url: str) -> AsyncIterator[House]:
    """A house that lets visitors in."""
    async with housed(url, anonymous=True) as found:
        yield found


async def test_devices_are_listed_rotated_and_ended(house: House) -> None:
    """By the user and by a service key; a token that was rotated ends; another user's are not to be found."""
    phone, tab, eve = await house.token("ada", label="phone"), await house.token("ada"), await house.token("eve")
    devices = (await house.ask("GET", "/v1/me/tokens", token=tab)).json["tokens"]
    fresh = await house.ask("POST", "/v1/me/tokens/current/rotate", {"grace": 0}, token=tab)
    new = await house.ask("GET", "/v1/me", token=fresh.json["token"])
    id = next(one["id"] for one in devices if one["label"] == "phone")
    others = await house.ask("DELETE", f"/v1/me/tokens/{id}", token=eve)
    ended = await house.ask("DELETE", f"/v1/me/tokens/{id}", token=phone)
    after = await house.ask("GET", "/v1/me", token=phone)
    eves = (await house.ask("GET", "/v1/users/eve/tokens")).json["tokens"]
    cut = await house.ask("DELETE", f"/v1/users/eve/tokens/{eves[0]['id']}")

    assert (2, 200) == (len(devices), new.status)
    assert (404, 204, 401) == (others.status, ended.status, after.status)
    assert 401 == (await house.ask("GET", "/v1/me", token=tab)).status
    assert (204, 401) == (cut.status, (await house.ask("GET", "/v1/me", token=eve)).status)
