"""A running server with a chat page, whose bot says again what it hears, or what it is told to say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal
from playwright.sync_api import BrowserContext, Page

from chatkeep import Chatkeep, Turn
from chatkeep.auth.credentials import create_key
from chatkeep.model import Content

from .serving import served


class Service:
    """The server, and what its bot is to say. *heard*: the contents of what was said to it."""

    def __init__(self, portal: BlockingPortal, keep: Chatkeep[Any], port: int) -> None:
        self.portal, self.keep = portal, keep
        self.address = f"http://127.0.0.1:{port}/"
        self.says: list[Content] = []
        self.heard: list[Content] = []

    def empty(self) -> None:
        """Forgets everything."""

        async def erase() -> None:
            for found in [found.id async for found in self.keep.tenant("").conversations()]:
                await self.keep.erase(found)

        self.portal.call(erase)
        self.says.clear()
        self.heard.clear()

    def says_by_itself(self, conversation: str, content: Content) -> None:
        """The bot, or a person, writes."""
        self.portal.call(lambda: self.keep.accept(conversation, content, role="operator"))

    def conversation(self) -> str:
        """The only one there is."""

        async def find() -> list[str]:
            return [found.id async for found in self.keep.tenant("").conversations()]

        (found,) = self.portal.call(find)
        return found

    def desk(self, person: BrowserContext, conversation: str) -> Page:
        """The operators' page on a conversation."""
        page = person.new_page()
        page.goto(f"{self.address}operator")
        page.get_by_label("Service key").fill(self.portal.call(create_key, self.keep, "").token)
        page.get_by_role("button", name="Sign in", exact=True).click()
        page.locator("#list a").filter(has_text=conversation).click()
        return page


@contextmanager
def running_service(**options: Any) -> Iterator[Service]:
    """A running server; *options* are those of `create_app`."""
    keep: Chatkeep[Any] = Chatkeep("memory://", poll="50ms", message_limit=1 << 20)
    service: Service

    @keep.on_message
    async def bot(turn: Turn[Any]) -> None:
        service.heard += [message.content for message in turn.messages]
        turn.reply(service.says.pop(0) if service.says else f"heard: {turn.text}")

    options = {"title": "Chat", "anonymous": True} | options
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(served(keep, **options)) as client:
        service = Service(portal, keep, client.port)
        yield service
