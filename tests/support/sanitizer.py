"""The number of test values: all of them, or a tenth under sanitizers (`make sanitize`).

The tenth is drawn in the same way. Sanitizers check memory accesses, which more values of the same
kinds hardly change, and take several times as long.
"""

import os

SANITIZED = "libasan" in os.environ.get("LD_PRELOAD", "")


def fewer(number: int) -> int:
    """The number of values, or a tenth of it under sanitizers."""
    return -(-number // 10) if SANITIZED else number
