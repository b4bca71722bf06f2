"""Who answers a request: a worker, or, so that probes are answered under load, a thread apart.

A request is counted in before it waits for a thread, and turned away at once if there are too many.
"""

from typing import Any

from gpux.errors import UnavailableError
from gpux.http.tasks import RefusalError
from gpux.http.workers import Source, Workers
from gpux.serving.service import Service


class Dispatcher:
    """Hands requests to threads: those to /predict to the workers, if there is room for them.

    What waits for a worker has been counted in. All else, refusals included, has a thread of its
    own, which no model keeps busy.

    Args:
        service: counts requests in.
        workers: threads for /predict.
        loop: where requests come from.

    Attributes:
        workers: the threads for /predict, and for the loop.
    """

    def __init__(self, service: Service, workers: int, loop: Source) -> None:
        self._service = service
        self.workers = Workers(workers, "worker", loop)
        self._others = Workers(1, "others")

    def start(self) -> None:
        """Starts the threads, one of which runs the loop from now on."""
        self._others.start()
        self.workers.start()

    def add_task(self, channel: Any) -> None:
        """Called when a channel's next request has been read, and all before it are answered."""
        request = channel.requests[0]
        if request.error or not request.is_prediction:
            self._others.submit(channel.service)
            return
        nbytes = len(request.body_rcv) if request.body_rcv is not None else 0
        try:
            request.permit = self._service.admit(nbytes, request.came_at_seconds)
        except UnavailableError as error:
            request.error = RefusalError(error)
            self._others.submit(channel.service)
        else:
            self.workers.submit(channel.service)

    def shutdown(self) -> None:
        """Ends the threads; what they have not begun is dropped."""
        self.workers.shutdown(timeout_seconds=1.0)
        self._others.shutdown(timeout_seconds=1.0)
