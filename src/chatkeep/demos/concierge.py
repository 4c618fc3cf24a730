"""The salon's concierge: a bot with a model behind it, run by Pydantic AI. Needs `pip install 'chatkeep[agents]'
'pydantic-ai-slim[openai]'`, or the extra of another provider; nothing else in chatkeep imports it.

The library keeps no memory, so the state is the memory: what model and tools said, exchange by exchange, and what the
tools have noted. A turn that is tried again asks the model again; of what it says and notes only what is recorded counts.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

from ..app import Chatkeep
from ..engine.turn import Turn
from ..extras import from_extra
from .salon import SERVICES
from .words import heard, unreadable

with from_extra("agents", "The concierge"):
    from pydantic_ai import Agent, ModelMessagesTypeAdapter, RunContext
    from pydantic_ai.models import Model

REMEMBERED = 20
"""Exchanges that the model is shown."""

INSTRUCTIONS = (
    "You are the concierge of a beauty salon. Be brief and friendly. Look up prices, do not guess them. "
    "Note every wish of the guest. You cannot book; say that a colleague will call back."
)


class Visit(Struct):
    """All that the bot knows of one guest. An exchange is a list of Pydantic AI's messages, never half of one."""

    exchanges: list[list[dict[str, Any]]] = field(default_factory=list)
    wishes: list[str] = field(default_factory=list)


def build(url: str, *, model: Model | str, **options: Any) -> Chatkeep[Visit]:
    """Return the concierge on the store *url*. *model*: as Pydantic AI names it, such as "openai:gpt-4o-mini"."""
    keep = Chatkeep(url, state=Visit, **({"session_ttl": "24h"} | options))
    agent = Agent(model, deps_type=Visit, instructions=INSTRUCTIONS, defer_model_check=True)

    @agent.tool_plain
    def price(service: str) -> str:
        """Return what a service costs."""
        known = {name.lower(): found.price for name, found in SERVICES.items()}
        return f"€{known[service.lower()]}" if service.lower() in known else f"There is: {', '.join(known)}."

    @agent.tool
    def note(context: RunContext[Visit], wish: str) -> str:
        """Note a wish of the guest."""
        context.deps.wishes.append(wish)
        return "Noted."

    @keep.on_message
    async def bot(turn: Turn[Visit]) -> str:
        """Answer one message with the model."""
        visit, said = turn.state, heard(turn)
        if trouble := unreadable(said):
            return trouble
        before = [message for exchange in visit.exchanges for message in exchange]
        answer = await agent.run(said, message_history=ModelMessagesTypeAdapter.validate_python(before), deps=visit)
        new = ModelMessagesTypeAdapter.dump_python(answer.new_messages(), mode="json")
        visit.exchanges = [*visit.exchanges, new][-REMEMBERED:]
        return answer.output

    return keep
