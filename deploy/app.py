"""The bot that compose.yaml serves until you put yours here. Store and settings come from the environment."""

from chatkeep import Chatkeep, Turn

keep = Chatkeep()


@keep.on_message
async def bot(turn: Turn) -> str:
    """Count what it is told."""
    turn.state["count"] = turn.state.get("count", 0) + 1
    return f"That was message {turn.state['count']}: {turn.text}"
