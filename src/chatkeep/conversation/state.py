"""The application's state, to plain JSON and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from inspect import iscoroutinefunction, isgeneratorfunction
from math import inf
from typing import Any, Generic, cast

import msgspec
from msgspec import Raw, Struct

from ..bounded import Newest
from ..drivers.base import Key
from ..errors import EXITS, BadMessage, Corrupt, Misconfigured, TooLarge, Unsupported, UsageError, describe_fault
from ..model import State
from .carried import Carried, find_unknown, put_back
from .keys import RESERVED, way_out
from .merge import Loss, Overlap, Version, merge, merge_apart, plain
from .record import NONE
from .shapes import UNREAD, Shape, Unfit, difference, encoded, is_frozen, long_numbers, shared, told

WRITTEN_MOST = 4096

READ_LONGEST = 4096
"""A state of more bytes is read when it is wanted, and not kept as what it will be read as."""

Upgrades = Mapping[int, Callable[[Any], Any]]

_encode = msgspec.json.Encoder().encode

_decode = msgspec.json.Decoder().decode


class Before(Struct, frozen=True):
    """What a state was read from, and what of that the state has no place for (nearly always nothing)."""

    raw: Raw
    carried: Carried | None = None


class StateCodec(Generic[State]):
    """Turns the application's state into plain JSON and back: a dict, a dataclass, a msgspec Struct or a pydantic
    model.

    *schema* is the number of its shape; `upgrades[n]` takes the plain JSON value of schema n to that of n + 1. Old
    states are upgraded when they are next loaded, and stored in the new shape with the next turn. `downgrades[n]` takes that of a
    newer schema n to that of n - 1: what newer code has written is read, and stored again in the shape of *schema*. With schema=0
    states of any schema are shown as plain JSON, and none can be written.

    Promised: what `encode` gives is read by `decode` as the same state (`Shape.encode` says what is the same), and `kind()`
    was seen to be. Not promised: that a state is read by code of another shape, which upgrades are for.

    *kept*: of so many conversations that were written last it is kept what their state was read as when it was checked, so that
    the next turn need not read it; for a codec that one thread uses.
    """

    def __init__(
        self,
        kind: type[State],
        *,
        schema: int = 1,
        upgrades: Upgrades | None = None,
        downgrades: Upgrades | None = None,
        limit: int,
        kept: int = 0,
    ) -> None:
        if not isinstance(schema, int) or schema < 0:
            raise Misconfigured(f"schema is a whole number from 1, or 0 to look only, not {schema!r}.")
        self.schema = schema
        self.kind = kind
        self._upgrades = dict(upgrades or {})
        self._downgrades = dict(downgrades or {})
        self.newest = max(self._downgrades, default=schema)
        """The newest schema that is read."""
        self._limit = limit
        self._written_here: set[int] = set()
        """Hashes of states that this codec has written lately: there is nothing in them that its type does not know."""
        self._keeps = kept > 0
        self._read: Newest[Key, tuple[Raw, State]] = Newest(kept)
        """What states were read as when they were checked: each is given out once, and nobody else holds it."""
        try:
            self.shape: Shape[State] = Shape(kind)
        except Exception as fault:
            raise Misconfigured(str(fault)) from fault
        _refuse_odd_steps("upgrades", self._upgrades)
        _refuse_odd_steps("downgrades", self._downgrades)
        if missing := [n for n in range(min(self._upgrades, default=schema), schema) if n not in self._upgrades]:
            raise Misconfigured(f"schema={schema}, but upgrades has no step from {', '.join(map(str, missing))}.")
        if schema and (unused := [n for n in self._upgrades if n >= schema]):
            raise Misconfigured(
                f"schema={schema}: upgrades end at {schema - 1}, and that from {max(unused)} leads to schema={max(unused) + 1}."
            )
        if missing := [n for n in range(schema + 1, self.newest) if n not in self._downgrades]:
            raise Misconfigured(f"schema={schema}, but downgrades has no step from {', '.join(map(str, missing))}.")
        if wrong := [n for n in self._downgrades if n <= schema]:
            raise Misconfigured(f"schema={schema}: downgrades begin at {schema + 1}, not {', '.join(map(str, wrong))}.")
        try:
            fresh, another = kind(), kind()
        except Exception as fault:
            raise Misconfigured(
                f"state={self.shape.name} cannot be made without arguments ({fault}); give every field a default."
            ) from fault
        try:
            self.shape.encode(fresh)
        except Unfit as unfit:
            raise Misconfigured(
                f"state={self.shape.name}: a fresh one would not come back from the store as it is: {unfit}. Give that "
                "member another type, default or serializer, or keep it elsewhere."
            ) from unfit
        if member := shared(fresh, another, "state"):
            raise Misconfigured(
                f"state={self.shape.name}: {member} is shared by all fresh states; give it a default_factory."
            )

    def fresh(self) -> Raw:
        """Return the state that a session starts with: `kind()`. Raises `Misconfigured` where that raises anything."""
        try:
            return Raw(self.shape.encode(self.kind())[0])
        except EXITS:
            raise
        except BaseException as fault:  # it could be made at the start, but a default may ask what is away now
            raise Misconfigured(
                f"state={self.shape.name}: a fresh one cannot be made now ({describe_fault(fault)}), so none is begun or shown. "
                "Mend the default that raises."
            ) from fault

    def encode(self, key: Key, state: State, before: Before | None = None) -> Raw:
        """Return *state* as JSON that will be read as the same state. Raises `BadMessage`, naming the key and the member, or `TooLarge`.

        *before*: what `take_apart` has given with the state that this one was made of.
        """
        if self.schema == 0:
            raise Unsupported(f"{key}: opened with schema=0, to look only; nothing was stored.")
        if not isinstance(state, self.shape.type):
            raise BadMessage(f"{key}: the state is {type(state).__name__}, not {self.shape.name}; nothing was stored.")
        try:
            try:
                written, back = self.shape.encode(state)
            except Unfit:
                written, back = self._write_long_numbers(state, before)
        except Unfit as unfit:
            raise BadMessage(f"{key}: {unfit}. Nothing was stored. {self.shape.advice}") from unfit
        if before is not None and before.carried is not None:
            written, back = self._put_back(before.carried, state, written), UNREAD
        elif not self.shape.plain:
            if len(self._written_here) >= WRITTEN_MOST:
                self._written_here.clear()
            self._written_here.add(hash(written))
        if len(written) > self._limit:
            raise TooLarge(
                f"{key}: the state takes {len(written):,} bytes, {self._limit:,} are allowed; nothing was stored. Keep less, or elsewhere."
            )
        raw = Raw(written)
        if self._keeps and back is not UNREAD and len(written) <= READ_LONGEST:
            self._read[key] = raw, back
        return raw

    def forget(self, key: Key) -> None:
        """Keep nothing of the state of *key*."""
        self._read.pop(key, None)

    def decode(self, key: Key, raw: Raw, schema: int) -> State:
        """Return the state in *raw*, upgraded or downgraded. Raises `Unsupported` if code wrote it that is newer than *newest*, `Corrupt`
        if it does not fit."""
        if self.schema == 0:
            return cast(State, _decode(raw))
        try:
            if schema != self.schema:
                raw = self._converted(key, raw, schema)
            return self.shape.decode(raw)
        except Unsupported:
            raise
        except Exception as fault:  # the application's own types may raise anything
            then = ". Read it as plain JSON (chatkeep show), mend the code, or clear the state or the member."
            if key.tenant.startswith(RESERVED):
                then = f"; {way_out(key)}."
            raise Corrupt(
                f"{key}: the state of schema {schema} is not a {self.shape.name}: {told(fault)}. Nothing was changed{then}"
            ) from fault

    def take_apart(self, key: Key, raw: Raw, schema: int) -> tuple[State, Before]:
        """Return what `decode` does, and what of *raw* has to stay when the state is written again: also what the state has no place for.

        Not that of a state that was upgraded: what an upgrade leaves out, or the new type, is meant to go. Of one that was
        downgraded it stays: it is what the newer code needs.
        """
        if (read := self._read.pop(key, None)) is not None and read[0] is raw and schema == self.schema:
            return read[1], Before(raw)
        if schema > self.schema > 0:
            raw = self._converted(key, raw, schema)
            schema = self.schema
        state = self.decode(key, raw, schema)
        if self.shape.plain or schema != self.schema or hash(bytes(raw)) in self._written_here:
            return state, Before(raw)
        try:
            known = self.shape.write(state)
        except Unfit:  # so it can be written only when somebody has replaced it
            return state, Before(raw)
        # (What this code has written comes out the same.)
        return state, Before(raw, None if known == bytes(raw) else find_unknown(_decode(raw), state, _decode(known)))

    def is_another(self, state: State, before: Before) -> bool:
        """Tell whether *state* is a fresh one in the place of that which something is carried along for: the handler has begun anew."""
        # (A frozen one is replaced with every change.)
        if before.carried is None or state is before.carried.of or is_frozen(self.shape.type):
            return False
        return self.shape.write(state) == bytes(self.fresh())

    def translate(self, key: Key, fault: ValueError) -> BadMessage | None:
        """Return the error for what pydantic says when a state of its type cannot be made or changed; None for any other *fault*."""
        if hasattr(fault, "error_count") and getattr(fault, "title", "") == self.shape.name:
            return BadMessage(f"{key}: {told(fault)}. Nothing was stored. {self.shape.advice}")
        return None

    def _write_long_numbers(self, state: State, before: Before | None) -> tuple[bytes, State]:
        """Write a *state* that was refused: numbers that an older version has stored are no reason to refuse all that comes after."""
        return self.shape.encode(state, () if before is None else long_numbers(_decode(before.raw)))

    def _put_back(self, carried: Carried, state: State, raw: bytes) -> bytes:
        plain = _decode(raw)
        put_back(carried, state, plain)
        whole = _encode(plain)
        # A type may take an older name for a member, or in some other way make another state of what it does not declare.
        with suppress(Exception):
            if not difference(state, self.shape.decode(whole)):
                return whole
        return raw

    def merge(self, key: Key, base: tuple[Raw, int], mine: Raw, theirs: tuple[Raw, int]) -> Raw | None:
        """
        Return what a turn has made of *base*, put together with what others have made of it meanwhile; each with its schema.

        None where both have changed the same member, where all of the state was cleared, or where nothing readable comes of
        it: then the turn has to run again.
        """
        return self._put_together(key, base, mine, theirs, merge_apart)

    def settle(
        self, key: Key, base: tuple[Raw, int], mine: Raw, theirs: tuple[Raw, int], *, at: float
    ) -> tuple[Raw, tuple[Loss, ...]] | None:
        """Return the same for a turn that must not run again, and what gave way: where both have changed a place, the turn's value
        stands, and that of *at* is lost. None where all was cleared, or nothing readable comes of it."""
        losses: tuple[Loss, ...] = ()

        def with_mine(was: Any, made: Any, has: Any) -> Any:
            nonlocal losses
            merged = merge(was, Version(has, at), Version(made, inf))
            losses = merged.losses
            return merged.value

        raw = self._put_together(key, base, mine, theirs, with_mine)
        return None if raw is None else (raw, losses)

    def _put_together(
        self,
        key: Key,
        base: tuple[Raw, int],
        mine: Raw,
        theirs: tuple[Raw, int],
        put: Callable[[Any, Any, Any], Any],
    ) -> Raw | None:
        try:
            was, has = (_decode(self._in_shape(key, *side)) for side in (base, theirs))
            if was != has and plain(has) == plain(_decode(self.fresh())):
                return None
            merged = Raw(_encode(put(was, _decode(mine), has)))
            self.decode(key, merged, self.schema)
        except (Overlap, Corrupt, Unsupported, BadMessage, TooLarge):
            return None
        return merged if len(merged) <= self._limit else None

    def _in_shape(self, key: Key, raw: Raw, schema: int) -> Raw:
        """Return the state in *raw* as today's code writes it."""
        return raw if schema == self.schema else self.encode(key, *self.take_apart(key, raw, schema))

    def cleared(self, key: Key, raw: Raw, schema: int, slot: str | None) -> tuple[Raw, int]:
        """
        Return what is left of *raw* when *slot* is cleared, or all of it, and its schema. What is cleared need not be readable.

        A slot is taken out of the stored JSON, so that it is read as in a fresh state; other members stay as they are, also
        those that cannot be read. Raises `UsageError` where there can be no such slot, and `BadMessage` when a state that
        was readable would not be any more.
        """
        if slot is None:  # (Who only looks does not know what a fresh state is: without one, the session is over.)
            return (self.fresh(), self.schema) if self.schema else (NONE, schema)
        before = raw, schema
        if 0 < schema < self.schema:
            with suppress(Unsupported):
                raw, schema = self._converted(key, raw, schema), self.schema
        plain = _decode(raw)
        if not isinstance(plain, dict):
            raise UsageError(
                f"{key}: the state is stored as no object, so it has no slots; nothing was changed. Clear all of it."
            )
        names = self.shape.stored_names
        stored = {slot} if names.get(slot) else {name for name, own in names.items() if own == slot}
        if not stored and not self.shape.plain and slot not in plain:
            raise UsageError(f"{key}: {self.shape.name} has no slot {slot!r:.60}; nothing was changed.")
        left = Raw(_encode({name: value for name, value in plain.items() if name not in (stored or {slot})}))
        try:
            self.decode(key, left, schema)
        except (Corrupt, Unsupported) as fault:
            with suppress(Corrupt, Unsupported):
                self.decode(key, *before)
                raise BadMessage(
                    f"{key}: without {slot!r:.60} the state cannot be read; nothing was changed. Clear all of it, or change it."
                ) from fault
        return left, schema

    def _converted(self, key: Key, raw: Raw, schema: int) -> Raw:
        """Return the state in *raw* in the shape of this code's schema."""
        if schema > self.newest:
            raise Unsupported(
                f"{key}: the state has schema {schema}, this code knows up to {self.newest}. Nothing was changed and its messages stay "
                "unread; deploy the newer code."
            )
        newer = schema > self.schema
        name, steps = ("downgrades", self._downgrades) if newer else ("upgrades", self._upgrades)
        plain = _decode(raw)
        for step in range(schema, self.schema, -1 if newer else 1):
            if step not in steps:
                raise Unsupported(
                    f"{key}: the state has schema {step} and no {name[:-1]} leads on to {self.schema}. Add {name}[{step}]."
                )
            try:
                plain = steps[step](plain)
            except EXITS:
                raise
            except BaseException as fault:
                raise Unsupported(
                    f"{key}: {name}[{step}] raised {describe_fault(fault)}. Nothing was changed and its messages stay "
                    f"unread; mend the {name[:-1]}."
                ) from fault
        try:
            return Raw(encoded(plain, "the state", long_numbers(_decode(raw))))
        except Unfit as unfit:
            raise Unsupported(
                f"{key}: the {name} to schema {self.schema} gave what is not plain JSON: {unfit}. Nothing was changed and its messages "
                f"stay unread; mend the {name[:-1]}."
            ) from unfit


def _refuse_odd_steps(name: str, steps: Upgrades) -> None:
    """Raise `Misconfigured` for what is no step from one schema to another: else the first state of that schema would find out."""
    for number, step in steps.items():
        if not isinstance(number, int):
            raise Misconfigured(f"{name} has the numbers of schemas as its keys, not {number!r:.80}.")
        if not callable(step) or iscoroutinefunction(step) or isgeneratorfunction(step):
            raise Misconfigured(f"{name}[{number}] is a function that returns the new value, and not {step!r:.80}.")
