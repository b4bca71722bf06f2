"""`gpux serve` with another engine, for `bench/run.py engine`.

    engines.py ENGINE serve …

The app, the server and all else are as `gpux serve` has them. ENGINE is one of

- `direct`: decodes, runs the model in the request's own thread, encodes. Nothing is counted in,
  nothing waits, nothing has a deadline, nothing is measured: the least that an engine can be.
- `runs=N`: the server's own, with N runs at the same time.
"""

import functools
import sys
from typing import Any

from gpux import __main__ as command_line
from gpux import protocol, service
from gpux.engine import Engine
from gpux.metrics import Metrics
from gpux.model import Model
from gpux.scheduler import Scheduler
from gpux.service import Admission, Service


class Direct(Engine):
    """An engine that only calls the model."""

    def predict(self, body: bytes, **about: Any) -> bytes:
        """Decodes, runs, encodes."""
        del about
        request = protocol.decode(body, self.model.inputs)
        try:
            return protocol.encode(self.model.run(request))
        finally:
            request.release()


class Split(Engine):
    """The server's engine with so many runs at the same time."""

    def __init__(self, runs: int, model: Model, *more: Any) -> None:
        super().__init__(model, *more)
        self.runs = runs
        self.scheduler = Scheduler(model, runs, self.batching.limits)


class BareService(Service):
    """Counts nothing, and refuses nobody."""

    def __init__(self, *about: Any) -> None:
        super().__init__(*about)
        self.metrics = _NoMetrics({})

    def open(self, engine: Engine) -> None:
        """From now on requests are taken."""
        super().open(engine)
        self.admission = _NoAdmission()

    def refuse(self, *about: Any) -> None:
        """Refuses none."""
        del about


class _NoAdmission(Admission):
    """Counts nothing."""

    def __init__(self) -> None:
        super().__init__(0, 0)

    def enter(self, nbytes: int) -> bool:
        del nbytes
        return True

    def leave(self, nbytes: int) -> None:
        del nbytes


class _NoMetrics(Metrics):
    """Keeps no figures."""

    def request(self, *about: Any, **more: Any) -> None:
        del about, more


def main(arguments: list[str]) -> int:
    """Runs `gpux` with the engine that the first argument names."""
    name, *rest = arguments
    kind, _, number = name.partition("=")
    if kind == "direct":
        vars(command_line)["Service"] = BareService
    engine = Direct if kind == "direct" else functools.partial(Split, int(number))
    vars(service)["Engine"] = engine
    return command_line.main(rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
