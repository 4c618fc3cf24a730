"""For whoever writes a driver: the contract as a test class, the random histories, and the drivers that break it.

`chatkeep.testing.machine` needs hypothesis and is imported by name.
"""

from __future__ import annotations

import sys

if "pytest" in sys.modules:  # so that a failed clause shows what was compared
    sys.modules["pytest"].register_assert_rewrite(
        f"{__name__}.contract", f"{__name__}.machine", f"{__name__}.http_contract"
    )

from .contract import BROKEN, DriverContract, Intact

__all__ = ["BROKEN", "DriverContract", "Intact"]
