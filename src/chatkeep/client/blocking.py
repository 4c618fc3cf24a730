"""The same words for code without an event loop: each call is made on a loop in a thread of the client's own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Protocol, Self, TypeVar

from ..errors import Uncertain, UsageError
from ..settings import Duration
from .chat import Chat, Client, Slot
from .events import Event
from .link import HAPPENED
from .values import Pending

P = ParamSpec("P")
T = TypeVar("T")
Inner = TypeVar("Inner")
Inner_co = TypeVar("Inner_co", covariant=True)
END: Any = object()


class Loop:
    """An event loop in a thread, from `start` to `stop`."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._thread = threading.Thread()
        self._lock = threading.Lock()  # what is begun before the stop is seen by it

    def start(self, client: Client) -> None:
        """Opens *client* on the loop; raises what that raises."""
        opened: Future[asyncio.AbstractEventLoop] = Future()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._live(client, opened)), name="chatkeep-client", daemon=True
        )
        self._thread.start()
        self._loop = opened.result()

    def stop(self) -> None:
        """Closes the client and ends the thread; whoever still waits is told."""
        with self._lock:
            loop, self._loop = self._loop, None
            if loop is not None:
                loop.call_soon_threadsafe(self._stopping.set)
        if loop is not None:
            self._thread.join()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        """Runs *call* on the loop and waits for it."""
        with self._lock:
            if self._loop is None:
                call.close()
                raise UsageError("The client is not open; nothing was done. Use it in `with SyncClient(...)`.")
            answered = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return answered.result()
        except CancelledError as closed:
            raise Uncertain(f"The client was closed before an answer came. {HAPPENED}") from closed
        except BaseException:
            answered.cancel()  # Ctrl-C, for example
            raise

    def iterate(self, events: AsyncGenerator[Event, None]) -> Iterator[Event]:
        """What *events* yields, until the client is closed."""

        async def next_one() -> Event:
            try:
                return await anext(events, END)
            except asyncio.CancelledError:
                return END  # type: ignore[no-any-return]

        async def close() -> None:
            await events.aclose()

        try:
            while (event := self.run(next_one())) is not END:
                yield event
        finally:
            with suppress(UsageError):
                self.run(close())

    async def _live(self, client: Client, opened: Future[asyncio.AbstractEventLoop]) -> None:
        try:
            await client.open()
        except BaseException as fault:
            opened.set_exception(fault)
            return
        opened.set_result(asyncio.get_running_loop())
        await self._stopping.wait()
        await client.close()


class Blocking(Protocol[Inner_co]):
    """Stands for an *inner* one that lives on a loop."""

    @property
    def _inner(self) -> Inner_co: ...
    @property
    def _loop(self) -> Loop: ...


def blocking(
    method: Callable[Concatenate[Inner, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Blocking[Inner], P], T]:
    """*method*, called from a plain thread."""

    @wraps(method)
    def call(self: Blocking[Inner], /, *args: P.args, **options: P.kwargs) -> T:
        return self._loop.run(method(self._inner, *args, **options))

    return call


class SyncSlot:
    """`Slot`, for code without an event loop."""

    def __init__(self, loop: Loop, slot: Slot) -> None:
        self._loop, self._inner = loop, slot

    get = blocking(Slot.get)
    put = blocking(Slot.put)
    patch = blocking(Slot.patch)
    clear = blocking(Slot.clear)

    @property
    def etag(self) -> str:
        """The version that this handle has seen."""
        return self._inner.etag


class SyncChat:
    """`Chat`, for code without an event loop."""

    def __init__(self, loop: Loop, chat: Chat) -> None:
        self._loop, self._inner = loop, chat
        self.id = chat.id

    send = blocking(Chat.send)
    accept = blocking(Chat.accept)
    post = blocking(Chat.post)
    read = blocking(Chat.read)
    history = blocking(Chat.history)
    state = blocking(Chat.state)
    change = blocking(Chat.change)
    patch = blocking(Chat.patch)
    clear = blocking(Chat.clear)
    erase = blocking(Chat.erase)
    issue = blocking(Chat.issue)
    tokens = blocking(Chat.tokens)
    revoke = blocking(Chat.revoke)
    rotate = blocking(Chat.rotate)
    share = blocking(Chat.share)

    def events(self, *, after: int | None = None) -> Iterator[Event]:
        """What happens here, as it happens; see `Chat.events`."""
        return self._loop.iterate(self._inner.events(after=after))

    def slot(self, name: str) -> SyncSlot:
        """A handle on one member of the state."""
        return SyncSlot(self._loop, self._inner.slot(name))


class SyncClient:
    """
    `Client`, for code without an event loop; any thread may use it.

        with SyncClient("https://chat.example", token="ck_c_...") as client:
            receipt = client.conversation("ada").send("hello")
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        queue: str | None = None,
        timeout: Duration = "60s",
        attempt: Duration = "20s",
    ) -> None:
        self._inner = Client(url, token, queue=queue, timeout=timeout, attempt=attempt)
        self._loop = Loop()

    create = blocking(Client.create)
    conversations = blocking(Client.conversations)
    redeem = blocking(Client.redeem)
    me = blocking(Client.me)
    drained = blocking(Client.drained)
    refused = blocking(Client.refused)
    retry = blocking(Client.retry)
    drop = blocking(Client.drop)
    adopt = blocking(Client.adopt)

    @property
    def token(self) -> str | None:
        """What the client shows to the server."""
        return self._inner.token

    @token.setter
    def token(self, token: str | None) -> None:
        """From now on; of the queue, what the same subject has posted goes out."""
        self._inner.token = token

    @property
    def pending(self) -> Pending:
        """How many messages wait in the queue, how many were refused, and what is in the way."""
        return self._inner.pending

    def conversation(self, id: str) -> SyncChat:
        """A handle on one conversation; it need not be there yet."""
        return SyncChat(self._loop, self._inner.conversation(id))

    def open(self) -> None:
        """Makes ready, and starts to send what is in the queue. Asks the server nothing."""
        self._loop.start(self._inner)

    def close(self) -> None:
        """Ends every connection. What is in the queue stays there."""
        self._loop.stop()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
