"""Writes docs/reference/cli.md: what each command says of itself. `python -m tools.cli_reference`"""

from __future__ import annotations

from pathlib import Path

import click

from chatkeep.cli import main

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "cli.md"

HEAD = """# The command line

What `chatkeep COMMAND --help` says. STORE is a URL or the path of an SQLite file; without it, CHATKEEP_STORE counts, or the file that
CHATKEEP_STORE_FILE names. Errors are one line, and become exit codes; see `chatkeep --help`.

Completion: `eval "$(_CHATKEEP_COMPLETE=bash_source chatkeep)"` in ~/.bashrc (zsh_source in ~/.zshrc; fish:
`_CHATKEEP_COMPLETE=fish_source chatkeep | source`).
"""


def commands(group: click.Group, path: str) -> dict[str, click.Command]:
    """Return every command by the words that call it."""
    found: dict[str, click.Command] = {}
    for name, command in sorted(group.commands.items()):
        words = f"{path} {name}"
        found |= commands(command, words) if isinstance(command, click.Group) else {words: command}
    return found


def help_of(words: str, command: click.Command) -> str:
    """Return what a command says of itself, as it is said in a terminal of 100 columns."""
    context = click.Context(command, info_name=words, max_content_width=100, terminal_width=100)
    context.help_option_names = ["-h", "--help"]
    return command.get_help(context).strip()


def section(words: str, command: click.Command) -> str:
    """Return the part of the page about one command."""
    return f"## {words}\n\n```text\n{help_of(words, command)}\n```\n"


def page() -> str:
    """Return the whole page."""
    return "\n".join([HEAD, *[section(words, command) for words, command in commands(main, "chatkeep").items()]])


if __name__ == "__main__":
    PAGE.write_text(page())
