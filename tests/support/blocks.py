"""Python that stands in texts for people, on a page of the documentation or in a docstring, and how it is run."""

from __future__ import annotations

import ast
import inspect
from typing import Any, NamedTuple


class Block(NamedTuple):
    """Python of a file, with what the comment before it says: "" (it runs), "fragment", or which test runs it."""

    page: str
    line: int
    code: str
    mark: str = ""


def compiled(block: Block, tree: ast.Module | None = None) -> Any:
    """The code of a block, whose lines are those of its file."""
    tree = tree or ast.parse(block.code)
    ast.increment_lineno(tree, block.line - 1)
    return compile(tree, block.page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)


def awaits(code: Any) -> bool:
    """Whether running it gives something to await."""
    return bool(code.co_flags & inspect.CO_COROUTINE)


async def run_open(code: Any, names: dict[str, Any]) -> None:
    """Runs code that awaits while the Chatkeep among its *names* is open, with a conversation "ada" in it."""
    keep = names["keep"]
    keep.on_message(lambda turn: turn.state.update(seats=2))
    async with keep:
        await keep.receive("ada", "hello")
        await eval(code, names)
