"""A deploy in the middle of turns that take steps: the old release is killed, the new one has other steps; nobody is stranded.

Both directions: each pair of releases is deployed and backed out.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from chatkeep import Chatkeep, Turn

from ..support.stores import FAST, LASTING, store_url
from ..support.waiting import until

RELEASES = {
    "the same": ("charge,ship", "charge,ship"),
    "one added in front": ("charge,ship", "check,charge,ship"),
    "one added in the middle": ("charge,ship", "charge,check,ship"),
    "one added behind": ("charge,ship", "charge,ship,thank"),
    "the first one removed": ("charge,ship", "ship"),
    "the last one removed": ("charge,ship", "charge"),
    "all removed": ("charge,ship", ""),
    "reordered": ("charge,ship", "ship,charge"),
    "renamed": ("charge,ship", "pay,ship"),
    "all of them others": ("charge,ship", "a,b,c"),
}
"""The steps of the old release, and of the new one."""

BOTH_WAYS = [pair for old, new in RELEASES.values() for pair in ((old, new), (new, old)) if pair[0]]
CONVERSATIONS = [f"{where} {old}>{new}" for where in ("after", "inside") for old, new in dict.fromkeys(BOTH_WAYS)]
"""Where the old release is killed: after its first step was recorded, or inside of it; and the steps of both releases."""

OLD_RELEASE = """
import asyncio, sys
from pathlib import Path
from chatkeep import Chatkeep

keep = Chatkeep(sys.argv[1], poll="50ms")

@keep.on_message
async def bot(turn):
    where, _, releases = turn.conversation.partition(" ")
    name = releases.partition(">")[0].split(",")[0]

    async def effect():
        with open(sys.argv[2], "a") as effects:
            print(turn.conversation, name, turn.step_key(name), sep="|", file=effects)
        if where == "inside":
            print(turn.conversation, flush=True)
            await asyncio.Event().wait()

    await turn.step(name, effect)
    print(turn.conversation, flush=True)
    await asyncio.Event().wait()

async def main():
    async with keep:
        for conversation in sys.argv[3:]:
            await keep.accept(conversation, "one", id="m1")
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture(params=LASTING)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store that outlives its processes."""
    return store_url(request.param, request, tmp_path)


def effects_in(path: Path) -> dict[str, Counter[tuple[str, str]]]:
    """What was done outside, for each conversation: the names of steps and their keys, and how often."""
    found: dict[str, Counter[tuple[str, str]]] = {conversation: Counter() for conversation in CONVERSATIONS}
    for line in path.read_text().splitlines():
        conversation, name, key = line.split("|")
        found[conversation][name, key] += 1
    return found


async def test_a_deploy_strands_no_conversation(url: str, tmp_path: Path) -> None:
    """Every message of the killed release is answered by the new one. What a step has recorded is not done again, also if steps were added
    in front of it, or its place is another one; every other step of the new release is done once. Only a step in which the old release
    died is done again, under the same key. The conversation goes on."""
    effects = tmp_path / "effects"
    old = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OLD_RELEASE, url, str(effects), *CONVERSATIONS, stdout=asyncio.subprocess.PIPE
    )
    assert old.stdout is not None
    reached = [(await asyncio.wait_for(old.stdout.readline(), 30)).decode().strip() for _ in CONVERSATIONS]
    old.kill()
    await old.wait()
    assert sorted(CONVERSATIONS) == sorted(reached)

    new: Chatkeep[Any] = Chatkeep(url, **FAST)

    @new.on_message
    async def bot(turn: Turn) -> str:
        steps = turn.conversation.partition(">")[2]
        for name in filter(None, steps.split(",")):

            def effect(name: str = name) -> None:
                with effects.open("a") as file:
                    print(turn.conversation, name, turn.step_key(name), sep="|", file=file)

            await turn.step(name, effect)
        turn.state["count"] = turn.state.get("count", 0) + 1
        return steps or "nothing"

    async with new:

        async def all_answered() -> bool:
            found = [await new.conversation(conversation) for conversation in CONVERSATIONS]
            return all(there is not None and there.unread == 0 and there.head >= 2 for there in found)

        await until(all_answered, within=60, every=0.1)
        done = effects_in(effects)
        states = {conversation: await new.conversation(conversation) for conversation in CONVERSATIONS}
        later = [await new.receive(conversation, "two", id="m2") for conversation in CONVERSATIONS]

    for conversation, keys in done.items():
        where, _, releases = conversation.partition(" ")
        before, after = (list(filter(None, steps.split(","))) for steps in releases.split(">"))
        wanted = dict.fromkeys([before[0], *after], 1)
        if where == "inside" and before[0] in after:
            wanted[before[0]] = 2
        there = states[conversation]

        assert wanted == {name: count for (name, _), count in keys.items()}, conversation
        assert there is not None
        assert (",".join(after) or "nothing", {"count": 1}, []) == (there.messages[-1].text, there.state, there.dead)
    assert [2] * len(CONVERSATIONS) == [len(receipt.replies) + 1 for receipt in later]
    assert all(count == 1 for keys in later_only(done, effects_in(effects)) for count in keys.values())


def later_only(before: dict[str, Any], after: dict[str, Counter[tuple[str, str]]]) -> list[Counter[tuple[str, str]]]:
    """What was done since."""
    return [after[conversation] - before[conversation] for conversation in CONVERSATIONS]
