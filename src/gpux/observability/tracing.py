"""Traces: a server span for each request, with a child span for each of its stages.

The only importer of opentelemetry, and only if OpenTelemetry's own variables enable traces. Spans
are created after the response, from the times in the request's record.

Source: OpenTelemetry's specification, "Environment Variable Specification"; its semantic
conventions, "HTTP spans"; W3C Trace Context.
"""

import logging
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gpux.errors import install_command
from gpux.observability.logs import LogRateLimiter
from gpux.observability.record import RequestRecord, to_text

logger = logging.getLogger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_EXPORTERS = "OTEL_TRACES_EXPORTER"
# The routes of app.py. Any path as `http.route` would have unbounded cardinality.
ROUTES = ("/predict", "/health", "/health/live", "/health/ready", "/info", "/metrics")
# Source: RFC 9110, 7.2 (Host).
_HOST = re.compile(r"\[?([^\[\]]+?)\]?(?::([0-9]{1,5}))?")
_METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}


def create_sink(environment: Mapping[str, str], model: str) -> "Traces | None":
    """Creates the sink of traces; None if they are not enabled, or cannot be exported.

    Args:
        environment: OpenTelemetry's variables. The SDK itself reads more of them, from the
            environment of the process.
        model: its name.
    """
    variable = next((name for name in (_EXPORTERS, *_ENDPOINTS) if environment.get(name)), None)
    is_disabled = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if variable is None or is_disabled:
        return None
    names = [name.strip() for name in (environment.get(_EXPORTERS) or "otlp").split(",")]
    if names == ["none"]:
        return None
    try:
        import opentelemetry.sdk.trace  # noqa: F401
    except ImportError:
        logger.warning("%s is set, but there are no traces: %s", variable, install_command("otel"))
        return None
    exporters = list(_load_exporters(names, environment))
    return Traces(exporters, model) if exporters else None


def _load_exporters(names: Sequence[str], environment: Mapping[str, str]) -> Iterator[Any]:
    """Yields the installed exporters of these names, which are found by their entry points."""
    protocol = (
        environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
        or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        or "http/protobuf"
    )
    otlp = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
    for name in names:
        full_name = otlp.get(protocol, f"otlp {protocol}") if name == "otlp" else name
        from importlib.metadata import entry_points  # slow to import

        found = list(entry_points(group="opentelemetry_traces_exporter", name=full_name))
        if not found:
            logger.warning("No traces by '%s': no such exporter is installed", full_name)
            continue
        try:
            yield found[0].load()()
        except Exception as error:
            logger.warning("No traces by '%s': %s", full_name, error)


class Traces:
    """A sink (see sinks.Sink) that creates spans.

    Args:
        exporters: OpenTelemetry's; each gets a thread and a bounded queue of its own.
        model: its name.
    """

    name = "traces"

    def __init__(self, exporters: Sequence[Any], model: str) -> None:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        _limit_sdk_log()
        resource = Resource.create({"gpux.model.name": model})
        if str(resource.attributes["service.name"]).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": "gpux"}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        for exporter in exporters:
            self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._trace = trace
        self._tracer = self._provider.get_tracer("gpux")
        self._propagator = TraceContextTextMapPropagator()

    def write(self, records: Sequence[RequestRecord]) -> int:
        """Creates the spans of the records."""
        for record in records:
            self._create_spans(record)
        return 0

    def _create_spans(self, record: RequestRecord) -> None:
        trace = self._trace
        ended_ns = round(record.ended_seconds * 1e9)
        arrival_ns = ended_ns - round(record.duration_seconds * 1e9)
        carrier = {"traceparent": record.traceparent, "tracestate": record.tracestate}
        attributes = describe(record)
        method = attributes["http.request.method"]
        route = attributes.get("http.route")
        name = "HTTP" if method == "_OTHER" else method
        span = self._tracer.start_span(
            f"{name} {route}" if route else name,
            self._propagator.extract({key: text for key, text in carrier.items() if text}),
            trace.SpanKind.SERVER,
            attributes,
            start_time=arrival_ns,
        )
        if record.status >= 500:
            span.set_status(trace.StatusCode.ERROR)
        if span.is_recording() and record.stages is not None:
            context = trace.set_span_in_context(span)
            stage_ns = arrival_ns
            for stage, seconds in record.stages.reached():
                rows = {"gpux.batch.rows": record.stages.rows} if stage == "run" else None
                child = self._tracer.start_span(
                    stage, context, attributes=rows, start_time=stage_ns
                )
                stage_ns += round(seconds * 1e9)
                child.end(stage_ns)
        span.end(ended_ns)

    def close(self, seconds: float) -> None:
        """Exports pending spans; gives up if the collector does not respond in time."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(seconds)


def describe(record: RequestRecord) -> dict[str, Any]:
    """Returns the attributes of a request's server span."""
    is_known = record.method in _METHODS
    attributes: dict[str, Any] = {
        "http.request.method": record.method if is_known else "_OTHER",
        "http.request.method_original": None if is_known else to_text(record.method),
        "url.path": to_text(record.path),
        "url.scheme": record.scheme,
        "http.route": record.path if record.path in ROUTES else None,
        "http.response.status_code": record.status,
        "http.request.body.size": record.received_bytes,
        "http.response.body.size": record.sent_bytes,
        "http.response.header.x-request-id": [record.request_id],
        "error.type": str(record.status) if record.status >= 500 else None,
        "network.protocol.version": record.protocol.removeprefix("HTTP/"),
        "client.address": record.client,
        "network.peer.address": record.client,
        "user_agent.original": record.user_agent and to_text(record.user_agent),
    }
    if record.host:
        match = _HOST.fullmatch(record.host)
        address, port = match.groups() if match else (record.host, None)
        attributes["server.address"] = to_text(address)
        attributes["server.port"] = port and int(port)
    return {name: value for name, value in attributes.items() if value is not None}


def _limit_sdk_log() -> None:
    """Limits OpenTelemetry's own log, one message per export attempt, to one a minute."""

    class RateLimitedHandler(logging.Handler):
        limiter = LogRateLimiter()

        def emit(self, record: logging.LogRecord) -> None:
            if self.limiter.allow():
                logger.log(record.levelno, "%s", record.getMessage())

    sdk_logger = logging.getLogger("opentelemetry")
    sdk_logger.propagate = False
    sdk_logger.addHandler(RateLimitedHandler())
