"""For whoever writes a driver or a channel: what it has to do as a test class, the random histories, and what breaks them.

`chatkeep.testing.machine`, which needs hypothesis, and `chatkeep.testing.servers`, which needs psutil and filelock, are imported by name.
"""

from __future__ import annotations

import sys

if "pytest" in sys.modules:  # so that a failed clause shows what was compared
    sys.modules["pytest"].register_assert_rewrite(
        f"{__name__}.contract",
        f"{__name__}.channel_contract",
        f"{__name__}.machine",
        f"{__name__}.http_contract",
    )

from .channel_contract import NOW, ChannelContract, Sample, shown
from .contract import BROKEN, DriverContract, Intact

__all__ = ["BROKEN", "NOW", "ChannelContract", "DriverContract", "Intact", "Sample", "shown"]
