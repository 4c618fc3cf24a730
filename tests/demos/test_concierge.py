"""The bot with a model: what the model is shown comes from the state. The model is one of Pydantic AI's own for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chatkeep import HandlerFailed

from ..support.stores import FAST
from ..support.talking import as_json, told

pydantic_ai = pytest.importorskip("pydantic_ai", reason="NOT RUN: needs pydantic-ai-slim")

from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart  # noqa: E402
from pydantic_ai.models.function import AgentInfo, FunctionModel  # noqa: E402

from chatkeep.demos import concierge  # noqa: E402


class Script:
    """A model that notes the first wish, then answers with what it was shown; raises when *away*."""

    def __init__(self) -> None:
        self.away = False
        self.shown: list[int] = []

    def __call__(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        """One answer of the model."""
        if self.away:
            raise ConnectionError("the model is away")
        last = messages[-1].parts[-1]
        if isinstance(last, ToolReturnPart):
            return ModelResponse([TextPart(f"{last.tool_name}: {last.content}")])
        said = str(last.content)  # type: ignore[union-attr]
        self.shown.append(len(messages))
        tool = ToolCallPart("price", {"service": said}) if "?" not in said else ToolCallPart("note", {"wish": said})
        return ModelResponse([tool])


def concierge_on(url: str, script: Script, **options: Any) -> Any:
    """The concierge with a scripted model."""
    return concierge.build(url, model=FunctionModel(script), **(FAST | options))


async def test_the_model_remembers_over_restarts(tmp_path: Path) -> None:
    """Each message meets a new process: the model is shown all exchanges of before, and tools change the state."""
    script, url, answers = Script(), f"sqlite:///{tmp_path}/chat.db", []
    for line in ("facial", "something for dry hands?", "pedicure"):
        async with concierge_on(url, script) as keep:
            answers.append(told((await keep.receive("ada", line)).replies))
            state = as_json((await keep.conversation("ada")).state)

    assert ["price: €60", "note: Noted.", "price: €35"] == answers
    assert [1, 5, 9] == script.shown
    assert (3, ["something for dry hands?"]) == (len(state["exchanges"]), state["wishes"])


async def test_a_redelivered_message_asks_no_model(tmp_path: Path) -> None:
    """The recorded reply is given, and nothing is noted twice."""
    script = Script()
    async with concierge_on("memory://", script) as keep:
        first = await keep.receive("ada", "nails?", id="wamid.1")
        again = await keep.receive("ada", "nails?", id="wamid.1")
        state = as_json((await keep.conversation("ada")).state)

    assert (True, first.replies) == (again.duplicate, again.replies)
    assert ([1], ["nails?"]) == (script.shown, state["wishes"])


async def test_a_model_that_is_away_leaves_no_half_exchange(tmp_path: Path) -> None:
    """The message is set aside with its reason; replayed later, it is answered as if nothing had been."""
    script = Script()
    async with concierge_on("memory://", script, attempts=2) as keep:
        await keep.receive("ada", "facial")
        script.away = True
        with pytest.raises(HandlerFailed):
            await keep.receive("ada", "nails?", id="wamid.2")
        state = as_json((await keep.conversation("ada")).state)
        script.away = False
        after = await keep.receive("ada", "pedicure")

    assert (1, []) == (len(state["exchanges"]), state["wishes"])
    assert "price: €35" == told(after.replies)


async def test_only_the_last_exchanges_are_kept(tmp_path: Path) -> None:
    """The state does not grow for ever, and is cut between exchanges."""
    script = Script()
    async with concierge_on("memory://", script) as keep:
        for _ in range(concierge.REMEMBERED + 3):
            await keep.receive("ada", "facial")
        state = as_json((await keep.conversation("ada")).state)

    assert concierge.REMEMBERED == len(state["exchanges"])
    assert 4 * concierge.REMEMBERED + 1 == script.shown[-1]
