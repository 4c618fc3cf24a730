"""Whose the messages of an outbox are: rules on credentials, subjects and numbers, without a file and without waiting."""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Iterable, Mapping
from hashlib import sha256


def credential_of(token: str) -> str:
    """Return the owner of what is posted with *token*, as long as its subject is not known. (A subject has no colon.)"""
    return f"credential:{sha256(token.encode()).hexdigest()}"


class Holder:
    """In whose name messages are posted and sent now: that of a token, or of this run of the program while there is none."""

    def __init__(self) -> None:
        self.token: str | None = None
        self._run = f"run:{secrets.token_hex(8)}"
        self._subjects: dict[str, str] = {}

    @property
    def owners(self) -> tuple[str, str]:
        """Whose messages go out now: those of the credential itself, and of the subject that it stands for."""
        return self.owners_of(self.token)

    def owners_of(self, token: str | None) -> tuple[str, str]:
        """Return the credential and the subject of what is posted with *token*, or without any in this run; while the subject is not
        known the credential stands for it."""
        credential = self._run if token is None else credential_of(token)
        return credential, self._subjects.get(credential, credential)

    @property
    def is_unnamed(self) -> bool:
        """Whether there is a token, and its subject is not known."""
        return self.token is not None and credential_of(self.token) not in self._subjects

    def remember(self, subjects: Mapping[str, str]) -> None:
        """Know the subjects of these credentials, and of no others."""
        self._subjects = dict(subjects)

    def name(self, token: str, subject: str) -> None:
        """Know from now on whose a token is."""
        self._subjects[credential_of(token)] = subject


class Totals:
    """How many messages wait and how many were refused, by owner."""

    def __init__(self) -> None:
        self._numbers: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])

    def add(self, owner: str, waiting: int, refused: int) -> None:
        """Count more of an owner's, or fewer where a number is negative."""
        numbers = self._numbers[owner]
        numbers[0] += waiting
        numbers[1] += refused

    def clear(self) -> None:
        """Count from nothing."""
        self._numbers.clear()

    def of(self, owners: Iterable[str]) -> tuple[int, int]:
        """Return how many messages of *owners* wait, and how many were refused; an owner that is named twice counts once."""
        mine = [self._numbers[owner] for owner in {*owners} & self._numbers.keys()]
        return sum(waiting for waiting, _ in mine), sum(refused for _, refused in mine)

    @property
    def all(self) -> int:
        """How many there are, whoever's and however they stand."""
        return sum(map(sum, self._numbers.values()))
