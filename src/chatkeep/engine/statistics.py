"""What one engine has counted since the start."""

from __future__ import annotations

from msgspec import Struct


class Tended(Struct, frozen=True, kw_only=True):
    """What `Chatkeep.tend` has done: in how many *conversations* something was due, how many *turns* were run there, how many of these
    failed (*failures*), and how many messages were set aside (*dead*).

    done: nothing is due any more; False when the time was over before.
    """

    conversations: int = 0
    turns: int = 0
    failures: int = 0
    dead: int = 0
    done: bool = True


class EngineStatistics(Struct, kw_only=True):
    """Counts since the start; waiting, workers, journaled (conversations with messages in the journal) and abandoned (runs of
    handlers that were given up, because their time was over or their caller went away, and still run) are now, and so is unreadable
    (conversations that wait and that this version cannot read).

    reruns: turns thrown away because their input had changed. rolled_back: how often the store was found to hold less
    than it had answered.
    """

    turns: int = 0
    one_trip: int = 0
    reruns: int = 0
    duplicates: int = 0
    failures: int = 0
    dead: int = 0
    taken_over: int = 0
    rolled_back: int = 0
    journaled: int = 0
    waiting: int = 0
    workers: int = 0
    abandoned: int = 0
    unreadable: int = 0
