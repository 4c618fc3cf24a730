"""Arguments and options that several commands have."""

from __future__ import annotations

import click

store_argument = click.argument("store", metavar="STORE")
conversation_argument = click.argument("conversation", metavar="CONVERSATION")
tenant_option = click.option(
    "--tenant", default="", metavar="NAME", help="Whose conversation; without it, the default one's."
)
json_option = click.option("--json", "as_json", is_flag=True, help="JSON, one object a line.")
limit_option = click.option("--limit", default=50, show_default=True, type=click.IntRange(1), help="At most so many.")
