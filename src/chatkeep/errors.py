"""Every error chatkeep raises, sorted by what the caller should do next.

    ChatkeepError
      UsageError        yours to fix; nothing was touched
        BadKey  BadMessage (KeyReused)  TooLarge  OtherOwner  OnHold  NotWaiting  ChangedSince  Unsupported  NotOpen
        Misconfigured (MissingExtra)
      StoreError
        Conflict        someone else wrote first: reload and decide
        Duplicate       an entry with this id is in the log already
        Unavailable     certainly not written: safe to try again
          Overloaded    this process has too much to do
          Replaced      another store answers where this one was: somebody has to look
            Moved       what the store held is in another one now, which the message names
        Uncertain       perhaps written: run the same act again, or read
        Corrupt         there, and cannot be read; never treated as empty
      HandlerFailed     the bot's code raised; the message stays in the log
      InDoubt           a tool that must not run twice may have run: somebody has to find out
      NotDone           raised by such a tool, or its hook: it has certainly done nothing
      DeliveryFailed    the channel refused a reply; it stays undelivered

Programs act on the class; people read the message, which says what is now true, names the key and offers the next step.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from logging import Logger

    from .drivers.base import Entry, Row


REASON_LONGEST = 500

EXITS = (SystemExit, KeyboardInterrupt)
"""What ends the process. All else that code of the application raises, no Exceptions too, is a fault of what it was called for."""


def describe_fault(fault: BaseException) -> str:
    """Put an exception into words, as they may be stored; also of one that cannot put itself into words."""
    kind = cast("str", _NAME.__get__(type(fault)))  # (a metaclass may have a name of its own, which raises)
    try:
        said = str(fault)
        text = str(f"{kind}: {said}"[:REASON_LONGEST] if said else kind)
    except BaseException:  # its own __str__ may raise whatever it likes
        text = kind
    return text.encode("utf-8", "replace").decode().replace("\0", "�")


def presentable(fault: BaseException) -> BaseException:
    """Return *fault* as it may be judged and told; or, where looking at it raises, or it says that it is of another kind, a plain error
    in its place, with its words and its way through the code."""
    try:
        kind = type(fault)
        looked_at = (fault.__cause__, fault.__context__, fault.__suppress_context__, fault.__traceback__, bool(fault))
        if looked_at and fault.__class__ is kind and kind.__name__ == _NAME.__get__(kind):
            return fault
    except BaseException:  # what it has of its own may raise whatever it likes
        pass
    stands_for = RuntimeError(f"{describe_fault(fault)}, an exception that cannot be looked at")
    return stands_for.with_traceback(_TRACEBACK.__get__(fault))


def is_utf8(text: str) -> bool:
    """Tell whether *text* can be written in UTF-8: not what Python makes of bytes that are no text to the system."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


WRONG_FILE = frozenset(
    (
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EEXIST,  # a file where a folder is to be made
        errno.EISDIR,
        errno.ENAMETOOLONG,
        errno.ELOOP,
    )
)


def is_transient(fault: OSError) -> bool:
    """Tell whether *fault*, of a file that cannot be had, is the machine's and may pass (no room, too many open files), and not that of
    who named the file."""
    return fault.errno not in WRONG_FILE


def log_fault(log: Logger, level: int, fault: BaseException | None, text: str, *arguments: object) -> None:
    """Log *fault* with its way through the code. One that cannot be told, by itself or by what has caused it, stops nobody."""
    try:
        log.log(level, text, *arguments, exc_info=fault, stacklevel=2)
    except EXITS:
        raise
    except BaseException:
        log.log(level, f"{text} (its way through the code cannot be told)", *arguments, stacklevel=2)


_NAME, _TRACEBACK = type.__dict__["__name__"], BaseException.__dict__["__traceback__"]


class ChatkeepError(Exception):
    """Anything chatkeep raises on purpose."""


class UsageError(ChatkeepError):
    """Yours to fix; nothing was touched."""


class BadKey(UsageError):
    """The tenant or conversation id cannot name a conversation."""


class BadMessage(UsageError):
    """The message or state holds something that cannot be stored everywhere."""


class KeyReused(BadMessage):
    """This message id stands for other content; nothing was touched. New content wants a new id."""


class TooLarge(UsageError):
    """The message or state is over its limit."""


class OtherOwner(UsageError):
    """The conversation exists and is somebody else's: *owner* is whose, "" if it has no owner."""

    def __init__(self, message: str, *, owner: str = "") -> None:
        super().__init__(message)
        self.owner = owner


class OnHold(UsageError):
    """The conversation, or its owner, is on legal hold: until that is lifted, nothing of it is erased, redacted or withdrawn."""


class NotWaiting(UsageError):
    """The message does not wait any more: it is being answered, was answered, or was withdrawn."""


class ChangedSince(UsageError):
    """What was to be undone is not there any more as it was left: somebody has changed it since. Nothing was undone."""


class Unsupported(UsageError):
    """This store, version or option cannot do that."""


class NotOpen(UsageError):
    """The Chatkeep, or the client, is not open here: never opened, closed again, or opened in another event loop, thread or process."""


class Misconfigured(UsageError):
    """A setting is wrong; the message lists every one that is."""


class MissingExtra(Misconfigured, ImportError):
    """What an extra of chatkeep brings is not installed, or another version than chatkeep needs."""


class StoreError(ChatkeepError):
    """The store could not do what was asked."""


class Conflict(StoreError):
    """Someone else wrote first.

    *row* and *entries* show what is there now (None: nothing); *erased_at* is set when the act is older than an
    erasure.
    """

    def __init__(
        self, message: str, *, row: Row | None = None, entries: Sequence[Entry] = (), erased_at: float | None = None
    ) -> None:
        super().__init__(message)
        self.row = row
        self.entries = entries
        self.erased_at = erased_at


class Duplicate(StoreError):
    """An entry with one of these ids is in the log already; nothing was done. *numbers* says where."""

    def __init__(self, message: str, *, row: Row, numbers: Mapping[str, int], entries: Sequence[Entry] = ()) -> None:
        super().__init__(message)
        self.row = row
        self.numbers = numbers
        self.entries = entries


class Unavailable(StoreError):
    """The store cannot be reached or cannot write; certainly nothing was written. Try again later."""


class Overloaded(Unavailable):
    """This process has as many messages waiting as it may; nothing was written. Try again later."""


class Replaced(Unavailable):
    """The store was emptied, or another one has taken its place, while it was open; nothing was written.

    It stays refused until the right store answers again, or what is there is opened anew: conversations must not begin
    afresh behind anybody's back.
    """


class Moved(Replaced):
    """What the store held was moved to another one, which the message names; nothing was written. Start again with that address."""


class Uncertain(StoreError):
    """The store stopped answering in the middle: perhaps written. Send it again under the same id, or read."""


class Corrupt(StoreError):
    """The bytes are there and cannot be read. Nothing was changed; only this conversation is affected."""


class HandlerFailed(ChatkeepError):
    """The bot's code raised (the cause is attached); the message stays in the log."""


class InDoubt(ChatkeepError):
    """A call that must not be made twice began and did not end: nobody knows whether it was done, and it was not made again.

    *call* names it; *again*: the next attempt may know.
    """

    def __init__(self, message: str, *, call: str, again: bool = False) -> None:
        super().__init__(message)
        self.call = call
        self.again = again


class NotDone(ChatkeepError):
    """Raised by a tool, or by its hook `done`, to say that for certain nothing was done."""


class DeliveryFailed(ChatkeepError):
    """The channel refused a reply; it stays undelivered."""
