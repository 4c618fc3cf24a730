"""How much of what can be repeated without an end is repeated: little beside everything else, much in `make soak`."""

from __future__ import annotations

import os

SOAK = int(os.environ.get("CHATKEEP_SOAK", "1"))
"""How many times as many random histories, kills, clients and requests there are as in `make test`."""
KILLS = int(os.environ.get("CHATKEEP_KILLS", "40"))
"""How often a test kills an instance on each engine."""
