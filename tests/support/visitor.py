"""A visitor with a browser that keeps one cookie, and a bot that does what it is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from chatkeep import Receipt, Turn
from chatkeep.cookie import Chat, CookieChat, clear_cookie

KEY = "a key of at least sixteen bytes"
HOST = "shop.example.com"


async def counting(turn: Turn) -> str:
    """Counts messages, and does what they say."""
    turn.state["count"] = turn.state.get("count", 0) + 1
    match turn.text.split():
        case ["fill", size]:
            turn.state |= {"large": "x" * int(size), "small": 1}
        case ["empty"]:
            turn.state.pop("large", None)
        case ["fail"]:
            raise ValueError("no")
        case ["complete"]:
            clear_cookie(turn)
        case ["remind"]:
            turn.remind("1h", "cart")
        case ["pay"]:
            turn.state["paid"] = await turn.step("pay", lambda: "ref")
    return f"{turn.state['count']} of {len(turn.history) // 2 + 1}"


class Browser:
    """Keeps the cookie, and says what came of each message."""

    def __init__(self, bot: Any = counting, *, now: Callable[[], float] = time.time, **options: Any) -> None:
        self._made: dict[str, Any] = {"bot": bot, "keys": [KEY], "clock": now} | options
        self.chats: CookieChat[Any] = CookieChat(**self._made)
        self.cookie = ""
        self.lost = ""
        self.headers: list[tuple[str, str]] = []

    def open(self) -> Any:
        """The chat of one request."""
        return self.chats.chat(self.cookie, host=HOST)

    async def say(self, text: str, **told: Any) -> Receipt:
        """Sends a message, and takes the cookie of the answer."""
        async with self.open() as chat:
            self.lost = chat.lost
            receipt: Receipt = await chat.receive(text, **told)
            self.take(chat)
        return receipt

    def take(self, chat: Chat[Any]) -> None:
        """Takes what an answer sets."""
        self.headers = chat.headers()
        if self.headers:
            pair, _, attributes = dict(self.headers)["set-cookie"].partition(";")
            self.cookie = "" if "Max-Age=0;" in attributes else pair

    async def hear(self, text: str, **told: Any) -> str:
        """What the bot says."""
        return (await self.say(text, **told)).replies[0].text

    async def state(self) -> Any:
        """What is known."""
        async with self.open() as chat:
            there = await chat.conversation()
        return there and there.state

    def move(self, **options: Any) -> None:
        """Deploys the application anew, with other options."""
        self.chats = CookieChat(**self._made | options)

    async def close(self) -> None:
        """Ends the application."""
        await self.chats.close()
