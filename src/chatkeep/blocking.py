"""The verbs of a `Chatkeep` for code without an event loop: Django and Flask under WSGI, Celery, a script, any thread."""

from __future__ import annotations

from types import TracebackType
from typing import Generic, Self

from .app import Chatkeep
from .loop_thread import LoopThread, Words, blocking, iterating
from .model import State
from .people.user import User
from .tenant import Surface, Tenant

WORDS = Words(
    "This BlockingChatkeep",
    "`with BlockingChatkeep(keep) as chat:`, or call its open() once in each process",
    "Perhaps it was done; with an id, the same call again has no second effect.",
    "Make it in another thread (`await asyncio.to_thread(...)`); or, without a BlockingChatkeep, use `async with keep:` and await the "
    "verbs of the Chatkeep.",
)


class BlockingUser(Generic[State]):
    """`User`, for code without an event loop."""

    def __init__(self, loop: LoopThread, user: User[State]) -> None:
        self._loop, self._inner = loop, user
        self.id = user.id

    def __repr__(self) -> str:
        return f"<Blocking{repr(self._inner)[1:]}"

    conversations = iterating(User.conversations)
    changes = blocking(User.changes)
    page = blocking(User.page)
    conversation = blocking(User.conversation)
    owns = blocking(User.owns)
    create = blocking(User.create)
    rename = blocking(User.rename)
    archive = blocking(User.archive)
    pin = blocking(User.pin)
    seen = blocking(User.seen)
    delete = blocking(User.delete)
    save = blocking(User.save)
    claim = blocking(User.claim)
    undo_claim = blocking(User.undo_claim)
    erase = blocking(User.erase)
    claimed = blocking(User.claimed)


class _BlockingSurface(Generic[State]):
    """What `BlockingChatkeep` and `BlockingTenant` have in common: the verbs of `Surface`."""

    def __init__(self, loop: LoopThread, inner: Surface[State]) -> None:
        self._loop = loop
        self._surface = inner

    def __repr__(self) -> str:
        return f"<Blocking{repr(self._inner)[1:]}"

    @property
    def _inner(self) -> Surface[State]:
        return self._surface

    receive = blocking(Surface.receive)
    accept = blocking(Surface.accept)
    create = blocking(Surface.create)
    conversation = blocking(Surface.conversation)
    history = iterating(Surface.history)
    events = iterating(Surface.events, until_closed=True)
    conversations = iterating(Surface.conversations)
    change = blocking(Surface.change)
    undo = blocking(Surface.undo)
    as_of = blocking(Surface.as_of)
    clear = blocking(Surface.clear)
    erase = blocking(Surface.erase)
    redact = blocking(Surface.redact)
    dead_letters = blocking(Surface.dead_letters)
    replay = blocking(Surface.replay)
    dismiss = blocking(Surface.dismiss)
    doubts = blocking(Surface.doubts)
    settle = blocking(Surface.settle)
    deliveries = blocking(Surface.deliveries)
    resend = blocking(Surface.resend)
    withdraw = blocking(Surface.withdraw)
    amend = blocking(Surface.amend)
    stop = blocking(Surface.stop)
    answering = blocking(Surface.answering)
    pause = blocking(Surface.pause)
    resume = blocking(Surface.resume)
    save = blocking(Surface.save)
    merge = blocking(Surface.merge)
    losses = blocking(Surface.losses)
    restore = blocking(Surface.restore)

    def user(self, id: str) -> BlockingUser[State]:
        """Return a user of this tenant."""
        return BlockingUser(self._loop, self._inner.user(id))


class BlockingTenant(_BlockingSurface[State]):
    """`Tenant`, for code without an event loop."""

    def __init__(self, loop: LoopThread, tenant: Tenant[State]) -> None:
        super().__init__(loop, tenant)
        self.name = tenant.name


class BlockingChatkeep(_BlockingSurface[State]):
    """
    Opens *keep* on an event loop in a thread of its own; every thread of this process may call its verbs, which wait for the answer.

        with BlockingChatkeep(keep) as chat:
            receipt = chat.receive("ada", "hello", id="wamid.1")

    The verbs are those of `Chatkeep`, with the same arguments, results and errors; what is asynchronously iterated there is
    iterated. Handlers, settings and tenants stay those of *keep*, and handlers run on its loop, plain ones in threads, as ever.

    A verb raises `NotOpen` before `open`, after `close` and in a forked child (open it after the fork), and `UsageError` where an
    event loop runs. A call that still waits when it is closed raises `Uncertain`. It is closed at the latest when the
    process ends.
    """

    def __init__(self, keep: Chatkeep[State]) -> None:
        super().__init__(LoopThread("chatkeep-blocking", WORDS), keep)
        self._keep = keep

    @property
    def _inner(self) -> Chatkeep[State]:
        return self._keep

    all_conversations = iterating(Chatkeep.all_conversations)
    all_dead_letters = blocking(Chatkeep.all_dead_letters)
    pause_all = blocking(Chatkeep.pause_all)
    resume_all = blocking(Chatkeep.resume_all)
    backup = blocking(Chatkeep.backup)
    set_canary = blocking(Chatkeep.set_canary)
    versions = blocking(Chatkeep.versions)
    tend = blocking(Chatkeep.tend)
    query = blocking(Chatkeep.query)

    def tenant(self, name: str) -> BlockingTenant[State]:
        """Return the same verbs over another tenant's conversations."""
        return BlockingTenant(self._loop, self._keep.tenant(name))

    def open(self) -> None:
        """Open the Chatkeep and start its workers, in the loop's thread. Raises what `Chatkeep.open` raises."""
        self._loop.start(self._keep.open, self._keep.close)

    def close(self) -> None:
        """Let running turns finish, close the Chatkeep and end the thread; do nothing where it is not open."""
        self._loop.stop()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
