"""`gpux` with stricter timeouts for clients.

    python tests/support/strict_timeouts_server.py HEAD_START BYTES_PER_SECOND SILENCE serve …

HEAD_START and SILENCE are in seconds. A request or response may take HEAD_START and one second
more for each BYTES_PER_SECOND bytes; a connection may be idle for SILENCE.
"""

import sys

from waitress.adjustments import Adjustments

from gpux.cli.main import main
from gpux.http import data_rate

if __name__ == "__main__":
    head_start, slowest, silence = map(float, sys.argv[1:4])
    vars(data_rate).update(
        _HEAD_START_SECONDS=head_start,
        _SLOWEST_REQUEST_BYTES_PER_SECOND=slowest,
        _SLOWEST_ANSWER_BYTES_PER_SECOND=slowest,
    )
    Adjustments.channel_timeout = int(silence)
    sys.exit(main(sys.argv[4:]))
