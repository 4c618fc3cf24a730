"""Answers are followed on whichever instance a client comes to, on every store."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from chatkeep.server.protocols import aisdk, responses

from ...support.protocols import Bot, mounted, streamed
from ...support.stores import STORES, store_url
from ...support.waiting import until

SAID = {"id": "c1", "messages": [{"id": "m1", "role": "user", "parts": [{"type": "text", "text": "ada"}]}]}


@pytest.mark.parametrize("kind", STORES)
async def test_a_page_comes_to_another_instance(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """In the middle of an answer, by the same message and by resuming: the same answer, and one call of the handler."""
    url = store_url(kind, request, tmp_path)
    one, other = Bot(url), Bot(url)
    async with mounted(one, aisdk.routes(one.keep)) as first, mounted(other, aisdk.routes(other.keep)) as second:
        one.goes.clear()
        async with streamed(first, "POST", "/api/chat", SAID) as answer:
            seen = [await answer.next() for _ in range(3)]
            async with (
                streamed(second, "GET", "/api/chat/c1/stream") as resumed,
                streamed(second, "POST", "/api/chat", SAID) as again,
            ):
                elsewhere = [[await stream.next() for _ in range(3)] for stream in (resumed, again)]
                one.goes.set()
                rests = await asyncio.gather(answer.rest(), resumed.rest(), again.rest())

    whole = [joined([*begun, *rest]) for begun, rest in zip([seen, *elsewhere], rests, strict=True)]
    assert seen == elsewhere[0] == elsewhere[1]
    assert ["Hello there, ada"] * 3 == whole
    assert (["m1"], []) == (one.asked, other.asked)


@pytest.mark.parametrize("kind", STORES)
async def test_a_response_goes_on_on_another_instance(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Behind the very event after which the first connection was cut."""
    url = store_url(kind, request, tmp_path)
    one, other = Bot(url), Bot(url)
    async with (
        mounted(one, responses.routes(one.keep)) as first,
        mounted(other, responses.routes(other.keep)) as second,
    ):
        one.goes.clear()
        async with streamed(first, "POST", "/v1/responses", {"input": "ada", "stream": True}) as answer:
            events = [await answer.next() for _ in range(5)]
        id, seen = events[0]["response"]["id"], events[-1]["sequence_number"]
        async with streamed(second, "GET", f"/v1/responses/{id}?stream=true&starting_after={seen}") as goes_on:
            one.goes.set()
            events += await goes_on.rest()
        await until(lambda: len(one.asked) + len(other.asked) == 1)

    numbers = [event["sequence_number"] for event in events[:-1]]
    assert "Hello there, ada" == joined(events)
    assert sorted(set(numbers)) == numbers


def joined(events: list[Any]) -> str:
    """The text of the deltas."""
    return "".join(event["delta"] for event in events if event != "[DONE]" and "delta" in event)
