"""What cannot be asked what it is."""

from __future__ import annotations

from typing import Any


class Abort(BaseException):
    """As a library of the application's own may raise it."""


class Shy(Exception):
    """Raises where it is asked what it is."""

    @property
    def __class__(self) -> Any:
        raise Abort

    @__class__.setter
    def __class__(self, kind: Any) -> None:
        raise Abort
