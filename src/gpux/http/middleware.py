"""Records requests for the access log and traces. Without either, the app is not wrapped."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from gpux.config.settings import Settings
from gpux.http.inference import STAGES
from gpux.observability.access_log import AccessLog
from gpux.observability.logs import current_request_id
from gpux.observability.metrics import Gauge, Metrics
from gpux.observability.record import RequestRecord, begin
from gpux.observability.sinks import Recorder, Sink
from gpux.observability.tracing import create_sink as create_trace_sink

REQUEST_ID_HEADER = "X-Request-Id"
# Timeout at shutdown, for records that are still to be written or sent.
_CLOSE_SECONDS = 3.0
_STDOUT = 1


class Recorders:
    """The recorders that get a record of each request. Thread-safe.

    Args:
        sinks: one recorder with a thread of its own for each.
    """

    def __init__(self, sinks: Iterable[Sink] = ()) -> None:
        self._recorders = [Recorder(sink) for sink in sinks]

    def __bool__(self) -> bool:
        return bool(self._recorders)

    def record(self, record: RequestRecord) -> None:
        """Passes the record of a finished request to all recorders."""
        for recorder in self._recorders:
            recorder.put(record)

    def wrap(self, app: Any) -> Any:
        """Wraps a WSGI app to record its requests; returns the app itself without recorders."""
        return ObservabilityMiddleware(app, self) if self else app

    def dropped(self) -> list[tuple[tuple[str], float]]:
        """The number of dropped records by sink, as samples of a metric."""
        return [((recorder.sink.name,), recorder.dropped) for recorder in self._recorders]

    def close(self) -> bool:
        """Writes out all records; returns whether that was done in time."""
        deadline = time.monotonic() + _CLOSE_SECONDS
        done = [
            recorder.close(max(0.0, deadline - time.monotonic())) for recorder in self._recorders
        ]
        return all(done)


def create_recorders(
    settings: Settings, environment: Mapping[str, str], metrics: Metrics
) -> Recorders:
    """Creates the recorders that the settings and OpenTelemetry's variables ask for.

    Args:
        settings: uses name and access_log.
        environment: OpenTelemetry's variables.
        metrics: gets a counter of dropped records.
    """
    sinks: list[Sink] = []
    if settings.access_log != "off":
        sinks.append(AccessLog(settings.access_log, _STDOUT))
    if traces := create_trace_sink(environment, settings.name):
        sinks.append(traces)
    recorders = Recorders(sinks)
    if recorders:
        metrics.add(
            "gpux_unrecorded_requests",
            Gauge(
                "Requests that are missing in the access log or the traces.",
                recorders.dropped,
                ("sink",),
                is_counter=True,
            ),
        )
    return recorders


class ObservabilityMiddleware:
    """WSGI middleware that records each request.

    Args:
        app: its response must be complete when it returns, as Falcon's is.
        recorders: get a record of each request then.
    """

    def __init__(self, app: Any, recorders: Recorders) -> None:
        self._app = app
        self._recorders = recorders

    def __call__(self, environment: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        record = begin(environment, time.monotonic())

        def start(status: str, headers: Sequence[tuple[str, str]], *information: Any) -> Any:
            record.status = int(status[:3])
            if record.method != "HEAD":
                record.sent_bytes = _content_length(headers)
            identified = [*headers, (REQUEST_ID_HEADER, record.request_id)]
            return start_response(status, identified, *information)

        token = current_request_id.set(record.request_id)
        try:
            return self._app(environment, start)
        finally:
            current_request_id.reset(token)
            record.end(environment.get(STAGES))
            self._recorders.record(record)


def _content_length(headers: Sequence[tuple[str, str]]) -> int:
    for name, value in headers:
        if name.lower() == "content-length":
            return int(value)
    return 0
