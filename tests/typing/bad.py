"""What a type checker has to refuse: each line says with which of mypy's errors."""

from dataclasses import dataclass
from typing import Any

from chatkeep import Chatkeep, Turn
from chatkeep.blocking import BlockingChatkeep


@dataclass
class Order:
    """A state."""

    count: int = 0


Chatkeep("memory://", sesion_ttl="30m")  # error: call-arg
Chatkeep("memory://", overlap="brust")  # error: arg-type
Chatkeep("memory://", on_outage="retry")  # error: arg-type
Chatkeep("memory://", history="20")  # error: arg-type
Chatkeep("memory://", session_ttl=b"30m")  # error: arg-type
Chatkeep("memory://", state=Order())  # error: arg-type

keep = Chatkeep("memory://", state=Order)
other = Chatkeep("memory://")


@keep.on_message  # error: arg-type
async def counted(turn: Turn[int]) -> str:
    """Another state than the Chatkeep's."""
    return str(turn.state)


@keep.on_message  # error: arg-type
async def untyped_state(turn: Turn) -> str:
    """The default state, where there is another."""
    return turn.text


@other.on_message  # error: arg-type
def ordered(turn: Turn[Order]) -> str:
    """A state of one's own, where there is the default."""
    return turn.text


@keep.on_message  # error: type-var
async def number(turn: Turn[Order]) -> int:
    """No reply."""
    return turn.state.count


@keep.on_missing  # error: arg-type
async def rebuilt(turn: Turn[Order]) -> dict[str, Any]:
    """Another state than the Chatkeep's."""
    return {}


@keep.once
async def charge(amount: int) -> str:
    """A tool that must not run twice."""
    return f"{amount}"


async def use() -> None:
    """Names and kinds of the words themselves."""
    charge(5)  # error: unused-coroutine
    await keep.receive("ada", 7)  # error: arg-type
    await keep.change("ada", lambda state: state.total)  # error: attr-defined
    await keep.recieve("ada", "hello")  # error: attr-defined


def from_a_thread() -> None:
    """The verbs of a `BlockingChatkeep` have the arguments of the Chatkeep's."""
    chat = BlockingChatkeep(keep)
    chat.receive("ada", "hello", idd="1")  # error: call-arg
    chat.receive(1, "hello")  # error: arg-type
    chat.change("ada", lambda state: state.cuont)  # error: attr-defined
    chat.tenant("salon").resume(unread="later")  # error: arg-type
