"""Whether an object that somebody hands over is of the kind that is asked for: told at once, and not by the first call that fails."""

from __future__ import annotations

from .errors import Misconfigured


def refuse_other(found: object, kind: type, name: str, advice: str) -> None:
    """Raise `Misconfigured`, with all that it lacks and *advice*, where *found* is no *kind*, which people call *name*."""
    if isinstance(found, type):
        one = f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
        raise Misconfigured(
            f"{found.__name__} is a class; {one} is an object of it, {found.__name__}(...). Nothing was opened."
        )
    members = {*getattr(kind, "__annotations__", ()), *(member for member in vars(kind) if not member.startswith("_"))}
    if lacking := sorted(member for member in members if not hasattr(found, member)):
        raise Misconfigured(
            f"{type(found).__name__} is no {name}: it lacks {', '.join(lacking)}. {advice} Nothing was opened."
        )
