"""Kills instances that stream, for real, and looks at what anybody has read: `python -m tests.support.streaming FOLDER URL`.

Two instances answer on one store, each message with words that a "model" makes up, one after another. A supervisor, which is an
instance without a handler, sends messages, watches, and kills an instance with SIGKILL at random instants. The instances watch
too, and write down what they were shown. In the end each text that anybody was shown must be the beginning of the reply that is
recorded.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

from chatkeep import Chatkeep, Delta, Turn
from chatkeep.conversation import streams
from chatkeep.drivers import driver_for
from chatkeep.drivers.postgresql import driver as postgresql
from chatkeep.drivers.redis import transport as redis
from chatkeep.drivers.sqlite import driver as sqlite

from .waiting import takes, time_passes, until

WORDS = 12
PAUSE_S = 0.06
TALKS = [f"talk-{number}" for number in range(4)]
LOADED = (postgresql, redis, sqlite, driver_for)
"""Imported once, before every fork."""


def make_keep(url: str, calls: Path | None) -> Chatkeep[Any]:
    """A bot that makes its words up as it goes, or none; each word asked of the model is a byte in *calls*."""
    keep: Chatkeep[Any] = Chatkeep(url, poll="50ms")
    if calls is not None:
        counter = os.open(calls, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        @keep.on_message
        async def bot(turn: Turn[Any]) -> AsyncIterator[str]:
            for _ in range(len(turn.said.split()), WORDS):
                await takes(PAUSE_S * random.uniform(0.2, 1.8))
                os.write(counter, b".")
                yield f"{secrets.token_hex(2)} "

    return keep


async def note(keep: Chatkeep[Any], talk: str, seen: int) -> None:
    """Write down each piece that a watcher is shown, before it may be killed."""
    async for event in keep.events(talk, after=0):
        if isinstance(event, Delta):
            os.write(seen, json.dumps([event.reply, event.at, event.text]).encode() + b"\n")


async def serve(url: str, folder: Path) -> None:
    """An instance, until it is killed."""
    seen = os.open(folder / f"seen-{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    async with make_keep(url, folder / "calls") as keep, asyncio.TaskGroup() as group:
        for talk in TALKS:
            group.create_task(note(keep, talk, seen))


class Zygote:
    """A process that has imported everything and makes instances by forking: an import takes longer than they live."""

    def __init__(self, url: str, folder: Path) -> None:
        asked, self._ask = os.pipe()
        self._told, tell = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            os.close(self._ask)
            while os.read(asked, 1):
                if (pid := os.fork()) == 0:
                    asyncio.run(serve(url, folder))
                    os._exit(1)
                os.write(tell, b"%10d" % pid)
            os._exit(0)

    def start(self) -> int:
        """Start an instance; its process id."""
        os.write(self._ask, b".")
        return int(os.read(self._told, 10))

    def close(self) -> None:
        """End it."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


async def is_answered(keep: Chatkeep[Any], talk: str) -> bool:
    """Tell whether nothing waits in *talk*."""
    found = await keep.conversation(talk, messages=0)
    return found is not None and not found.unread


async def supervise(url: str, folder: Path, zygote: Zygote, kills: int) -> int:
    """Send, watch and kill; then say what was found. Answers how many messages were sent."""
    running = [zygote.start(), zygote.start()]
    seen = os.open(folder / "seen-supervisor", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    sent = 0
    async with make_keep(url, None) as keep:
        watching = [asyncio.create_task(note(keep, talk, seen)) for talk in TALKS]
        for _ in range(kills):
            for talk in TALKS:
                found = await keep.conversation(talk, messages=0)
                if found is None or not found.unread:
                    sent += 1
                    await keep.accept(talk, "go on", id=f"{sent}")
            await time_passes(random.uniform(0.2, 0.7))
            place = random.randrange(len(running))
            os.kill(running[place], signal.SIGKILL)
            running[place] = zygote.start()
        for talk in TALKS:
            await until(partial(is_answered, keep, talk), within=60.0, every=0.1)
        for pid in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for task in watching:
            task.cancel()
        replies = {message.id: message for talk in TALKS async for message in keep.history(talk) if message.reply_to}
    faults = check(folder, {id: message.text for id, message in replies.items()})
    whole = sum(len(message.text.split()) == WORDS for message in replies.values() if message.role == "assistant")
    ended = sum("interrupted" in message.metadata for message in replies.values())
    calls = (folder / "calls").stat().st_size
    pieces = sum(len(message.text.split()) for message in replies.values() if message.role == "assistant")
    print(
        f"{sent} messages, {kills} kills: {whole} whole, {ended} interrupted; {pieces} words recorded, {calls} asked for"
    )
    if whole + ended != sent:
        faults.append(f"{sent} messages have {whole} whole replies and {ended} interrupted ones")
    # A kill may hit the runs of all conversations, and in each the words of one gathering.
    most = pieces + kills * len(TALKS) * 8
    if calls > most:
        faults.append(f"the model was asked {calls} times, at most {most} were to be expected")
    for fault in faults:
        print("FAULT:", fault)
    return 1 if faults else 0


def check(folder: Path, recorded: dict[str, str]) -> list[str]:
    """Compare what each watcher was shown with what is *recorded*, by the ids of replies."""
    faults, shown = [], 0
    for path in folder.glob("seen-*"):
        texts: dict[str, str] = {}
        for line in path.read_text().splitlines():
            try:
                reply, at, text = json.loads(line)
            except ValueError:  # killed while it was written
                continue
            shown += 1
            if at != len(texts.get(reply, "")):
                faults.append(
                    f"{path.name}: {reply} was shown from {at} on, behind {len(texts.get(reply, ''))} characters"
                )
            texts[reply] = texts.get(reply, "")[:at] + text
        for reply, text in texts.items():
            if not recorded.get(reply, "").startswith(text):
                faults.append(f"{path.name}: {reply} was shown as {text!r} and is recorded as {recorded.get(reply)!r}")
    print(f"{shown} pieces shown")
    return faults if shown else ["nothing was shown"]


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("url")
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument(
        "--plant", action="store_true", help="a bug that the check must find: runs are not told of earlier ones"
    )
    given = parser.parse_args()
    if given.plant:
        streams.find_said = lambda snapshot: None  # type: ignore[assignment]
    zygote = Zygote(given.url, given.folder)
    try:
        code = asyncio.run(supervise(given.url, given.folder, zygote, given.kills))
    finally:
        zygote.close()
    sys.exit(code)


if __name__ == "__main__":
    main()
