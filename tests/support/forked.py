"""Loads a model, runs it, and forks: prints what a request does in the child, then in the parent.

    python -m tests.support.forked MODEL

Each prints `answered` for the right answer, or `refused` for an error that says why.
"""

import json
import os
import signal
import sys
from pathlib import Path

import gpux
from gpux.errors import GpuxError

_TIMEOUT_SECONDS = 2.0
_PATIENCE_SECONDS = 8


def main(file: Path) -> None:
    """Forks; ends by SIGALRM if a process hangs."""
    model = gpux.load(file, "cpu")
    (accepted,) = model.describe()["inputs"]
    value = [["a"]] if accepted["type"] == "string" else [[1.5]]
    body = json.dumps({accepted["name"]: value}).encode()
    expected = model.respond(body, _TIMEOUT_SECONDS)

    def outcome() -> str:
        signal.alarm(_PATIENCE_SECONDS)
        try:
            answer = model.respond(body, _TIMEOUT_SECONDS)
        except (GpuxError, RuntimeError) as error:
            return "refused" if str(error) else "failed without a word"
        assert answer == expected, answer
        return "answered"

    child = os.fork()
    if child == 0:
        print(outcome(), flush=True)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the child ended with {status}"
    print(outcome(), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
