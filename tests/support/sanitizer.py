"""How many values are tested.

All of them without sanitizers; with them (`make sanitize`) a tenth, drawn in the same way. They
judge what the code does with memory, which new values of the same kinds hardly change, and they
take several times as long.
"""

import os

SANITIZED = "libasan" in os.environ.get("LD_PRELOAD", "")


def fewer(number: int) -> int:
    """So many values, or a tenth of them under sanitizers."""
    return -(-number // 10) if SANITIZED else number
