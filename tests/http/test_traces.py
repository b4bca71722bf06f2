"""Traces of real requests, as a collector receives them: OTLP over HTTP."""

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from gpux.config.settings import cores
from tests.support.servers import (
    ENDLESS,
    PATIENCE_SECONDS,
    QUICK,
    Client,
    Find,
    connect,
    in_flight,
    post,
    serve,
    wait_until,
)

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector(ThreadingHTTPServer):
    """An OTLP collector that keeps the spans and resource attributes it receives."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Receiver)
        self.spans: list[Span] = []
        self.resource: dict[str, Any] = {}
        self.may_respond = threading.Event()
        self.may_respond.set()
        self.endpoint = f"http://127.0.0.1:{self.server_port}"

    def of_status(self, status: int) -> tuple[Span, dict[str, Any], list[Span]]:
        """The only span with this status, /metrics aside, its attributes, its sorted children."""
        (found,) = (
            (span, attributes)
            for span in self.spans
            if (attributes := values(span.attributes)).get("http.response.status_code") == status
            and attributes["url.path"] != "/metrics"
        )
        children = [span for span in self.spans if span.parent_span_id == found[0].span_id]
        return *found, sorted(children, key=lambda span: span.start_time_unix_nano)


class _Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.may_respond.wait(PATIENCE_SECONDS)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.server.resource |= values(resource.resource.attributes)
            for scope in resource.scope_spans:
                self.server.spans += scope.spans
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def values(attributes: Any) -> dict[str, Any]:
    return {each.key: value_of(each.value) for each in attributes}


def value_of(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [value_of(each) for each in value.array_value.values]
    return getattr(value, kind)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        running.daemon_threads = True
        running.block_on_close = False
        thread.start()
        yield running
        running.may_respond.set()
        running.shutdown()
        thread.join()


def test_the_spans_of_requests(model_file: Find, collector: Collector) -> None:
    """Requests that succeed, are rejected, or fail."""
    began_ns = time.time_ns()
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
        "OTEL_SERVICE_NAME": "slow things",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
    }
    options = ("--max-body", "100", "--max-queue", "0", "--timeout", "2")
    with serve(model_file("slow"), *options, **variables) as server:
        with connect(server, cores()) as busy:
            for client in busy:
                client.send(post(ENDLESS))
            wait_until(lambda: in_flight(server) == len(busy), "all are busy")
            assert server.post(QUICK).status == 503
            assert [client.read().status for client in busy] == [504] * len(busy)
        headers = {
            "traceparent": f"00-{TRACE}-{PARENT}-01",
            "tracestate": "vendor=1",
            "User-Agent": "caller/1.0",
        }
        response = server.post(b'{"steps": 100}', headers)
        assert response.status == 200
        assert response.headers["X-Request-Id"] == TRACE
        assert server.post(b" " * 101).status == 413
        assert server.request("GET", "/%C3%A9/nowhere").status == 404
        assert server.request("PROPFIND", "/predict").status in (400, 405)
        port = server.port
    assert "gpux" not in server.stderr.text
    assert collector.resource["service.name"] == "slow things"
    assert collector.resource["deployment.environment.name"] == "test"
    assert collector.resource["gpux.model.name"] == "slow"

    span, attributes, stages = collector.of_status(200)
    assert (span.name, span.kind) == ("POST /predict", Span.SPAN_KIND_SERVER)
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert span.trace_state == "vendor=1"
    assert span.status.code == Status.STATUS_CODE_UNSET
    assert attributes == {
        "http.request.method": "POST",
        "http.route": "/predict",
        "http.response.status_code": 200,
        "http.request.body.size": 14,
        "http.response.body.size": len(response.body),
        "http.response.header.x-request-id": [TRACE],
        "url.path": "/predict",
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "network.peer.address": "127.0.0.1",
        "client.address": "127.0.0.1",
        "server.address": "127.0.0.1",
        "server.port": port,
        "user_agent.original": "caller/1.0",
    }
    names = [stage.name for stage in stages]
    assert names == ["read", "decode", "queue", "run", "encode"]
    assert {stage.trace_id for stage in stages} == {span.trace_id}
    # Consecutive, from the first byte on, without gaps.
    assert began_ns < span.start_time_unix_nano == stages[0].start_time_unix_nano
    for stage, following in itertools.pairwise(stages):
        assert stage.end_time_unix_nano == following.start_time_unix_nano
    assert stages[-1].end_time_unix_nano <= span.end_time_unix_nano
    timing = dict(part.split(";dur=") for part in response.headers["Server-Timing"].split(", "))
    run = stages[3]
    assert values(run.attributes) == {"gpux.batch.rows": 1}
    took_ms = (run.end_time_unix_nano - run.start_time_unix_nano) / 1e6
    assert took_ms == pytest.approx(float(timing["run"]), abs=0.001)

    span, attributes, stages = collector.of_status(503)
    assert span.status.code == Status.STATUS_CODE_ERROR
    assert (attributes["error.type"], attributes["http.route"]) == ("503", "/predict")
    assert (span.parent_span_id, stages) == (b"", [])

    failed = [
        span.status.code
        for span in collector.spans
        if values(span.attributes).get("error.type") == "504"
    ]
    assert failed == [Status.STATUS_CODE_ERROR] * cores()

    span, attributes, _ = collector.of_status(413)
    assert span.status.code == Status.STATUS_CODE_UNSET, "the client's fault is none of a server's"
    assert "error.type" not in attributes

    span, attributes, _ = collector.of_status(404)
    assert (span.name, attributes["url.path"]) == ("GET", "/é/nowhere")
    assert "http.route" not in attributes

    (span,) = (span for span in collector.spans if span.name == "HTTP /predict")
    attributes = values(span.attributes)
    assert attributes["http.request.method"] == "_OTHER"
    assert attributes["http.request.method_original"] == "PROPFIND"


def test_what_a_caller_does_not_sample_is_not_sent(model_file: Find, collector: Collector) -> None:
    variables = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector.endpoint}/v1/traces"}
    with serve(model_file("matrix"), **variables) as server:
        for flags in ("00", "01"):
            server.post(b'{"x": [[1.0]]}', {"traceparent": f"00-{TRACE}-{PARENT}-{flags}"})
    assert [span.name for span in collector.spans].count("POST /predict") == 1
    assert collector.resource["service.name"] == "gpux"


def test_a_collector_that_does_not_answer_stops_nothing(
    model_file: Find, collector: Collector
) -> None:
    """Whether nothing listens there, or the collector reads and never responds."""
    collector.may_respond.clear()
    with contextlib.ExitStack() as stack:
        servers = []
        for endpoint in ("http://127.0.0.1:1", collector.endpoint):
            variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_BSP_SCHEDULE_DELAY": "50"}
            servers.append(stack.enter_context(serve(model_file("matrix"), **variables)))
        for server in servers:
            with Client(server) as client:
                for _ in range(20):
                    assert client.exchange(post(b'{"x": [[1.0]]}')).status == 200
        assert servers[0].stderr.wait_for(r"gpux\.observability\.tracing: .*\n")
        for server in servers:
            server.process.terminate()
        for server in servers:
            assert server.wait() == 0
            assert server.stdout.text.endswith("Stopped\n")
            assert server.stderr.text.count("\n") <= 1


def test_spans_on_the_console(model_file: Find) -> None:
    with serve(model_file("matrix"), OTEL_TRACES_EXPORTER="console") as server:
        server.post({"x": [[1.0]]})
    assert '"name": "POST /predict"' in server.stdout.text
