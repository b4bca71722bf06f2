"""`gpux` with stricter timeouts for clients.

    python tests/support/strict_timeouts_server.py HEAD_START BYTES_PER_SECOND SILENCE serve …

HEAD_START and SILENCE are in seconds. A request or response may take HEAD_START and one second
more for each BYTES_PER_SECOND bytes; a connection may be idle for SILENCE.
"""

import sys
from functools import partial

from gpux.cli import main as command
from gpux.http.limits import Limits
from gpux.http.serve import serve

if __name__ == "__main__":
    head_start, slowest, silence = map(float, sys.argv[1:4])
    limits = Limits(
        request_head_start_seconds=head_start,
        request_bytes_per_second=slowest,
        response_head_start_seconds=head_start,
        response_bytes_per_second=slowest,
        idle_seconds=silence,
    )
    vars(command)["serve"] = partial(serve, limits=limits)
    sys.exit(command.main(sys.argv[4:]))
