"""`CookieChat`: chats that live in their visitors' cookies, for ASGI applications and for any other framework."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Generic, Unpack, cast

from ..app import Chatkeep, Reply
from ..conversation.state import StateCodec
from ..durations import Duration, seconds
from ..engine.turn import Turn
from ..errors import Misconfigured
from ..loop_thread import LoopThread, Words
from ..model import Content, State
from ..settings import Options
from .chat import Answer, Chat
from .keeping import Keeping
from .middleware import Application, CookieMiddleware
from .options import CookieOptions, SameSite, find_faults, settings_from
from .sealing import Sealer, Secret
from .site import Place, cookies_named

WORDS = Words(
    "This CookieChat",
    "a thread of a process",
    "Nothing was recorded; send it again.",
    "Await `receive` of `async with chats.chat(...) as chat:` instead.",
)


class CookieChat(Generic[State]):
    """
    Keeps each visitor's conversation in the visitor's own cookie, sealed: no store, no server-side session.

        chats = CookieChat(bot, keys=[os.environ["CHAT_KEY"]])
        app = chats(app)                                   # any ASGI application

        async def say(request):                            # one of its endpoints
            receipt = await request.state.chat.receive("hello")

    Promised: the visitor can neither read nor alter what is in the cookie, nor use it for another host; state, messages and replies
    are in it together. Not promised: that an old cookie is refused, for nobody keeps count; that of two requests at the same time both
    count; a long log: a cookie has 4,096 bytes, about ten messages beside 1.5 KB of state.

    Args:
        bot: The handler, as `Chatkeep.on_message` takes it: takes a `Turn`, returns the reply. One that streams is refused.

        keys: Secrets of at least 16 bytes. The first one seals, all of them open: to change the key put the new one in front, and
            take the old one away after *max_age*.

        then: A store's URL, or a Chatkeep of the application's own with the same bot, which the application opens. A chat whose
            cookie comes back moves there, with the same numbers and ids; so does one that the cookie has no room for.

        max_age: How long the chat is kept after the last message.

        name: The cookie's name. None: "chat", and where the cookie is Secure and its path is "/", "__Host-chat", which no other host
            of the domain can set.

        path: Where the browser sends the cookie.

        secure: Whether the cookie travels by https alone. None: yes, unless the request came over plain http to a name that is not public:
            localhost, a private address, a name without a dot.

        same_site: "lax", "strict" or "none"; none wants *secure*.

        host: What the cookie is bound to. None: the request's host.

        state, schema, upgrades, downgrades: As `Chatkeep` has them.

        clock: The time, in seconds since 1970.

        options: See `CookieOptions`. They are arguments alone: no variable and no file changes them.

    Raises:
        Misconfigured: With everything that is wrong, in one message.
    """

    def __init__(
        self,
        bot: Callable[[Turn[State]], Reply | Awaitable[Reply]],
        *,
        keys: Sequence[Secret],
        then: str | Chatkeep[State] | None = None,
        max_age: Duration = "7d",
        name: str | None = None,
        path: str = "/",
        secure: bool | None = None,
        same_site: SameSite = "lax",
        host: str | None = None,
        state: type[State] | None = None,
        schema: int = 1,
        upgrades: Mapping[int, Callable[[Any], Any]] | None = None,
        downgrades: Mapping[int, Callable[[Any], Any]] | None = None,
        clock: Callable[[], float] = time.time,
        **options: Unpack[CookieOptions],
    ) -> None:
        faults = find_faults(
            bot, dict(options), max_age=max_age, name=name, path=path, secure=secure, same_site=same_site
        )
        if faults := faults + _faults_in(keys, then):
            raise Misconfigured("; ".join(faults) + ". Nothing was opened.")
        settings = settings_from(options)
        kind = cast(type[State], dict) if state is None else state

        def make() -> Chatkeep[State]:
            keep = Chatkeep(
                cast(str, then),
                state=state,
                schema=schema,
                upgrades=upgrades,
                downgrades=downgrades,
                clock=clock,
                **cast(Options, options),
            )
            keep.on_message(bot)
            return keep

        if isinstance(then, str):
            make()  # what is wrong with it is told now
        self._keeping: Keeping[State] = Keeping(
            bot,
            sealer=Sealer(keys),
            place=Place(name, path, secure, same_site.capitalize(), host),
            max_age_s=int(seconds(max_age)),
            settings=settings,
            states=StateCodec(
                kind, schema=schema, upgrades=upgrades, downgrades=downgrades, limit=settings.state_limit
            ),
            clock=clock,
            then=then if isinstance(then, Chatkeep) else None,
            make=make if isinstance(then, str) else None,
        )
        self._threads: dict[int, LoopThread] = {}
        self._lock = threading.Lock()

    def __call__(self, app: Application) -> CookieMiddleware[State]:
        """Return the ASGI application *app* with `request.state.chat` in its requests."""
        return CookieMiddleware(self._keeping, app)

    @asynccontextmanager
    async def chat(self, cookie: str = "", *, host: str, https: bool = False) -> AsyncIterator[Chat[State]]:
        """
        Open the chat of one request, in a framework that is asynchronous and not ASGI's.

            async with chats.chat(request.headers.get("Cookie", ""), host=request.host, https=request.secure) as chat:
                receipt = await chat.receive("hello")
                headers = chat.headers()             # for the answer

        Args:
            cookie: The request's header Cookie.

            host: The request's header Host.

            https: Whether the request came over https.
        """
        site = self._keeping.place.site_of(host, https=https)
        chat = Chat(self._keeping, site, cookies_named(site.name, [cookie]))
        try:
            yield chat
        finally:
            await chat.close()

    def answer(
        self,
        content: Content,
        *,
        cookie: str = "",
        host: str,
        https: bool = False,
        id: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Answer:
        """
        Answer a message, in code without an event loop: Flask, Django, any WSGI application.

            answer = chats.answer(text, cookie=request.headers.get("Cookie", ""), host=request.host, https=request.is_secure)
            answer.receipt.replies
            answer.headers                             # to be added to those of the response

        The handler runs on an event loop in a thread that all calls of this process share. Arguments as those of `chat` and of
        `Chat.receive`, which has the errors too: where `TooLarge` is raised, the fitting status is 413, for `BadMessage` 422.
        """

        async def answered() -> Answer:
            async with self.chat(cookie, host=host, https=https) as chat:
                receipt = await chat.receive(content, id=id, metadata=metadata)
                return Answer(receipt, chat.headers())

        return self._thread().run(answered())

    async def close(self) -> None:
        """Close the store that `then` names, in this event loop. The end of an ASGI application's lifespan does it too."""
        await self._keeping.close()

    def stop(self) -> None:
        """End the thread that `answer` has started, and close the store there; the end of the process does it too."""
        with self._lock:
            threads, self._threads = self._threads, {}
        for thread in threads.values():
            thread.stop()

    def _thread(self) -> LoopThread:
        """Return the thread of this process for callers without an event loop; a forked child has one of its own."""
        with self._lock:
            thread = self._threads.get(os.getpid())
            if thread is None:
                thread = LoopThread("chatkeep-cookie", WORDS)
                thread.start(_nothing, self.close)
                self._threads = {os.getpid(): thread}
        return thread


async def _nothing() -> None:
    """Do nothing: each request opens what it needs."""


def _faults_in(keys: object, then: object) -> list[str]:
    """Return what is wrong with the kinds of two things that a `CookieChat` is given."""
    faults = []
    if not isinstance(keys, Sequence) or isinstance(keys, str | bytes):
        faults.append("keys is a list, such as keys=[key]")
    elif None in keys:
        faults.append("a key is None: is the variable set that it comes from?")
    if not isinstance(then, str | Chatkeep | None):
        faults.append(f"then is a store's URL, or a Chatkeep, not {then!r:.40}")
    return faults
