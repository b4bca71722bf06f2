"""`gpux serve` with another engine, for `bench/run.py engine`.

    engines.py ENGINE serve …

All but the engine is that of `gpux serve`. ENGINE is one of

- `direct`: decodes, runs the model in the request's own thread, encodes. No admission, no queue,
  no deadline, no metrics: the minimal engine.
- `runs=N`: the server's own engine, with N concurrent runs.
"""

import functools
import sys
from typing import Any

from gpux.cli.main import main as run_command_line
from gpux.http import application
from gpux.model import Model
from gpux.observability.metrics import Metrics
from gpux.serving import service
from gpux.serving.admission import Admission, Permit
from gpux.serving.engine import Engine
from gpux.serving.scheduler import Scheduler
from gpux.serving.service import Service


class Direct(Engine):
    """A minimal engine: decode, run, encode."""

    def predict(self, body: bytes, **about: Any) -> bytes:
        """Decodes the body, runs the model and encodes the response."""
        del about
        request = self.model.inputs.decode(body)
        return self.model.execution.run(request).encode(request.unbatched)


class Split(Engine):
    """The server's engine with a given number of concurrent runs."""

    def __init__(self, runs: int, model: Model, *more: Any) -> None:
        super().__init__(model, *more)
        self.runs = runs
        self.scheduler = Scheduler(model, runs, self.batching.limits)


class BareService(Service):
    """A service without metrics that admits every request."""

    def __init__(self, *about: Any) -> None:
        super().__init__(*about)
        self.metrics = _NoMetrics({})

    def open(self, engine: Engine) -> None:
        """Opens the service, then removes admission control."""
        super().open(engine)
        self.admission = _NoAdmission()


class _NoAdmission(Admission):
    """Admits every request, without counting."""

    def __init__(self) -> None:
        super().__init__(0, 0)

    def admit(self, nbytes: int) -> Permit:
        return Permit(self, nbytes)

    def release(self, nbytes: int) -> None:
        del nbytes


class _NoMetrics(Metrics):
    """Records nothing."""

    def request(self, *about: Any, **more: Any) -> None:
        del about, more


def main(arguments: list[str]) -> int:
    """Runs `gpux` with the engine named by the first argument."""
    name, *rest = arguments
    kind, _, number = name.partition("=")
    if kind == "direct":
        vars(application)["Service"] = BareService
    engine = Direct if kind == "direct" else functools.partial(Split, int(number))
    vars(service)["Engine"] = engine
    return run_command_line(rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
